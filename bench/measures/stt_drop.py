"""STT drop: upstream drops the connection in the middle of the speech."""

from __future__ import annotations

import contextlib

from pipecat.frames.frames import TranscriptionFrame, VADUserStoppedSpeakingFrame

from bench.bots import Side, run_both_sides, running_bot, wait_until_connected
from bench.report import Part, Row
from bench.speech import Speech, numbered_speech, send_in_real_time, word_losses
from bench.world import World

_DROP_AFTER_MS = 2500
_LAST_WORD_TIMEOUT = 5.0


async def measure(world: World) -> list[Part]:
    """Send about 8 s of speech in real time. Upstream aborts its TCP connection after 2.5 s of audio.

    Opening a connection takes 150 + 150 ms. A ``VADUserStoppedSpeakingFrame`` follows the speech. The run then waits up
    to 5 s for the last word. All runs of one side take place at the same time.

    * words said: how many words the speech has.
    * never transcribed: words that are in no final.
    * split: words that were transcribed as a fragment.
    * transcripts after the drop: finals with text that came after the drop.
    * connections: how many upstream connections were opened in all.
    """
    seconds = 6.0 if world.quick else 8.0
    speeches = [numbered_speech(100 + seed, seconds) for seed in range(world.runs)]

    async def run(world: World, side: Side, model: str, index: int) -> dict[str, float]:
        await world.inject(do="drop", kind="stt", when="audio", model=model, connection=1, after_ms=_DROP_AFTER_MS)
        return await _run(world, side, model, speeches[index])

    sides = await run_both_sides(world, "stt-drop", run, final_ms=200, upgrade_ms=150, ready_ms=150)
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


async def _run(world: World, side: Side, model: str, speech: Speech) -> dict[str, float]:
    async with running_bot(side.stt(model)) as bot:
        await wait_until_connected()
        await send_in_real_time(speech, bot.send_audio)
        await bot.send(VADUserStoppedSpeakingFrame())
        last = f"n{speech.numbers[-1]}"
        with contextlib.suppress(TimeoutError):
            await bot.until(lambda: last in bot.transcribed(), _LAST_WORD_TIMEOUT)
        return await _results(world, model, speech, [at for at, _ in bot.output(TranscriptionFrame)], bot.transcribed())


async def _results(
    world: World, model: str, speech: Speech, finals: list[float], transcribed: list[str]
) -> dict[str, float]:
    connections = await world.wire.connections_to(model)
    dropped_at = connections[0].audio_up[-1][0]
    return {
        "words said": len(speech.numbers),
        "never transcribed": word_losses(speech, connections, transcribed).not_transcribed,
        "split": sum(word.startswith("frag") for word in transcribed),
        "transcripts after the drop": sum(at > dropped_at for at in finals),
        "connections": len(connections),
    }
