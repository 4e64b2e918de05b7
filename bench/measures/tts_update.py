"""TTS update: the voice changes while a text is being spoken."""

from __future__ import annotations

import asyncio
from typing import Any

from pipecat.frames.frames import TTSAudioRawFrame, TTSSpeakFrame, TTSUpdateSettingsFrame
from slng_sidecar.engines import signal

from bench.bots import Side, run_both_sides, running_bot, wait_until_connected
from bench.clients import RATE
from bench.report import Part, Row
from bench.world import World

SPEAKING: dict[str, Any] = {"first_audio_ms": 150, "pace": 4}
"""Route profile: audio comes 150 ms after the text and four times faster than real time."""
UTTERANCE = " ".join(f"n{number}" for number in range(1, 13))
"""A text of about 3 s."""
_NEXT = "n100 n101"
_AFTER_SECONDS = 0.45
_LISTEN_SECONDS = 3.0


async def measure(world: World) -> list[Part]:
    """Send a text of 3 s, change the voice 450 ms later, and send the next text directly after.

    By then upstream has sent about 1200 ms of audio. The change is a ``TTSUpdateSettingsFrame`` between two
    ``TTSSpeakFrame``. All runs of one side take place at the same time.

    * said before the update: the duration of the first text.
    * lost of it: how much of it did not leave the pipeline. Only whole words count as heard.
    * next text to its first audio: from sending the next text until its first audio leaves the pipeline.
    * first audio after the sound before: the same, but from the last audio of the first text if that came later. A
      value below 0 means that there was no audible gap.
    * next words in the new voice: whether the connection that received the next text was opened with the new voice.
    """
    parts = [await _part(world, "600 ms to open (300 + 300)", "600", 300)]
    if not world.quick:
        parts.append(await _part(world, "300 ms to open (150 + 150)", "300", 150))
    return parts


async def _part(world: World, title: str, name: str, each_ms: int) -> Part:
    sides = await run_both_sides(world, f"tts-update-{name}", _run, upgrade_ms=each_ms, ready_ms=each_ms, **SPEAKING)
    rows = [
        Row(what, unit, [r[what] for r in sides[0] if what in r], [r[what] for r in sides[1] if what in r])
        for what, unit in (
            ("said before the update", "ms"),
            ("lost of it", "ms"),
            ("next text to its first audio", "ms"),
            ("first audio after the sound before", "ms"),
            ("next words in the new voice", "runs"),
        )
    ]
    return Part(f"TTS update: {title}", "pipecat-slng", rows)


async def _run(world: World, side: Side, model: str, _index: int) -> dict[str, float]:
    async with running_bot(side.tts(model)) as bot:
        await wait_until_connected()
        await bot.send(TTSSpeakFrame(UTTERANCE))
        await asyncio.sleep(_AFTER_SECONDS)
        await bot.send(TTSUpdateSettingsFrame(delta=side.tts_settings(voice="two")))
        sent = await bot.send(TTSSpeakFrame(_NEXT))
        await asyncio.sleep(_LISTEN_SECONDS)
        audio = bot.output(TTSAudioRawFrame)
    contexts = list(dict.fromkeys(frame.context_id for _, frame in audio))
    first = [(at, frame.audio) for at, frame in audio if frame.context_id == contexts[0]]
    second = [(at, frame.audio) for at, frame in audio if frame.context_id != contexts[0]]
    return await _results(world, model, first, second, sent)


async def _results(
    world: World, model: str, first: list[tuple[float, bytes]], second: list[tuple[float, bytes]], sent: float
) -> dict[str, float]:
    words = signal.words_of_text(UTTERANCE)
    lengths = {word.number: 20 * (signal.frames_of(word.number) + word.gap) for word in words}
    heard = {word.number for word in signal.decode(b"".join(data for _, data in first), RATE) if word.whole}
    last = (await world.wire.connections_to(model))[-1]
    results: dict[str, float] = {
        "said before the update": sum(lengths.values()),
        "lost of it": sum(length for number, length in lengths.items() if number not in heard),
        "next words in the new voice": float(
            any(m.get("voice") == "two" for _, m in last.texts_up)
            and any(m.get("text") == _NEXT for _, m in last.texts_up)
        ),
    }
    if second:
        results["next text to its first audio"] = 1000 * (second[0][0] - sent)
        results["first audio after the sound before"] = 1000 * (second[0][0] - max(sent, first[-1][0]))
    return results
