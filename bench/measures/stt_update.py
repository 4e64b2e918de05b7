"""STT: the language changes in the middle of the speech."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame, STTUpdateSettingsFrame, VADUserStoppedSpeakingFrame
from pipecat.transcriptions.language import Language
from pipecat_slng import SlngSTTService

from bench.clients import RATE, STT_INIT, talking
from bench.official import running_bot, stt_service
from bench.report import Part, Row
from bench.speech import Speech, fate, lateness, say, speech
from bench.world import World

_AT = 0.4
_WINDOW_SECONDS = 3.0
_TELLS_WITHIN_SECONDS = 3.0
_MANNERS: dict[str, Any] = {"final_ms": 200}


async def measure(world: World) -> list[Part]:
    """Speak for some 8 s in real time, 20 ms a message, and change the language after 40 % of it.

    Ours is the extended dialect's ``update``, the official one's an ``STTUpdateSettingsFrame``, with no VAD frame
    before the end of the speech (so its reconnect is not put off). All runs of one side go at once, started 150 ms
    apart; the two sides go one after the other. Upstream finalises after 300 ms of silence, 200 ms later, as Nova
    does.

    * lost, split: words of which no upstream connection got any sound, or none all of it (from the observer's notes).
    * never transcribed: words in no final that came to the client within 3 s of the end.
    * late: when the last byte of each 20 ms of speech passed the observer, less when the client began to send it; over
      the 3 s from the update on; for each run its median and its maximum; and how many of those were over 50 ms late.
    * new connection: from sending the update to the first audio on another connection.
    """
    parts = [await _part(world, "600 ms to open (300 + 300), speech with pauses", "600", 300, pauses=True)]
    if not world.quick:
        parts.append(await _part(world, "300 ms to open (150 + 150), speech with pauses", "300", 150, pauses=True))
        parts.append(await _part(world, "600 ms to open, speech without a pause", "600-no-pause", 300, pauses=False))
    return parts


async def _part(world: World, title: str, name: str, each_ms: int, *, pauses: bool) -> Part:
    seconds = 5.0 if world.quick else 8.0
    talks = [speech(seed, seconds, pauses=pauses) for seed in range(world.runs)]
    sides = []
    for side, run in (("ours", _ours), ("official", _official)):
        models = [
            await world.model(f"stt-update-{name}-{side}-{i}", upgrade_ms=each_ms, ready_ms=each_ms, **_MANNERS)
            for i in range(len(talks))
        ]
        starts = [asyncio.create_task(_later(0.15 * i, run, world, models[i], said)) for i, said in enumerate(talks)]
        runs = await asyncio.gather(*starts)
        # Looked at once no run is under way any more, as that takes long.
        sides.append([await _found(world, *of) for of in zip(models, talks, runs, strict=True)])
    ours, theirs = sides
    units = {"lost": "words", "split": "words", "never transcribed": "words", "late, over 50 ms": "messages"}
    rows = [
        Row(
            what,
            units.get(what, "ms"),
            [r[what] for r in ours],
            [r[what] for r in theirs if what in r],
            digits=1 if "late, m" in what else 0,
        )
        for what in ours[0]
    ]
    return Part(f"STT update: {title}", "pipecat-slng", rows)


@dataclass(frozen=True)
class _Run:
    """What one run knows of itself: when each 20 ms were sent, when the update was, and the words it was told."""

    sent: list[float]
    updated: float
    transcribed: list[str]


async def _later(delay: float, run: Callable[[World, str, Speech], Awaitable[_Run]], *given: Any) -> _Run:
    await asyncio.sleep(delay)
    return await run(*given)


async def _ours(world: World, model: str, said: Speech) -> _Run:
    updated = 0.0
    async with talking(world.sidecar, "stt", model, STT_INIT, extended=True) as client:

        async def update() -> None:
            nonlocal updated
            updated = await client.send({"type": "update", "id": "u", "config": {"language": "de"}})

        sent = await say(said, client.send, at=_AT, act=update)
        await client.send({"type": "finalize", "id": "f"})
        await client.send({"type": "close"})
        with contextlib.suppress(TimeoutError):
            await client.until(lambda: client.closed, _TELLS_WITHIN_SECONDS)
        return _Run(sent, updated, client.transcribed())


async def _official(world: World, model: str, said: Speech) -> _Run:
    updated = 0.0
    async with running_bot(stt_service(model)) as bot:
        await asyncio.sleep(1)  # it is ready then; it says so to nobody

        async def send(data: bytes) -> float:
            return await bot.send(InputAudioRawFrame(audio=data, sample_rate=RATE, num_channels=1))

        async def update() -> None:
            nonlocal updated
            delta = SlngSTTService.Settings(language=Language.DE)
            updated = await bot.send(STTUpdateSettingsFrame(delta=delta))

        sent = await say(said, send, at=_AT, act=update)
        await bot.send(VADUserStoppedSpeakingFrame())
        last = f"n{said.numbers[-1]}"
        with contextlib.suppress(TimeoutError):
            await bot.until(lambda: last in bot.transcribed(), _TELLS_WITHIN_SECONDS)
        return _Run(sent, updated, bot.transcribed())


async def _found(world: World, model: str, said: Speech, run: _Run) -> dict[str, float]:
    connections = await world.wire.of(model)
    became = fate(said, connections, run.transcribed)
    late = [ms for at, ms in lateness(said, run.sent, connections) if run.updated <= at < run.updated + _WINDOW_SECONDS]
    heard_on = [connection.audio_up[0][0] for connection in connections if connection.audio_up]
    found: dict[str, float] = {
        "lost": became.lost,
        "split": became.split,
        "never transcribed": became.untold,
        "late, median": median(late),
        "late, maximum": max(late),
        "late, over 50 ms": sum(ms > 50 for ms in late),
    }
    if len(heard_on) > 1:
        found["update to first audio on the new connection"] = 1000 * (heard_on[1] - run.updated)
    return found
