from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest
from slng_sidecar.net.timed_send import deliver
from support.streams import Stream, connected

LARGE = 1_000_000


class Sender(Stream):
    """A stream that sends with ``deliver``."""

    async def send(self, size: int) -> None:
        self.writer.write(bytes(size))
        await self.writer.drain()

    async def deliver(self, size: int, seconds: float) -> None:
        await deliver(self.send(size), size, self.writer.transport, seconds)

    async def is_aborted(self, sending: Coroutine[Any, Any, None]) -> bool:
        """Run a delivery that cannot succeed, and return whether the stream is aborted. ``sending`` may raise then."""
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(sending, 5)
        return self.writer.transport.is_closing() and not self.writer.transport.get_write_buffer_size()


async def test_a_small_message_is_sent() -> None:
    async with connected(Sender) as stream:
        await stream.deliver(1000, 0.01)

        assert await stream.peer_reads(10_000) == 1000


async def test_a_peer_that_reads_nothing_is_aborted_in_time() -> None:
    async with connected(Sender) as stream:
        begun = asyncio.get_running_loop().time()
        assert await stream.is_aborted(stream.deliver(LARGE, 0.05))

        assert 0.04 < asyncio.get_running_loop().time() - begun < 2


async def test_a_peer_that_stopped_reading_is_aborted_at_the_next_small_message() -> None:
    async with connected(Sender) as stream:
        stream.writer.write(bytes(LARGE))

        assert await stream.is_aborted(stream.deliver(10, 0.05))


async def test_a_slow_peer_that_goes_on_reading_is_waited_for() -> None:
    async with connected(Sender) as stream:
        seconds = 0.2
        delivering = asyncio.create_task(stream.deliver(LARGE, seconds))
        begun = asyncio.get_running_loop().time()
        read = 0
        while not delivering.done():
            read += await stream.peer_reads(32_768)
            await asyncio.sleep(seconds / 10)  # slowly, but always within the deadline

        await delivering
        assert asyncio.get_running_loop().time() - begun > 2 * seconds
        assert not stream.writer.transport.is_closing()


async def test_a_peer_that_stops_reading_in_the_middle_is_aborted() -> None:
    async with connected(Sender) as stream:
        reading = asyncio.create_task(stream.peer_reads(100_000))

        assert await stream.is_aborted(stream.deliver(LARGE, 0.05))
        assert await reading > 0


async def test_nothing_is_watched_after_a_delivery() -> None:
    async with connected(Sender) as stream:
        delivering = asyncio.create_task(stream.deliver(LARGE, 0.05))
        while not delivering.done():
            await stream.peer_reads(100_000)
        await delivering
        stream.writer.write(bytes(LARGE))  # not sent by ``deliver``, so nothing may abort the connection

        await asyncio.sleep(0.15)
        assert not stream.writer.transport.is_closing()


async def test_a_failed_send_raises_at_once_and_is_not_watched() -> None:
    async def fails() -> None:
        raise OSError("no")

    async with connected(Sender) as stream:
        with pytest.raises(OSError, match="no"):
            await deliver(fails(), LARGE, stream.writer.transport, 0.01)

        await asyncio.sleep(0.05)
        assert not stream.writer.transport.is_closing()


async def test_a_delivery_that_is_cancelled_is_not_watched() -> None:
    async with connected(Sender) as stream:
        delivering = asyncio.create_task(stream.deliver(LARGE, 0.05))
        await asyncio.sleep(0.01)
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering

        await asyncio.sleep(0.15)
        assert not stream.writer.transport.is_closing()
