"""A TCP proxy in front of the simulator, for what networks do to a connection below its WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

ENDINGS = ("reset", "stop_reading", "stop_writing", "half_close")
"""What can happen to a connection, as its client sees it.

``reset`` is a TCP reset. ``stop_reading`` reads nothing more from the client, whose send buffer fills up.
``stop_writing`` sends the client nothing more, but everything that it sends still arrives. ``half_close`` ends the
stream to the client (a FIN) and goes on reading.
"""

_PIECE = 16_384
# How many pieces may be on their way in one direction before the sender is held back.
_MOST_PIECES = 64


class ProxiedConnection:
    """One proxied connection.

    Mutable: all of its behaviour, by ``behave``.
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
        """Change its behaviour from now on.

        Args:
            fault: ``latency_ms``, ``bytes_per_s`` and ``slice_bytes`` apply in both directions, 0 for no limit;
                ``then`` is one of ``ENDINGS``. Missing fields change nothing.
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
        """Pass data in both directions until both have ended, or one breaks."""
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
    """A proxy. Each of its connections is known by the local port of its far side."""

    def __init__(self, host: str, port: int) -> None:
        """Create a proxy for connections to an address. ``running`` serves it."""
        self._address = host, port
        self._connections: dict[int, ProxiedConnection] = {}

    def connection(self, port: int) -> ProxiedConnection | None:
        """Return the connection that the far side sees coming from a port."""
        return self._connections.get(port)

    @contextlib.asynccontextmanager
    async def running(self, sock: socket.socket) -> AsyncIterator[None]:
        """Serve on a listening socket while the block runs, and then abort the open connections."""
        serving: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                if not stopping:  # asyncio would log the cancellation of a connection's task
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
        connection = ProxiedConnection(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._address, limit=_PIECE)
        except OSError:
            writer.transport.abort()
            return
        port = far_writer.get_extra_info("sockname")[1]
        self._connections[port] = connection
        try:
            await connection.carry(reader, far_reader, far_writer)
        finally:
            del self._connections[port]
