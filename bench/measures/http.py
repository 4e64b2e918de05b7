"""HTTP speech: how long after upstream's first audio the client receives its first byte."""

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
_PROFILE = {"first_audio_ms": 200, "pace": 1.0, "chunk_ms": 20}
_CHUNK = 65_536
_WAV_HEADER = 44
_VOICE = "one"


async def measure(world: World) -> list[Part]:
    """Request 1.5 s of speech at a time. Upstream sends it in real time, starting 200 ms after the request.

    Over the HTTP bridge, upstream's audio passes a relay that records when the first of it passes. Over the WebSocket
    way, it passes the observer. The time is counted from then until the client has received the first byte of audio. In
    a WAV, that is the first byte after the header.

    The right column is the whole-body design of ``SlngHttpTTSService`` of ``pipecat-slng`` 0.4.0 through the same
    relay: it sends text and voice to the bridge in one POST, and reads the whole body before it passes any audio on.
    That package needs a version of Pipecat that cannot be installed beside the current one. A client in this module
    therefore does the same with aiohttp, as the package does.

    * behind upstream's first audio: as described above.
    * from the request: from sending the request until the first byte of audio.
    """
    times = 3 if world.quick else 10
    async with _relay(world.simulator) as relay, running_sidecar(relay.url) as (sidecar, _):
        bridge = await world.model("http-bridge")
        await world.inject(do="profile", kind="http", model=bridge, times=0, set=_PROFILE)
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


async def _over_bridge(relay: _Relay, times: int, request: Callable[[], Awaitable[float]]) -> list[tuple[float, float]]:
    """Return for each request the milliseconds after upstream's first audio, and those after the request.

    Args:
        relay: the relay that the requests pass.
        times: how many requests to make.
        request: makes a request and returns when the client has received the first audio.
    """
    await request()  # the first request takes longer, because it opens connections and loads certificates
    results: list[tuple[float, float]] = []
    for _ in range(times):
        relay.first_audio_at = None
        start = time.monotonic()
        at = await request()
        assert relay.first_audio_at is not None
        results.append((1000 * (at - relay.first_audio_at), 1000 * (at - start)))
    return results


async def _over_websocket(world: World, times: int) -> list[float]:
    model = await world.model("http-websocket", **_PROFILE)
    # The HTTP bridge does not support a language, so the sidecar uses a WebSocket for this request.
    body = {"text": _WORDS, "config": {"language": "en"}}
    at = [await _first_byte(world.sidecar, model, body) for _ in range(times)]
    connections = await world.wire.connections_to(model)
    return [
        1000 * (received - connection.audio_down[0][0]) for received, connection in zip(at, connections, strict=True)
    ]  # fmt: skip


async def _first_byte(url: str, model: str, body: Mapping[str, object]) -> float:
    """Request the speech of a text, read all of it, and return when the first byte of audio came."""
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
    """Request the speech of a text like 0.4.0 does, and return when its audio can be passed on."""
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
    """The state of the relay.

    Attributes:
        url: the address of the relay.
        first_audio_at: when the first audio of the newest reply passed; None until it has.
    """

    def __init__(self) -> None:
        self.url = ""
        self.first_audio_at: float | None = None


@contextlib.asynccontextmanager
async def _relay(upstream: str) -> AsyncIterator[_Relay]:
    """Forward HTTP to ``upstream`` while the block runs."""
    host, _, port = upstream.removeprefix("http://").rpartition(":")
    relay = _Relay()
    forwarding: set[asyncio.Task[None]] = set()

    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
        writer.close()

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            # The first chunk may contain only the HTTP head and a WAV header, which do not count as audio.
            if relay.first_audio_at is None and not (
                data.startswith(b"HTTP/1.1") and len(data) < 2 * _WAV_HEADER + 400
            ):
                relay.first_audio_at = time.monotonic()
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        for work in (up(reader, back), down(there, writer)):
            task = asyncio.create_task(work)
            forwarding.add(task)
            task.add_done_callback(forwarding.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        for task in tuple(forwarding):
            task.cancel()
        if forwarding:
            await asyncio.wait(forwarding)
