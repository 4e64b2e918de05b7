"""HTTP speech: how far behind upstream's first audio the first byte of it comes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import aiohttp

from bench.clients import WAIT
from bench.report import Part, Row
from bench.world import World, running_sidecar

_WORDS = " ".join(f"n{n}" for n in range(1, 7))
_MANNERS = {"first_audio_ms": 200, "pace": 1.0, "chunk_ms": 20}
_CHUNK = 65_536
_WAV_HEADER = 44
_VOICE = "one"


async def measure(world: World) -> list[Part]:
    """Ask for one text of about 1.5 s at a time, which upstream speaks in real time, from 200 ms after it is asked.

    Over the bridge, upstream's sound passes a relay of ours, which notes when the first of it does; over the WebSocket
    way it passes the observer. Counted is from then until the client has the first byte of sound, of a WAV after its
    header.

    The right column is the whole-body design of ``SlngHttpTTSService`` of ``pipecat-slng`` 0.4.0, through the same
    relay: one POST of text and voice to the bridge, the body read whole, then handed on. That package needs a Pipecat
    that cannot be installed beside this one's, so a client of ours does what it does, with aiohttp as it does.
    """
    times = 3 if world.quick else 10
    async with _relay(world.simulator) as relay, running_sidecar(relay.url) as (sidecar, _):
        bridge = await world.model("http-bridge")
        await world.inject(do="manners", kind="http", model=bridge, times=0, set=_MANNERS)
        streamed = await _over_bridge(relay, times, partial(_first_byte, sidecar, bridge, {"text": _WORDS}))
        whole = await _over_bridge(relay, times, partial(_whole_body, relay.url, bridge))
    websocket = await _over_websocket(world, times)
    title = "HTTP speech: first byte of 1.5 s of speech, spoken in real time"
    rows = [
        Row(
            "behind upstream's first audio, HTTP bridge",
            "ms",
            [a for a, _ in streamed],
            [a for a, _ in whole],
            digits=1,
        ),
        Row("behind upstream's first audio, WebSocket way", "ms", websocket, digits=1),
        Row("from the request, HTTP bridge", "ms", [b for _, b in streamed], [b for _, b in whole], digits=0),
    ]
    return [Part(title, "whole body", rows)]


async def _over_bridge(relay: _Relay, times: int, ask: Callable[[], Awaitable[float]]) -> list[tuple[float, float]]:
    """Give for each request the milliseconds behind upstream's first audio, and those from the request."""
    await ask()  # the first one opens connections and reads certificates
    found: list[tuple[float, float]] = []
    for _ in range(times):
        relay.sounded = None
        asked = time.monotonic()
        at = await ask()
        assert relay.sounded is not None
        found.append((1000 * (at - relay.sounded), 1000 * (at - asked)))
    return found


async def _over_websocket(world: World, times: int) -> list[float]:
    model = await world.model("http-websocket", **_MANNERS)
    # A language is what the HTTP bridge does not take.
    body = {"text": _WORDS, "config": {"language": "en"}}
    at = [await _first_byte(world.sidecar, model, body) for _ in range(times)]
    connections = await world.wire.of(model)
    return [
        1000 * (came - connection.audio_down[0][0]) for came, connection in zip(at, connections, strict=True)
    ]  # fmt: skip


async def _first_byte(url: str, model: str, body: Mapping[str, object]) -> float:
    """Say a text; give when its first sound came, after having read all of it."""
    async with _session() as http, http.post(f"{url}/v1/bridges/unmute/tts/{model}", json=body) as reply:
        reply.raise_for_status()
        size, first = 0, None
        async for data in reply.content.iter_any():
            size += len(data)
            if first is None and size > _WAV_HEADER:
                first = time.monotonic()
    assert first is not None
    assert size > 24_000
    return first


async def _whole_body(url: str, model: str) -> float:
    """Say a text as 0.4.0 does; give when its first sound can be handed on."""
    body = {"text": _WORDS, "voice": _VOICE}
    headers = {"Authorization": "Bearer key-of-the-bench"}
    address = f"{url}/v1/bridges/unmute/tts/{model}"
    async with _session() as http, http.post(address, json=body, headers=headers) as reply:
        reply.raise_for_status()
        assert len(await reply.read()) > 24_000
    return time.monotonic()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT), trust_env=False)


class _Relay:
    """Where the relay listens, and when the first sound of the newest reply passed it."""

    def __init__(self) -> None:
        self.url = ""
        self.sounded: float | None = None


@contextlib.asynccontextmanager
async def _relay(upstream: str) -> AsyncIterator[_Relay]:
    """Pass HTTP on to ``upstream`` while the block runs."""
    host, _, port = upstream.removeprefix("http://").rpartition(":")
    relay = _Relay()
    passing: set[asyncio.Task[None]] = set()

    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
        writer.close()

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            # The body comes in chunks of their own, after the head.
            if relay.sounded is None and not (data.startswith(b"HTTP/1.1") and len(data) < 2 * _WAV_HEADER + 400):
                relay.sounded = time.monotonic()
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        for work in (up(reader, back), down(there, writer)):
            task = asyncio.create_task(work)
            passing.add(task)
            task.add_done_callback(passing.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        for task in tuple(passing):
            task.cancel()
        if passing:
            await asyncio.wait(passing)
