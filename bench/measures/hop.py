"""Hop: how much time the sidecar adds to each message."""

from __future__ import annotations

import asyncio
from statistics import median

from bench.clients import STT_INIT, TTS_INIT, open_session
from bench.report import Part, Row, percentile
from bench.speech import numbered_speech, send_in_real_time
from bench.world import World


async def measure(world: World) -> list[Part]:
    """Compare a session through the sidecar with a direct one, both at the same time.

    Each session sends 640 bytes every 20 ms, or receives as many. The simulator sends audio in real time, 20 ms a
    message.

    * audio up: from just before the client's ``send`` until the message passed the observer.
    * audio down: from the message passing the observer until the client has received it.
    * the hop adds: the difference of the two medians.
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
    speech = numbered_speech(7, seconds)

    async def run(url: str, name: str, delay: float, *, extended: bool) -> list[float]:
        model = await world.model(name)
        async with open_session(url, "stt", model, STT_INIT, extended=extended) as client:
            await asyncio.sleep(delay)
            sent = await send_in_real_time(speech, client.send)
            await asyncio.sleep(0.2)
            passages = [at for connection in await world.wire.connections_to(model) for at, _ in connection.audio_up]
            return [1000 * (passed - at) for at, passed in zip(sent, passages, strict=True)]

    return await asyncio.gather(
        run(world.sidecar, "hop-up-ours", 0, extended=True), run(world.observed, "hop-up-direct", 0.01, extended=False)
    )


async def _down(world: World, seconds: float) -> tuple[list[float], list[float]]:
    # Words of the signal have 5 to 25 frames of 20 ms, and 15 on average.
    text = " ".join(f"n{number}" for number in range(1, round(seconds / 0.3) + 1))

    async def run(url: str, name: str, delay: float, *, extended: bool) -> list[float]:
        model = await world.model(name, pace=1, chunk_ms=20)
        context = {"context_id": "a"} if extended else {}
        async with open_session(url, "tts", model, TTS_INIT, extended=extended) as client:
            await asyncio.sleep(delay)
            await client.send({"type": "text", **context, "text": text})
            await client.send({"type": "flush", **context})
            await client.until(lambda: client.arrival("audio_end"), 2 * seconds + 5)
            passages = [at for connection in await world.wire.connections_to(model) for at, _ in connection.audio_down]
            return [1000 * (at - passed) for passed, (at, _) in zip(passages, client.audio, strict=True)]

    return await asyncio.gather(
        run(world.sidecar, "hop-down-ours", 0, extended=True),
        run(world.observed, "hop-down-direct", 0.01, extended=False),
    )
