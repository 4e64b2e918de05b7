"""A TCP proxy in front of the simulator: what networks do to a connection, below WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

ENDINGS = ("reset", "stop_reading", "stop_writing", "half_close")
"""What can befall a connection, as its client sees it.

``reset`` is a TCP reset. ``stop_reading`` takes nothing more from the client, whose writes fill up. ``stop_writing``
brings the client nothing more, while all it sends arrives. ``half_close`` ends what comes to the client (a FIN) and
goes on reading.
"""

_PIECE = 16_384
# Pieces on their way in one direction; more hold the sender back.
_MOST_PIECES = 64


class ProxiedConnection:
    """One proxied connection.

    Mutable: how it treats what passes, by ``behave``.
    """

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self._client = client
        self._latency = 0.0
        self._bytes_per_s = 0
        self._slice = 0
        self._reading = asyncio.Event()
        self._writing = asyncio.Event()
        self._reading.set()
        self._writing.set()
        self._half_closed = False

    def behave(self, fault: Mapping[str, Any]) -> None:
        """Change how it behaves from here on.

        Args:
            fault: ``latency_ms``, ``bytes_per_s`` and ``slice_bytes`` hold in both directions, 0 for none; ``then`` is
                one of ``ENDINGS``. What is left out stays as it is.
        """
        self._latency = fault.get("latency_ms", 1000 * self._latency) / 1000
        self._bytes_per_s = fault.get("bytes_per_s", self._bytes_per_s)
        self._slice = fault.get("slice_bytes", self._slice)
        match fault.get("then"):
            case "reset":
                sock = self._client.get_extra_info("socket")
                # A linger time of 0 makes the close a reset.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._client.transport.abort()
            case "stop_reading":
                self._reading.clear()
            case "stop_writing":
                self._writing.clear()
            case "half_close" if not self._half_closed:
                self._half_closed = True
                with contextlib.suppress(OSError):
                    self._client.write_eof()

    async def carry(
        self, client: asyncio.StreamReader, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass everything in both directions until both have ended, or one breaks."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for source, target in ((client, writer), (reader, self._client)):
                    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_PIECES)
                    tasks.create_task(self._take(source, pieces, of_client=source is client), name="proxy: take")
                    tasks.create_task(self._give(pieces, target), name="proxy: give")
        except* OSError:
            pass
        finally:
            for each in (writer, self._client):
                each.transport.abort()

    async def _take(
        self, source: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], *, of_client: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await source.read(self._slice or _PIECE)
            if of_client:
                await self._reading.wait()
            await pieces.put((loop.time() + self._latency, data))
            if not data:
                return

    async def _give(self, pieces: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        to_client = target is self._client
        while True:
            due, data = await pieces.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if to_client:
                await self._writing.wait()
            if not data:
                if not (to_client and self._half_closed):
                    target.write_eof()
                return
            if self._bytes_per_s:
                await asyncio.sleep(len(data) / self._bytes_per_s)
            if not (to_client and self._half_closed):
                target.write(data)
                await target.drain()


class TcpProxy:
    """All connections of a proxy, each known by the local port of its far side."""

    def __init__(self, host: str, port: int) -> None:
        """Pass connections on to an address; ``running`` does it."""
        self._address = host, port
        self._links: dict[int, ProxiedConnection] = {}

    def link(self, port: int) -> ProxiedConnection | None:
        """Give the connection that the far side sees come from a port."""
        return self._links.get(port)

    @contextlib.asynccontextmanager
    async def running(self, sock: socket.socket) -> AsyncIterator[None]:
        """Serve on a listening socket while the block runs; then break off what is open."""
        serving: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                if not stopping:  # asyncio logs what a connection's task is cancelled with
                    raise
            finally:
                serving.discard(task)

        stopping = False
        server = await asyncio.start_server(serve, sock=sock, limit=_PIECE)
        try:
            yield
        finally:
            stopping = True
            server.close()
            for task in tuple(serving):
                task.cancel()
            if serving:
                await asyncio.wait(serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = ProxiedConnection(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._address, limit=_PIECE)
        except OSError:
            writer.transport.abort()
            return
        port = far_writer.get_extra_info("sockname")[1]
        self._links[port] = link
        try:
            await link.carry(reader, far_reader, far_writer)
        finally:
            del self._links[port]
