"""TTS: how long a text takes to reach upstream."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from pipecat.frames.frames import TTSSpeakFrame, TTSStoppedFrame

from bench.bots import OFFICIAL, Bot, Side, ours, ready, running_bot
from bench.clients import TTS_INIT, Client, talking
from bench.report import Part, Row
from bench.world import World

_REST_SECONDS = 0.2


async def measure(world: World) -> list[Part]:
    """Say one short word at a time on a session that is ready and at rest, each 200 ms after the end of the one before.

    Counted from before a ``TTSSpeakFrame`` is queued to the ``text`` passing the observer. Without a pipeline: from the
    ``send`` of a client of the sidecar, and of one of the simulator, which is the least there can be here.
    """
    times = 5 if world.quick else 20
    mine, theirs = [await _bot(world, side, times) for side in (ours(world.sidecar), OFFICIAL)]
    through = await _client(world, world.sidecar, "text-up-ours", times, extended=True)
    direct = await _client(world, world.observed, "text-up-direct", times, extended=False)
    rows = [
        Row("text to upstream", "ms", mine, theirs, digits=2),
        Row("the same, without a pipeline", "ms", through, direct, digits=2),
    ]
    return [Part("TTS text to upstream", "pipecat-slng", rows)]


async def _client(world: World, url: str, name: str, times: int, *, extended: bool) -> list[float]:
    model = await world.model(name)
    sent = []
    async with talking(url, "tts", model, TTS_INIT, extended=extended) as client:
        for index in range(times):
            await asyncio.sleep(_REST_SECONDS)
            context = {"context_id": f"c{index}"} if extended else {}
            sent.append(await client.send({"type": "text", **context, "text": f"n{index}"}))
            await client.send({"type": "flush", **context})
            await client.until(partial(_ends, client, index + 1))
    return await _found(world, model, sent)


async def _bot(world: World, side: Side, times: int) -> list[float]:
    model = await world.model(f"text-up-bot-{side.name}")
    sent = []
    async with running_bot(side.tts(model)) as bot:
        await ready()
        for index in range(times):
            await asyncio.sleep(_REST_SECONDS)
            sent.append(await bot.send(TTSSpeakFrame(f"n{index}")))
            await bot.until(partial(_stops, bot, index + 1))
    return await _found(world, model, sent)


def _ends(client: Client, count: int) -> bool:
    return len([message for _, message in client.messages if message.get("type") == "audio_end"]) == count


def _stops(bot: Bot, count: int) -> bool:
    return len(bot.out(TTSStoppedFrame)) == count


async def _found(world: World, model: str, sent: list[float]) -> list[float]:
    arrived = deque(at for c in await world.wire.of(model) for at in c.arrived("text"))
    return [1000 * (there - at) for at, there in zip(sent, arrived, strict=True)]
