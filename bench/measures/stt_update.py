"""STT update: the language changes in the middle of the speech, or between two sentences."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipecat.frames.frames import STTUpdateSettingsFrame, VADUserStoppedSpeakingFrame
from pipecat.transcriptions.language import Language
from slng_sidecar.engines import signal

from bench.bots import Side, run_both_sides, running_bot, wait_until_connected
from bench.clients import RATE
from bench.report import Part, Row
from bench.speech import (
    FRAME_SECONDS,
    Speech,
    delays,
    numbered_speech,
    send_in_real_time,
    two_sentences,
    word_losses,
)
from bench.world import World

_AT = 0.4
_WINDOW_SECONDS = 3.0
_LAST_WORD_TIMEOUT = 3.0
_STAGGER_SECONDS = 0.15
_PROFILE: dict[str, Any] = {"final_ms": 200}
# The settings change this long after the beginning of the silence between two sentences.
_INTO_SILENCE_SECONDS = 0.3


async def measure(world: World) -> list[Part]:
    """Send about 8 s of speech in real time, 20 ms a message, and change the language after 40 % of it.

    The change is an ``STTUpdateSettingsFrame``. No VAD frame comes before the end of the speech, so the official plugin
    does not postpone its reconnect. All runs of one side take place at the same time, started 150 ms apart. The two
    sides run one after the other. Upstream sends a final 200 ms after 300 ms of silence, like Nova.

    "In silence" is 1.2 s of speech, 1.2 s of silence and 1.5 s of speech. The change comes 0.3 s into the silence.
    Upstream sends no finals by itself there, so all words depend on the one finalize at the end.

    * lost: words of which no upstream connection received any audio, according to the observer.
    * split: words of which no upstream connection received all audio.
    * never transcribed: words that are in no final within 3 s after the end of the speech.
    * speech never transcribed: the duration of those words.
    * late: how long after the bot received it each 20 ms of speech had passed the observer, over the 3 s after the
      update. The rows are the median and the maximum of each run, and the number of messages over 50 ms late.
    * system frames held, maximum: the longest time that an audio frame, a system frame, took through the pipeline in
      those 3 s.
    * update to first audio on the new connection: counted from sending the update.
    """
    silence = [two_sentences(seed) for seed in range(world.runs)]
    with_pauses = [numbered_speech(seed, 5.0 if world.quick else 8.0) for seed in range(world.runs)]
    parts = [
        await _part(world, "in silence: 300 ms to open", "silence", 150, silence, at=None, endpoint_ms=600_000),
        await _part(world, "300 ms to open (150 + 150), speech with pauses", "300", 150, with_pauses),
    ]
    if not world.quick:
        without_pauses = [numbered_speech(seed, 8.0, pauses=False) for seed in range(world.runs)]
        parts.append(await _part(world, "600 ms to open (300 + 300), speech with pauses", "600", 300, with_pauses))
        parts.append(await _part(world, "600 ms to open, speech without a pause", "600-no-pause", 300, without_pauses))
    return parts


async def _part(
    world: World, title: str, name: str, each_ms: int, speeches: list[Speech], at: float | None = _AT, **profile: Any
) -> Part:
    async def run(world: World, side: Side, model: str, index: int) -> _Run:
        await asyncio.sleep(_STAGGER_SECONDS * index)
        return await _run(side, model, speeches[index], at)

    sides = await run_both_sides(
        world, f"stt-update-{name}", run, upgrade_ms=each_ms, ready_ms=each_ms, **{**_PROFILE, **profile}
    )
    # The analysis takes long, so it starts when no run is in progress any more.
    ours, official = [
        [await _results(world, speech, run) for speech, run in zip(speeches, runs, strict=True)] for runs in sides
    ]
    units = {"lost": "words", "split": "words", "never transcribed": "words", "late, over 50 ms": "messages"}
    rows = [
        Row(
            what,
            units.get(what, "ms"),
            [r[what] for r in ours],
            [r[what] for r in official if what in r],
            digits=1 if "late, m" in what or "held" in what else 0,
        )
        for what in ours[0]
    ]
    return Part(f"STT update: {title}", "pipecat-slng", rows)


@dataclass(frozen=True)
class _Run:
    """What the bot of one run recorded.

    Attributes:
        model: the model of the run.
        sent: when each 20 ms of audio were queued.
        transit_ms: how long each of them took through the pipeline, in ms.
        updated: when the update was queued.
        transcribed: the words of the finals.
    """

    model: str
    sent: list[float]
    transit_ms: list[float]
    updated: float
    transcribed: list[str]


async def _run(side: Side, model: str, speech: Speech, at: float | None) -> _Run:
    updated = 0.0
    if at is None:
        at = (silence_start(speech) + _INTO_SILENCE_SECONDS / FRAME_SECONDS) / len(speech.frames)
    async with running_bot(side.stt(model)) as bot:
        await wait_until_connected()

        async def update() -> None:
            nonlocal updated
            updated = await bot.send(STTUpdateSettingsFrame(delta=side.stt_settings(language=Language.DE)))

        sent = await send_in_real_time(speech, bot.send_audio, at=at, act=update)
        await bot.send(VADUserStoppedSpeakingFrame())
        last = f"n{speech.numbers[-1]}"
        with contextlib.suppress(TimeoutError):
            await bot.until(lambda: last in bot.transcribed(), _LAST_WORD_TIMEOUT)
        return _Run(model, sent, bot.transit_ms(sent), updated, bot.transcribed())


async def _results(world: World, speech: Speech, run: _Run) -> dict[str, float]:
    connections = await world.wire.connections_to(run.model)
    losses = word_losses(speech, connections, run.transcribed)

    def is_in_window(at: float) -> bool:
        return run.updated <= at < run.updated + _WINDOW_SECONDS

    late = [ms for at, ms in delays(speech, run.sent, connections) if is_in_window(at)]
    first_audio = [connection.audio_up[0][0] for connection in connections if connection.audio_up]
    results: dict[str, float] = {
        "lost": losses.lost,
        "split": losses.split,
        "never transcribed": losses.not_transcribed,
        "speech never transcribed": not_transcribed_ms(speech, run.transcribed),
        "late, median": median(late),
        "late, maximum": max(late),
        "late, over 50 ms": sum(ms > 50 for ms in late),
        "system frames held, maximum": max(
            ms for at, ms in zip(run.sent, run.transit_ms, strict=False) if is_in_window(at)
        ),
    }
    if len(first_audio) > 1:
        results["update to first audio on the new connection"] = 1000 * (first_audio[1] - run.updated)
    return results


def silence_start(speech: Speech) -> int:
    """Return the index of the first frame of the silence between two sentences."""
    ends = [word.end_ms for word in signal.decode(speech.pcm, RATE)]
    starts = [word.start_ms for word in signal.decode(speech.pcm, RATE)]
    return round(max(zip(ends, starts[1:], strict=False), key=lambda gap: gap[1] - gap[0])[0] / 1000 / FRAME_SECONDS)


def not_transcribed_ms(speech: Speech, transcribed: list[str]) -> float:
    """Return how much of the speech is in no transcript, in ms, without the silence between the words."""
    return sum(20 * word.frames for word in signal.decode(speech.pcm, RATE) if f"n{word.number}" not in transcribed)
