"""A stream with small buffers whose peer reads only when a test makes it read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import TypeVar

BUFFER = 32_768


class Stream:
    """A stream, and the plain socket of the peer at its other end."""

    def __init__(self, writer: asyncio.StreamWriter, peer: socket.socket) -> None:
        self.writer = writer
        self._peer = peer

    async def peer_reads(self, size: int) -> int:
        """Read at most ``size`` bytes at the other end, and return how many bytes came."""
        return len(await asyncio.get_running_loop().sock_recv(self._peer, size))


S = TypeVar("S", bound=Stream)


@contextlib.asynccontextmanager
async def connected(kind: type[S]) -> AsyncIterator[S]:
    """Open a stream of a kind to a peer. What the peer does not read soon fills the sockets."""
    ours, peer = socket.socketpair()
    for end in (ours, peer):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        end.setblocking(False)
    _, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield kind(writer, peer)
    finally:
        writer.transport.abort()
        peer.close()
        await asyncio.sleep(0)
