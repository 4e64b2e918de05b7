"""Pipeline: its start, its behaviour without a gateway, and how long it waits for a slow first byte."""

from __future__ import annotations

import asyncio
import socket

from pipecat.frames.frames import InputAudioRawFrame, TTSSpeakFrame

from bench.bots import OFFICIAL, Side, ours, redirect_official, run_both_sides, running_bot, wait_until_connected
from bench.measures.interruption import heard_ms
from bench.measures.tts_update import SPEAKING
from bench.report import Part, Row
from bench.speech import numbered_speech, send_in_real_time
from bench.world import World, running_sidecar

_ONE_SECOND = " ".join(f"n{number}" for number in range(1, 5))
_SLOW_MS = 3500
_DOWN_SECONDS = 2.0


async def measure(world: World) -> list[Part]:
    """Measure the start of a pipeline, a slow first byte and an unreachable gateway.

    * STT and TTS pipeline start: until the StartFrame has passed an STT and a TTS service. The connection of each takes
      300 ms to open. One run takes place at a time.
    * heard of speech with a first byte after 3.5 s: how much of about 1 s of speech left the pipeline.

    The tables "Gateway down" send 2 s of audio in real time. Nothing listens at the address that the official plugin
    connects to. This project's plugin runs once without a sidecar and once with a sidecar that cannot reach upstream.

    * ErrorFrames: how many were pushed in these 2 s.
    * audio passed through: the share of the audio that left the pipeline.
    """
    our_starts, other_starts = [await _starts(world, side) for side in (ours(world.sidecar), OFFICIAL)]
    our_slow, other_slow = await run_both_sides(
        world, "slow", _slow, upgrade_ms=150, ready_ms=150, **{**SPEAKING, "first_audio_ms": _SLOW_MS}
    )  # fmt: skip
    rows = [
        Row("STT and TTS pipeline start", "ms", our_starts, other_starts, digits=1),
        Row("heard of speech with a first byte after 3.5 s", "ms", our_slow, other_slow),
    ]
    return [Part("Pipeline: 300 ms to open", "pipecat-slng", rows), *await _down(world)]


async def _starts(world: World, side: Side) -> list[float]:
    starts = []
    for index in range(world.runs):
        models = [
            await world.model(f"start-{kind}-{side.name}-{index}", upgrade_ms=150, ready_ms=150)
            for kind in ("stt", "tts")
        ]
        async with running_bot(side.stt(models[0]), side.tts(models[1])) as bot:
            starts.append(bot.start_ms)
    return starts


async def _slow(_world: World, side: Side, model: str, _index: int) -> float:
    async with running_bot(side.tts(model)) as bot:
        await wait_until_connected()
        await bot.send(TTSSpeakFrame(_ONE_SECOND))
        await asyncio.sleep(_SLOW_MS / 1000 + 2)
        return heard_ms(bot, _ONE_SECOND)


async def _down(world: World) -> list[Part]:
    unused_address = f"http://127.0.0.1:{_free_port()}"
    redirect_official(unused_address)
    try:
        official = await asyncio.gather(*(_without_gateway(OFFICIAL) for _ in range(world.runs)))
    finally:
        redirect_official(world.observed)
    no_sidecar = await asyncio.gather(*(_without_gateway(ours(unused_address)) for _ in range(world.runs)))
    async with running_sidecar(unused_address) as (sidecar, _):
        no_upstream = await asyncio.gather(*(_without_gateway(ours(sidecar)) for _ in range(world.runs)))
    parts = []
    for title, our_runs in (("no sidecar", no_sidecar), ("a sidecar without upstream", no_upstream)):
        rows = [
            Row("ErrorFrames", f"in {_DOWN_SECONDS:.0f} s", [e for e, _ in our_runs], [e for e, _ in official]),
            Row("audio passed through", "%", [100 * p for _, p in our_runs], [100 * p for _, p in official]),
        ]
        parts.append(Part(f"Gateway down: {title}", "pipecat-slng", rows))
    return parts


async def _without_gateway(side: Side) -> tuple[float, float]:
    async with running_bot(side.stt("slng/simulator/signal:down")) as bot:
        speech = numbered_speech(1, _DOWN_SECONDS)
        await send_in_real_time(speech, bot.send_audio)
        passed = len(bot.output(InputAudioRawFrame)) / len(speech.frames)
        return float(len(bot.errors())), passed


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
