"""STT: upstream drops in the middle of the speech."""

from __future__ import annotations

import asyncio
import contextlib

from pipecat.frames.frames import InputAudioRawFrame, TranscriptionFrame, VADUserStoppedSpeakingFrame

from bench.clients import RATE, STT_INIT, talking
from bench.official import running_bot, stt_service
from bench.report import Part, Row
from bench.speech import Speech, fate, say, speech
from bench.world import World

_DROP_AFTER_MS = 2500
_TELLS_WITHIN_SECONDS = 5.0


async def measure(world: World) -> list[Part]:
    """Speak for some 8 s in real time; upstream's TCP connection is aborted once it has heard 2.5 s.

    Opening takes 300 + 300 ms. A finalize (for the official plugin, ``VADUserStoppedSpeakingFrame``) follows the
    speech, and 5 s are waited for the last word. All runs of one side go at once.

    * never transcribed: words in no final that came to the client until then; split: words that came as a fragment.
    * transcripts after the drop: finals with text that came later than the drop.
    * connections: how many were made in all.
    """
    seconds = 6.0 if world.quick else 8.0
    talks = [speech(100 + seed, seconds) for seed in range(world.runs)]
    sides = []
    for side, run in (("ours", _ours), ("official", _official)):
        models = [await world.model(f"stt-drop-{side}-{i}", final_ms=200) for i in range(len(talks))]
        for model in models:
            await world.inject(do="drop", kind="stt", when="audio", model=model, connection=1, after_ms=_DROP_AFTER_MS)
        sides.append(
            await asyncio.gather(*(run(world, model, said) for model, said in zip(models, talks, strict=True)))
        )
    rows = [
        Row(what, unit, [run[what] for run in sides[0]], [run[what] for run in sides[1]])
        for what, unit in (
            ("words said", "words"),
            ("never transcribed", "words"),
            ("split", "words"),
            ("transcripts after the drop", "finals"),
            ("connections", ""),
        )
    ]
    return [Part("STT, upstream dropped under audio: 600 ms to open", "pipecat-slng", rows)]


async def _ours(world: World, model: str, said: Speech) -> dict[str, float]:
    async with talking(world.sidecar, "stt", model, STT_INIT, extended=True) as client:
        await say(said, client.send)
        await client.send({"type": "finalize", "id": "f"})
        await client.send({"type": "close"})
        with contextlib.suppress(TimeoutError):
            await client.until(lambda: client.closed, _TELLS_WITHIN_SECONDS)
        finals = [at for at, m in client.messages if m.get("type") == "final_transcript" and m["transcript"]]
        return await _found(world, model, said, finals, client.transcribed())


async def _official(world: World, model: str, said: Speech) -> dict[str, float]:
    async with running_bot(stt_service(model)) as bot:
        await asyncio.sleep(1)  # it is ready then; it says so to nobody

        async def send(data: bytes) -> float:
            return await bot.send(InputAudioRawFrame(audio=data, sample_rate=RATE, num_channels=1))

        await say(said, send)
        await bot.send(VADUserStoppedSpeakingFrame())
        last = f"n{said.numbers[-1]}"
        with contextlib.suppress(TimeoutError):
            await bot.until(lambda: last in bot.transcribed(), _TELLS_WITHIN_SECONDS)
        return await _found(world, model, said, [at for at, _ in bot.out(TranscriptionFrame)], bot.transcribed())


async def _found(
    world: World, model: str, said: Speech, finals: list[float], transcribed: list[str]
) -> dict[str, float]:
    connections = await world.wire.of(model)
    dropped = connections[0].audio_up[-1][0]
    return {
        "words said": len(said.numbers),
        "never transcribed": fate(said, connections, transcribed).untold,
        "split": sum(word.startswith("frag") for word in transcribed),
        "transcripts after the drop": sum(at > dropped for at in finals),
        "connections": len(connections),
    }
