"""STT: the language changes in the middle of the speech, and between two sentences."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipecat.frames.frames import STTUpdateSettingsFrame, VADUserStoppedSpeakingFrame
from pipecat.transcriptions.language import Language
from slng_sidecar.engines import signal

from bench.bots import Side, ready, running_bot, runs_of
from bench.clients import RATE
from bench.report import Part, Row
from bench.speech import FRAME_SECONDS, Speech, fate, lateness, say, speech, two_sentences
from bench.world import World

_AT = 0.4
_WINDOW_SECONDS = 3.0
_TELLS_WITHIN_SECONDS = 3.0
_STAGGER_SECONDS = 0.15
_MANNERS: dict[str, Any] = {"final_ms": 200}
# How much of the silence between two sentences has passed when the settings change.
_INTO_SILENCE_SECONDS = 0.3


async def measure(world: World) -> list[Part]:
    """Speak for some 8 s in real time, 20 ms a message, and change the language after 40 % of it.

    The change is an ``STTUpdateSettingsFrame``, with no VAD frame before the end of the speech (so the official
    plugin's reconnect is not put off). All runs of one side go at once, started 150 ms apart; the two sides go one
    after the other. Upstream finalises after 300 ms of silence, 200 ms later, as Nova does.

    "In silence": 1.2 s of speech, 1.2 s of silence and 1.5 s of speech; the change comes 0.3 s into the silence.
    Upstream finalises nothing by itself there, so that all that was said waits for the one finalize at the end.

    * lost, split: words of which no upstream connection got any sound, or none all of it (from the observer's notes).
    * never transcribed: words (ms of speech) in no final that came to the client within 3 s of the end.
    * late: when the last byte of each 20 ms of speech passed the observer, less when the bot was given it; over the 3 s
      from the update on; for each run its median and its maximum; and how many of those were over 50 ms late.
    * held: how long the longest-held audio frame, a system frame, took through the pipeline in those 3 s.
    * new connection: from sending the update to the first audio on another connection.
    """
    silence = [two_sentences(seed) for seed in range(world.runs)]
    talks = [speech(seed, 5.0 if world.quick else 8.0) for seed in range(world.runs)]
    parts = [
        await _part(world, "in silence: 300 ms to open", "silence", 150, silence, at=None, endpoint_ms=600_000),
        await _part(world, "300 ms to open (150 + 150), speech with pauses", "300", 150, talks),
    ]
    if not world.quick:
        hasty = [speech(seed, 8.0, pauses=False) for seed in range(world.runs)]
        parts.append(await _part(world, "600 ms to open (300 + 300), speech with pauses", "600", 300, talks))
        parts.append(await _part(world, "600 ms to open, speech without a pause", "600-no-pause", 300, hasty))
    return parts


async def _part(
    world: World, title: str, name: str, each_ms: int, talks: list[Speech], at: float | None = _AT, **manners: Any
) -> Part:
    async def run(world: World, side: Side, model: str, index: int) -> _Run:
        await asyncio.sleep(_STAGGER_SECONDS * index)
        return await _run(side, model, talks[index], at)

    sides = await runs_of(
        world, f"stt-update-{name}", run, upgrade_ms=each_ms, ready_ms=each_ms, **{**_MANNERS, **manners}
    )
    # Looked at once no run is under way any more, as that takes long.
    ours, theirs = [[await _found(world, *of) for of in zip(talks, runs, strict=True)] for runs in sides]
    units = {"lost": "words", "split": "words", "never transcribed": "words", "late, over 50 ms": "messages"}
    rows = [
        Row(
            what,
            units.get(what, "ms"),
            [r[what] for r in ours],
            [r[what] for r in theirs if what in r],
            digits=1 if "late, m" in what or "held" in what else 0,
        )
        for what in ours[0]
    ]
    return Part(f"STT update: {title}", "pipecat-slng", rows)


@dataclass(frozen=True)
class _Run:
    """What one run knows of itself.

    Attributes:
        sent: when each 20 ms were given to the bot.
        held: how long each was on its way through the pipeline.
        updated: when the settings changed.
    """

    model: str
    sent: list[float]
    held: list[float]
    updated: float
    transcribed: list[str]


async def _run(side: Side, model: str, said: Speech, at: float | None) -> _Run:
    updated = 0.0
    if at is None:
        at = (silence_of(said) + _INTO_SILENCE_SECONDS / FRAME_SECONDS) / len(said.frames)
    async with running_bot(side.stt(model)) as bot:
        await ready()

        async def update() -> None:
            nonlocal updated
            updated = await bot.send(STTUpdateSettingsFrame(delta=side.stt_settings(language=Language.DE)))

        sent = await say(said, bot.hear, at=at, act=update)
        await bot.send(VADUserStoppedSpeakingFrame())
        last = f"n{said.numbers[-1]}"
        with contextlib.suppress(TimeoutError):
            await bot.until(lambda: last in bot.transcribed(), _TELLS_WITHIN_SECONDS)
        return _Run(model, sent, bot.held(sent), updated, bot.transcribed())


async def _found(world: World, said: Speech, run: _Run) -> dict[str, float]:
    connections = await world.wire.of(run.model)
    became = fate(said, connections, run.transcribed)

    def soon(at: float) -> bool:
        return run.updated <= at < run.updated + _WINDOW_SECONDS

    late = [ms for at, ms in lateness(said, run.sent, connections) if soon(at)]
    heard_on = [connection.audio_up[0][0] for connection in connections if connection.audio_up]
    found: dict[str, float] = {
        "lost": became.lost,
        "split": became.split,
        "never transcribed": became.untold,
        "speech never transcribed": untold_ms(said, run.transcribed),
        "late, median": median(late),
        "late, maximum": max(late),
        "late, over 50 ms": sum(ms > 50 for ms in late),
        "system frames held, maximum": max(ms for at, ms in zip(run.sent, run.held, strict=False) if soon(at)),
    }
    if len(heard_on) > 1:
        found["update to first audio on the new connection"] = 1000 * (heard_on[1] - run.updated)
    return found


def silence_of(said: Speech) -> int:
    """Give the first frame of the silence between two sentences."""
    ends = [word.end_ms for word in signal.decode(said.pcm, RATE)]
    starts = [word.start_ms for word in signal.decode(said.pcm, RATE)]
    return round(max(zip(ends, starts[1:], strict=False), key=lambda gap: gap[1] - gap[0])[0] / 1000 / FRAME_SECONDS)


def untold_ms(said: Speech, transcribed: list[str]) -> float:
    """Give how much of the speech is in no transcript, in ms, without the silence between the words."""
    return sum(20 * word.frames for word in signal.decode(said.pcm, RATE) if f"n{word.number}" not in transcribed)
