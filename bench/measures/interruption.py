"""TTS: the user interrupts, and the bot answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal as signals

from pipecat.frames.frames import InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame
from slng_sidecar.engines import signal

from bench.bots import OFFICIAL, Bot, Side, ours, ready, running_bot, runs_of
from bench.clients import RATE
from bench.measures.tts_update import SPEAKING, UTTERANCE
from bench.report import Part, Row
from bench.world import World

_NEXT = "n100 n101"
_IMPORTANT = " ".join(f"n{number}" for number in range(200, 204))
_AFTER_SECONDS = 0.45
_WITHIN_SECONDS = 3.0
_FROZEN_SECONDS = 2.5
_CLEAR_MS = 400


async def measure(world: World) -> list[Part]:
    """Interrupt 3 s of speech 450 ms after its text was sent, and have the next text said right behind.

    Upstream sends four times faster than real time, goes on until it has acknowledged the ``clear`` and takes 400 ms
    for that (300 to 500 were recorded). One bot at a time, but for the uninterruptible speech.

    * held: from queueing the ``InterruptionFrame`` until it leaves the pipeline, which is when the output falls silent.
    * stale: sound of the interrupted utterance that left after it.
    * next text: from sending it to its first sound.
    * with a frozen upstream: the simulator's process is stopped (SIGSTOP) just before the interruption.
    * uninterruptible: a ``TTSSpeakFrame`` that may not be interrupted stood behind what was; how much of it was heard.
    """
    parts = []
    for each_ms in (150,) if world.quick else (150, 300):
        sides = await runs_of(
            world, f"interruption-{each_ms}", _interrupted,
            at_once=False, clear_ms=_CLEAR_MS, upgrade_ms=each_ms, ready_ms=each_ms, **SPEAKING,
        )  # fmt: skip
        rows = [
            Row(
                what, "ms", [r[what] for r in sides[0] if what in r], [r[what] for r in sides[1] if what in r], digits=1
            )
            for what in ("InterruptionFrame held", "stale audio after it", "next text to its first audio")
        ]
        if each_ms == 150:
            mine, theirs = [await _frozen(world, side) for side in (ours(world.sidecar), OFFICIAL)]
            rows.insert(1, Row("held, with a frozen upstream", "ms", mine, theirs, digits=1))
            mine, theirs = await runs_of(
                world, "uninterruptible", _uninterruptible,
                clear_ms=_CLEAR_MS, upgrade_ms=each_ms, ready_ms=each_ms, **SPEAKING,
            )  # fmt: skip
            due = _milliseconds(_IMPORTANT)
            rows.append(Row("uninterruptible speech behind it", "ms", [due] * world.runs, [due] * world.runs))
            rows.append(Row("heard of that", "ms", mine, theirs))
        parts.append(Part(f"TTS interruption: {2 * each_ms} ms to open, 400 ms to clear", "pipecat-slng", rows))
    return parts


async def _interrupted(_world: World, side: Side, model: str, _index: int) -> dict[str, float]:
    async with running_bot(side.tts(model)) as bot:
        await ready()
        await bot.send(TTSSpeakFrame(UTTERANCE))
        await asyncio.sleep(_AFTER_SECONDS)
        interrupted = await bot.send(InterruptionFrame())
        sent = await bot.send(TTSSpeakFrame(_NEXT))
        await asyncio.sleep(_WITHIN_SECONDS)
        sound, left = bot.out(TTSAudioRawFrame), bot.out(InterruptionFrame)
    if not left or not sound:
        return {}
    first = sound[0][1].context_id
    stale = sum(len(frame.audio) for at, frame in sound if frame.context_id == first and at > left[0][0])
    found = {
        "InterruptionFrame held": 1000 * (left[0][0] - interrupted),
        "stale audio after it": stale / RATE * 500,
    }
    new = [at for at, frame in sound if frame.context_id != first]
    if new:
        found["next text to its first audio"] = 1000 * (new[0] - sent)
    return found


async def _frozen(world: World, side: Side) -> list[float]:
    """Interrupt while upstream is stopped; one run after the other, since that stops it for all."""
    held = []
    for index in range(world.runs):
        model = await world.model(f"frozen-{side.name}-{index}", upgrade_ms=150, ready_ms=150, **SPEAKING)
        async with running_bot(side.tts(model)) as bot:
            await ready()
            await bot.send(TTSSpeakFrame(UTTERANCE))
            await asyncio.sleep(_AFTER_SECONDS)
            os.kill(world.simulator_pid, signals.SIGSTOP)
            try:
                interrupted = await bot.send(InterruptionFrame())
                with contextlib.suppress(TimeoutError):
                    await bot.until(lambda: bot.out(InterruptionFrame), _FROZEN_SECONDS)
                left = bot.out(InterruptionFrame)
                held.append(1000 * ((left[0][0] - interrupted) if left else _FROZEN_SECONDS))
            finally:
                os.kill(world.simulator_pid, signals.SIGCONT)
    return held


async def _uninterruptible(_world: World, side: Side, model: str, _index: int) -> float:
    async with running_bot(side.tts(model)) as bot:
        await ready()
        await bot.send(TTSSpeakFrame(UTTERANCE))
        important = TTSSpeakFrame(_IMPORTANT)
        important.interruptible = False
        await bot.send(important)
        await asyncio.sleep(_AFTER_SECONDS)
        await bot.send(InterruptionFrame())
        await asyncio.sleep(_WITHIN_SECONDS)
        return heard_of(bot, _IMPORTANT)


def heard_of(bot: Bot, text: str) -> float:
    """Give how much of a text was heard, in ms, counted in its whole words."""
    sound = b"".join(frame.audio for _, frame in bot.out(TTSAudioRawFrame))
    heard = {word.number for word in signal.decode(sound, RATE) if word.whole}
    return sum(20 * (signal.frames_of(w.number) + w.gap) for w in signal.words_of_text(text) if w.number in heard)


def _milliseconds(text: str) -> float:
    return sum(20 * (signal.frames_of(word.number) + word.gap) for word in signal.words_of_text(text))
