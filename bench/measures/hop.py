"""The hop: what the sidecar adds to each message on its way."""

from __future__ import annotations

import asyncio
from statistics import median

from bench.clients import STT_INIT, TTS_INIT, talking
from bench.report import Part, Row, percentile
from bench.speech import say, speech
from bench.world import World


async def measure(world: World) -> list[Part]:
    """Send 640 bytes every 20 ms, and receive as many, with one session through the sidecar and one straight, together.

    Up: from before the client's ``send`` until the message passed the observer. Down: from the message passing the
    observer until the client has it (the simulator speaks in real time, 20 ms a message). The middle column is the
    time through the sidecar, the right one without it; what the hop adds is the difference.
    """
    seconds = 3.0 if world.quick else 8.0
    up, down = await _up(world, seconds), await _down(world, seconds)
    rows = []
    for what, (ours, direct) in (("audio up", up), ("audio down", down)):
        rows += [
            Row(f"{what}, median", "ms", [median(ours)], [median(direct)], digits=3),
            Row(f"{what}, p99", "ms", [percentile(ours, 0.99)], [percentile(direct, 0.99)], digits=3),
            Row(f"{what}, the hop adds (median)", "ms", [median(ours) - median(direct)], digits=3),
        ]
    return [Part(f"Hop: one session, {len(up[0])} messages up and {len(down[0])} down", "direct", rows)]


async def _up(world: World, seconds: float) -> tuple[list[float], list[float]]:
    said = speech(7, seconds)

    async def run(url: str, name: str, delay: float, *, extended: bool) -> list[float]:
        model = await world.model(name)
        async with talking(url, "stt", model, STT_INIT, extended=extended) as client:
            await asyncio.sleep(delay)
            sent = await say(said, client.send)
            await asyncio.sleep(0.2)
            arrived = [at for connection in await world.wire.of(model) for at, _ in connection.audio_up]
            return [1000 * (there - at) for at, there in zip(sent, arrived, strict=True)]

    return await asyncio.gather(
        run(world.sidecar, "hop-up-ours", 0, extended=True), run(world.observed, "hop-up-direct", 0.01, extended=False)
    )


async def _down(world: World, seconds: float) -> tuple[list[float], list[float]]:
    # Words of the signal have 5 to 25 frames of 20 ms, 15 in the middle.
    text = " ".join(f"n{number}" for number in range(1, round(seconds / 0.3) + 1))

    async def run(url: str, name: str, delay: float, *, extended: bool) -> list[float]:
        model = await world.model(name, pace=1, chunk_ms=20)
        context = {"context_id": "a"} if extended else {}
        async with talking(url, "tts", model, TTS_INIT, extended=extended) as client:
            await asyncio.sleep(delay)
            await client.send({"type": "text", **context, "text": text})
            await client.send({"type": "flush", **context})
            await client.until(lambda: client.came("audio_end"), 2 * seconds + 5)
            left = [at for connection in await world.wire.of(model) for at, _ in connection.audio_down]
            return [1000 * (at - there) for there, (at, _) in zip(left, client.audio, strict=True)]

    return await asyncio.gather(
        run(world.sidecar, "hop-down-ours", 0, extended=True),
        run(world.observed, "hop-down-direct", 0.01, extended=False),
    )
