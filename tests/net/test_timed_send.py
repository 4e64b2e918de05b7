from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from slng_sidecar.net.timed_send import deliver

LARGE = 1_000_000


class Pair:
    """A stream, and the plain socket of the peer at its other end, which reads only when a test makes it."""

    def __init__(self, writer: asyncio.StreamWriter, peer: socket.socket) -> None:
        self.writer = writer
        self.peer = peer

    async def send(self, size: int) -> None:
        self.writer.write(bytes(size))
        await self.writer.drain()

    async def deliver(self, size: int, seconds: float) -> None:
        await deliver(self.send(size), size, self.writer.transport, seconds)

    async def is_aborted(self, sending: Coroutine[Any, Any, None]) -> bool:
        """Run a delivery that cannot be; whether ``sending`` raises then is the stream's affair."""
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(sending, 5)
        return self.writer.transport.is_closing() and not self.writer.transport.get_write_buffer_size()

    async def peer_reads(self, size: int) -> int:
        loop = asyncio.get_running_loop()
        return len(await loop.sock_recv(self.peer, size))


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    ours, peer = socket.socketpair()
    for end in (ours, peer):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        end.setblocking(False)
    _, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        yield Pair(writer, peer)
    finally:
        peer.close()
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_small_message_is_just_sent() -> None:
    async with connected() as pair:
        await pair.deliver(1000, 0.01)

        assert await pair.peer_reads(10_000) == 1000


async def test_a_peer_that_reads_nothing_is_aborted_in_time() -> None:
    async with connected() as pair:
        begun = asyncio.get_running_loop().time()
        assert await pair.is_aborted(pair.deliver(LARGE, 0.05))

        assert 0.04 < asyncio.get_running_loop().time() - begun < 2


async def test_a_peer_that_stopped_before_is_aborted_by_the_next_small_message() -> None:
    async with connected() as pair:
        pair.writer.write(bytes(LARGE))

        assert await pair.is_aborted(pair.deliver(10, 0.05))


async def test_a_slow_peer_that_goes_on_reading_is_waited_for() -> None:
    async with connected() as pair:
        seconds = 0.2
        delivering = asyncio.create_task(pair.deliver(LARGE, seconds))
        begun = asyncio.get_running_loop().time()
        read = 0
        while not delivering.done():
            read += await pair.peer_reads(32_768)
            await asyncio.sleep(seconds / 10)  # slowly, but always within the deadline

        await delivering
        assert asyncio.get_running_loop().time() - begun > 2 * seconds
        assert not pair.writer.transport.is_closing()


async def test_a_peer_that_stops_in_the_middle_is_aborted() -> None:
    async with connected() as pair:
        reading = asyncio.create_task(pair.peer_reads(100_000))

        assert await pair.is_aborted(pair.deliver(LARGE, 0.05))
        assert await reading > 0


async def test_after_a_delivery_nothing_watches_any_more() -> None:
    async with connected() as pair:
        delivering = asyncio.create_task(pair.deliver(LARGE, 0.05))
        while not delivering.done():
            await pair.peer_reads(100_000)
        await delivering
        pair.writer.write(bytes(LARGE))  # not delivered by us: nobody may abort it

        await asyncio.sleep(0.15)
        assert not pair.writer.transport.is_closing()


async def test_a_sending_that_fails_fails_at_once_and_is_not_watched() -> None:
    async def fails() -> None:
        raise OSError("no")

    async with connected() as pair:
        with pytest.raises(OSError, match="no"):
            await deliver(fails(), LARGE, pair.writer.transport, 0.01)

        await asyncio.sleep(0.05)
        assert not pair.writer.transport.is_closing()


async def test_a_delivery_that_is_cancelled_is_not_watched() -> None:
    async with connected() as pair:
        delivering = asyncio.create_task(pair.deliver(LARGE, 0.05))
        await asyncio.sleep(0.01)
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering

        await asyncio.sleep(0.15)
        assert not pair.writer.transport.is_closing()
