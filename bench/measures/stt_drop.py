"""STT: upstream drops in the middle of the speech."""

from __future__ import annotations

import contextlib

from pipecat.frames.frames import TranscriptionFrame, VADUserStoppedSpeakingFrame

from bench.bots import Side, ready, running_bot, runs_of
from bench.report import Part, Row
from bench.speech import Speech, fate, say, speech
from bench.world import World

_DROP_AFTER_MS = 2500
_TELLS_WITHIN_SECONDS = 5.0


async def measure(world: World) -> list[Part]:
    """Speak for some 8 s in real time; upstream's TCP connection is aborted once it has heard 2.5 s.

    Opening takes 150 + 150 ms. A ``VADUserStoppedSpeakingFrame`` follows the speech, and 5 s are
    waited for the last word. All runs of one side go at once.

    * never transcribed: words in no final that came to the client until then; split: words that came as a fragment.
    * transcripts after the drop: finals with text that came later than the drop.
    * connections: how many were made in all.
    """
    seconds = 6.0 if world.quick else 8.0
    talks = [speech(100 + seed, seconds) for seed in range(world.runs)]

    async def run(world: World, side: Side, model: str, index: int) -> dict[str, float]:
        await world.inject(do="drop", kind="stt", when="audio", model=model, connection=1, after_ms=_DROP_AFTER_MS)
        return await _run(world, side, model, talks[index])

    sides = await runs_of(world, "stt-drop", run, final_ms=200, upgrade_ms=150, ready_ms=150)
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
    return [Part("STT, upstream dropped under audio: 300 ms to open", "pipecat-slng", rows)]


async def _run(world: World, side: Side, model: str, said: Speech) -> dict[str, float]:
    async with running_bot(side.stt(model)) as bot:
        await ready()
        await say(said, bot.hear)
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
