"""TTS interruption: the user interrupts, and the bot answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals

from pipecat.frames.frames import InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame
from slng_sidecar.engines import signal

from bench.bots import OFFICIAL, Bot, Side, ours, run_both_sides, running_bot, wait_until_connected
from bench.clients import RATE
from bench.measures.tts_update import SPEAKING, UTTERANCE
from bench.report import Part, Row
from bench.world import World

_NEXT = "n100 n101"
_IMPORTANT = " ".join(f"n{number}" for number in range(200, 204))
_AFTER_SECONDS = 0.45
_LISTEN_SECONDS = 3.0
_FROZEN_SECONDS = 2.5
_CLEAR_MS = 400


async def measure(world: World) -> list[Part]:
    """Interrupt 3 s of speech 450 ms after its text was sent, and send the next text directly after.

    Upstream sends audio four times faster than real time. It continues until it has acknowledged the ``clear``, which
    takes 400 ms (300 to 500 ms were recorded with SLNG). One bot runs at a time, except for the uninterruptible speech.

    * InterruptionFrame held: from queueing the frame until it leaves the pipeline, which silences the output.
    * held, with a frozen upstream: the same, but the simulator's process is stopped (SIGSTOP) just before.
    * stale audio after it: audio of the interrupted text that left the pipeline after the frame.
    * next text to its first audio: from sending the next text until its first audio leaves the pipeline.
    * uninterruptible speech behind it: the duration of a ``TTSSpeakFrame`` that must not be interrupted and was queued
      after the interrupted one.
    * heard of that: how much of it left the pipeline.
    """
    parts = []
    for each_ms in (150,) if world.quick else (150, 300):
        sides = await run_both_sides(
            world, f"interruption-{each_ms}", _interrupted,
            concurrent=False, clear_ms=_CLEAR_MS, upgrade_ms=each_ms, ready_ms=each_ms, **SPEAKING,
        )  # fmt: skip
        rows = [
            Row(
                what, "ms", [r[what] for r in sides[0] if what in r], [r[what] for r in sides[1] if what in r], digits=1
            )
            for what in ("InterruptionFrame held", "stale audio after it", "next text to its first audio")
        ]
        if each_ms == 150:
            our_runs, other_runs = [await _frozen(world, side) for side in (ours(world.sidecar), OFFICIAL)]
            rows.insert(1, Row("held, with a frozen upstream", "ms", our_runs, other_runs, digits=1))
            our_runs, other_runs = await run_both_sides(
                world, "uninterruptible", _uninterruptible,
                clear_ms=_CLEAR_MS, upgrade_ms=each_ms, ready_ms=each_ms, **SPEAKING,
            )  # fmt: skip
            expected = _duration_ms(_IMPORTANT)
            rows.append(Row("uninterruptible speech behind it", "ms", [expected] * world.runs, [expected] * world.runs))
            rows.append(Row("heard of that", "ms", our_runs, other_runs))
        parts.append(Part(f"TTS interruption: {2 * each_ms} ms to open, 400 ms to clear", "pipecat-slng", rows))
    return parts


async def _interrupted(_world: World, side: Side, model: str, _index: int) -> dict[str, float]:
    async with running_bot(side.tts(model)) as bot:
        await wait_until_connected()
        await bot.send(TTSSpeakFrame(UTTERANCE))
        await asyncio.sleep(_AFTER_SECONDS)
        interrupted = await bot.send(InterruptionFrame())
        sent = await bot.send(TTSSpeakFrame(_NEXT))
        await asyncio.sleep(_LISTEN_SECONDS)
        audio, interruptions = bot.output(TTSAudioRawFrame), bot.output(InterruptionFrame)
    if not interruptions or not audio:
        return {}
    first, passed = audio[0][1].context_id, interruptions[0][0]
    stale = sum(len(frame.audio) for at, frame in audio if frame.context_id == first and at > passed)
    results = {
        "InterruptionFrame held": 1000 * (passed - interrupted),
        "stale audio after it": stale / RATE * 500,
    }
    new = [at for at, frame in audio if frame.context_id != first]
    if new:
        results["next text to its first audio"] = 1000 * (new[0] - sent)
    return results


async def _frozen(world: World, side: Side) -> list[float]:
    """Interrupt while upstream is stopped, one run at a time, because all runs share upstream."""
    held = []
    for index in range(world.runs):
        model = await world.model(f"frozen-{side.name}-{index}", upgrade_ms=150, ready_ms=150, **SPEAKING)
        async with running_bot(side.tts(model)) as bot:
            await wait_until_connected()
            await bot.send(TTSSpeakFrame(UTTERANCE))
            await asyncio.sleep(_AFTER_SECONDS)
            os.kill(world.simulator_pid, signals.SIGSTOP)
            try:
                interrupted = await bot.send(InterruptionFrame())
                with contextlib.suppress(TimeoutError):
                    await bot.until(lambda: bot.output(InterruptionFrame), _FROZEN_SECONDS)
                passed = bot.output(InterruptionFrame)
                held.append(1000 * ((passed[0][0] - interrupted) if passed else _FROZEN_SECONDS))
            finally:
                os.kill(world.simulator_pid, signals.SIGCONT)
    return held


async def _uninterruptible(_world: World, side: Side, model: str, _index: int) -> float:
    async with running_bot(side.tts(model)) as bot:
        await wait_until_connected()
        await bot.send(TTSSpeakFrame(UTTERANCE))
        important = TTSSpeakFrame(_IMPORTANT)
        important.interruptible = False
        await bot.send(important)
        await asyncio.sleep(_AFTER_SECONDS)
        await bot.send(InterruptionFrame())
        await asyncio.sleep(_LISTEN_SECONDS)
        return heard_ms(bot, _IMPORTANT)


def heard_ms(bot: Bot, text: str) -> float:
    """Return how much of a text left the pipeline, in ms. Only whole words count."""
    pcm = b"".join(frame.audio for _, frame in bot.output(TTSAudioRawFrame))
    heard = {word.number for word in signal.decode(pcm, RATE) if word.whole}
    return sum(20 * (signal.frames_of(w.number) + w.gap) for w in signal.words_of_text(text) if w.number in heard)


def _duration_ms(text: str) -> float:
    return sum(20 * (signal.frames_of(word.number) + word.gap) for word in signal.words_of_text(text))
