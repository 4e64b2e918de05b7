"""TTS: the user interrupts, and the bot answers."""

from __future__ import annotations

import asyncio
import contextlib

from pipecat.frames.frames import InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame

from bench.clients import RATE, TTS_INIT, talking
from bench.measures.tts_update import SPEAKING, UTTERANCE
from bench.official import running_bot, tts_service
from bench.report import Part, Row
from bench.world import World

_NEXT = "n100 n101"
_AFTER_SECONDS = 0.45
_WITHIN_SECONDS = 4.0
_CLEAR_MS = 400


async def measure(world: World) -> list[Part]:
    """Interrupt 3 s of speech 450 ms after its text was sent, and have the next text said right behind.

    Upstream sends four times faster than real time, goes on until it has acknowledged the ``clear`` and takes 400 ms
    for that (300 to 500 were recorded); opening takes 300 + 300 ms. All runs of one side go at once.

    * acknowledged: from sending ``clear`` to ``cleared``; for the official plugin, from queueing the
      ``InterruptionFrame`` until it leaves the pipeline, which is when the output falls silent.
    * stale: sound of the interrupted utterance that came after that.
    * next text: from sending it to its first sound.
    """
    sides = []
    for side, run in (("ours", _ours), ("official", _official)):
        models = [
            await world.model(f"interruption-{side}-{i}", clear_ms=_CLEAR_MS, **SPEAKING) for i in range(world.runs)
        ]
        sides.append(await asyncio.gather(*(run(world, model) for model in models)))
    rows = [
        Row(what, "ms", [r[what] for r in sides[0] if what in r], [r[what] for r in sides[1] if what in r], digits=1)
        for what in ("interruption acknowledged", "stale audio after it", "next text to its first audio")
    ]
    return [Part("TTS interruption: 600 ms to open, 400 ms to clear", "pipecat-slng", rows)]


async def _ours(world: World, model: str) -> dict[str, float]:
    async with talking(world.sidecar, "tts", model, TTS_INIT, extended=True) as client:
        await client.send({"type": "text", "context_id": "a", "text": UTTERANCE})
        await client.send({"type": "flush", "context_id": "a"})
        await asyncio.sleep(_AFTER_SECONDS)
        interrupted = await client.send({"type": "clear", "context_id": "a"})
        sent = await client.send({"type": "text", "context_id": "b", "text": _NEXT})
        await client.send({"type": "flush", "context_id": "b"})
        with contextlib.suppress(TimeoutError):
            await client.until(lambda: client.came("audio_end", context_id="b"), _WITHIN_SECONDS)
    cleared = client.came("cleared", context_id="a")
    if cleared is None:
        return {}
    old = [(at, data) for name, sound in client.labelled.items() if name != "b" for at, data in sound]
    return _found(interrupted, cleared, sent, old, client.labelled.get("b", []))


async def _official(world: World, model: str) -> dict[str, float]:
    async with running_bot(tts_service(model)) as bot:
        await asyncio.sleep(1)  # it is ready then; it says so to nobody
        await bot.send(TTSSpeakFrame(UTTERANCE))
        await asyncio.sleep(_AFTER_SECONDS)
        interrupted = await bot.send(InterruptionFrame())
        sent = await bot.send(TTSSpeakFrame(_NEXT))
        await asyncio.sleep(_WITHIN_SECONDS - 1)
        sound, left = bot.out(TTSAudioRawFrame), bot.out(InterruptionFrame)
    if not left or not sound:
        return {}
    first = sound[0][1].context_id
    old = [(at, frame.audio) for at, frame in sound if frame.context_id == first]
    new = [(at, frame.audio) for at, frame in sound if frame.context_id != first]
    return _found(interrupted, left[0][0], sent, old, new)


def _found(
    interrupted: float, cleared: float, sent: float, old: list[tuple[float, bytes]], new: list[tuple[float, bytes]]
) -> dict[str, float]:
    stale = sum(len(data) for at, data in old if at > cleared)
    found = {"interruption acknowledged": 1000 * (cleared - interrupted), "stale audio after it": stale / RATE * 500}
    if new:
        found["next text to its first audio"] = 1000 * (new[0][0] - sent)
    return found
