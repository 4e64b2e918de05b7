"""TTS text: how long a text takes to reach upstream."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from pipecat.frames.frames import TTSSpeakFrame, TTSStoppedFrame

from bench.bots import OFFICIAL, Bot, Side, ours, running_bot, wait_until_connected
from bench.clients import TTS_INIT, Client, open_session
from bench.report import Part, Row
from bench.world import World

_IDLE_SECONDS = 0.2


async def measure(world: World) -> list[Part]:
    """Send one short word at a time on an idle session, each 200 ms after the end of the word before.

    * text to upstream: from just before a ``TTSSpeakFrame`` is queued until the ``text`` passes the observer.
    * the same, without a pipeline: from the ``send`` of a client until then. The client of the right column connects
      directly to the simulator, so its time is the minimum here.
    """
    times = 5 if world.quick else 20
    our_bot, official_bot = [await _bot(world, side, times) for side in (ours(world.sidecar), OFFICIAL)]
    through = await _client(world, world.sidecar, "text-up-ours", times, extended=True)
    direct = await _client(world, world.observed, "text-up-direct", times, extended=False)
    rows = [
        Row("text to upstream", "ms", our_bot, official_bot, digits=2),
        Row("the same, without a pipeline", "ms", through, direct, digits=2),
    ]
    return [Part("TTS text to upstream", "pipecat-slng", rows)]


async def _client(world: World, url: str, name: str, times: int, *, extended: bool) -> list[float]:
    model = await world.model(name)
    sent = []
    async with open_session(url, "tts", model, TTS_INIT, extended=extended) as client:
        for index in range(times):
            await asyncio.sleep(_IDLE_SECONDS)
            context = {"context_id": f"c{index}"} if extended else {}
            sent.append(await client.send({"type": "text", **context, "text": f"n{index}"}))
            await client.send({"type": "flush", **context})
            await client.until(partial(_has_ended, client, index + 1))
    return await _times_to_upstream(world, model, sent)


async def _bot(world: World, side: Side, times: int) -> list[float]:
    model = await world.model(f"text-up-bot-{side.name}")
    sent = []
    async with running_bot(side.tts(model)) as bot:
        await wait_until_connected()
        for index in range(times):
            await asyncio.sleep(_IDLE_SECONDS)
            sent.append(await bot.send(TTSSpeakFrame(f"n{index}")))
            await bot.until(partial(_has_stopped, bot, index + 1))
    return await _times_to_upstream(world, model, sent)


def _has_ended(client: Client, count: int) -> bool:
    return len([message for _, message in client.messages if message.get("type") == "audio_end"]) == count


def _has_stopped(bot: Bot, count: int) -> bool:
    return len(bot.output(TTSStoppedFrame)) == count


async def _times_to_upstream(world: World, model: str, sent: list[float]) -> list[float]:
    arrivals = deque(at for c in await world.wire.connections_to(model) for at in c.arrivals("text"))
    return [1000 * (passed - at) for at, passed in zip(sent, arrivals, strict=True)]
