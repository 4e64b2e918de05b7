"""A pipeline's start, its life without a gateway, and its patience."""

from __future__ import annotations

import asyncio
import socket

from pipecat.frames.frames import InputAudioRawFrame, TTSSpeakFrame

from bench.bots import OFFICIAL, Side, ours, point_at, ready, running_bot, runs_of
from bench.measures.interruption import heard_of
from bench.measures.tts_update import SPEAKING
from bench.report import Part, Row
from bench.speech import say, speech
from bench.world import World, running_sidecar

_SECOND = " ".join(f"n{number}" for number in range(1, 5))
_SLOW_MS = 3500
_DOWN_SECONDS = 2.0


async def measure(world: World) -> list[Part]:
    """Measure what does not depend on what is said.

    * start: until the StartFrame has passed an STT and a TTS service, with 300 ms to open each; one run at a time.
    * gateway down: 2 s of audio in real time, with nothing listening where the official plugin dials; ours once with no
      sidecar, and once with a sidecar that has no upstream. ErrorFrames a second, and the share of the audio that came
      through the pipeline.
    * slow first byte: about 1 s of speech whose first sound comes after 3.5 s; how much was heard.
    """
    my_starts, their_starts = [await _starts(world, side) for side in (ours(world.sidecar), OFFICIAL)]
    my_slow, their_slow = await runs_of(
        world, "slow", _slow, upgrade_ms=150, ready_ms=150, **{**SPEAKING, "first_audio_ms": _SLOW_MS}
    )  # fmt: skip
    rows = [
        Row("STT and TTS pipeline start", "ms", my_starts, their_starts, digits=1),
        Row("heard of speech with a first byte after 3.5 s", "ms", my_slow, their_slow),
    ]
    return [Part("Pipeline: 300 ms to open", "pipecat-slng", rows), *await _down(world)]


async def _starts(world: World, side: Side) -> list[float]:
    found = []
    for index in range(world.runs):
        models = [
            await world.model(f"start-{kind}-{side.name}-{index}", upgrade_ms=150, ready_ms=150)
            for kind in ("stt", "tts")
        ]
        async with running_bot(side.stt(models[0]), side.tts(models[1])) as bot:
            found.append(bot.start_ms)
    return found


async def _slow(_world: World, side: Side, model: str, _index: int) -> float:
    async with running_bot(side.tts(model)) as bot:
        await ready()
        await bot.send(TTSSpeakFrame(_SECOND))
        await asyncio.sleep(_SLOW_MS / 1000 + 2)
        return heard_of(bot, _SECOND)


async def _down(world: World) -> list[Part]:
    nobody = f"http://127.0.0.1:{_free_port()}"
    point_at(nobody)
    try:
        theirs = await asyncio.gather(*(_without(OFFICIAL) for _ in range(world.runs)))
    finally:
        point_at(world.observed)
    no_sidecar = await asyncio.gather(*(_without(ours(nobody)) for _ in range(world.runs)))
    async with running_sidecar(nobody) as (sidecar, _):
        no_upstream = await asyncio.gather(*(_without(ours(sidecar)) for _ in range(world.runs)))
    parts = []
    for title, mine in (("no sidecar", no_sidecar), ("a sidecar without upstream", no_upstream)):
        rows = [
            Row("ErrorFrames", f"in {_DOWN_SECONDS:.0f} s", [e for e, _ in mine], [e for e, _ in theirs]),
            Row("audio passed through", "%", [100 * p for _, p in mine], [100 * p for _, p in theirs]),
        ]
        parts.append(Part(f"Gateway down: {title}", "pipecat-slng", rows))
    return parts


async def _without(side: Side) -> tuple[float, float]:
    async with running_bot(side.stt("slng/simulator/signal:down")) as bot:
        said = speech(1, _DOWN_SECONDS)
        await say(said, bot.hear)
        passed = len(bot.out(InputAudioRawFrame)) / len(said.frames)
        return float(len(bot.errors())), passed


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
