"""The guard of outgoing messages, with a peer that reads only when a test makes it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from pipecat_slng_sidecar import stall_guard as sending
from pipecat_slng_sidecar.stall_guard import StallGuard
from support.streams import Stream, connected

SECONDS = 0.2
MESSAGE = bytes(8000)


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SEND_TIMEOUT", SECONDS)
    monkeypatch.setattr(sending, "_CLOSE_TIMEOUT", SECONDS)


class Sender(Stream):
    """A stream that sends as a WebSocket does."""

    @property
    def transport(self) -> asyncio.Transport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport

    async def send(self, message: str | bytes) -> None:
        self.writer.write(message.encode() if isinstance(message, str) else message)
        await self.writer.drain()

    async def lost(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def waiting(stream: Sender) -> int:
    return stream.transport.get_write_buffer_size()


async def test_a_send_to_a_peer_that_reads_nothing_ends_in_time() -> None:
    async with connected(Sender) as stream:
        began = asyncio.get_running_loop().time()
        with StallGuard(stream) as outgoing, contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                while not stream.transport.is_closing():
                    await outgoing.send(MESSAGE)
        assert outgoing.stuck
        assert asyncio.get_running_loop().time() - began >= SECONDS


async def test_bytes_that_no_send_waits_for_are_watched_too() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as outgoing:
            while not waiting(stream):
                await outgoing.send(MESSAGE)
            async with asyncio.timeout(5):
                await stream.lost()
        assert outgoing.stuck


@pytest.mark.parametrize("waits", [True, False], ids=["a send waits", "no send waits"])
async def test_a_slow_peer_that_goes_on_reading_is_waited_for(waits: bool) -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as outgoing:
            while waiting(stream) < 3 * len(MESSAGE):  # less than half of the amount at which a send waits
                await outgoing.send(MESSAGE)
            end = asyncio.get_running_loop().time() + 4 * SECONDS
            sizes = set()
            while asyncio.get_running_loop().time() < end:
                task = asyncio.create_task(outgoing.send(bytes(200_000) if waits else MESSAGE))
                # If as much is sent as is read, the amount that waits stays the same.
                while not task.done():
                    await stream.peer_reads(8000)
                    await asyncio.sleep(SECONDS / 20)
                await task
                sizes.add(waiting(stream) > 0)
        assert not outgoing.stuck
        assert waits or sizes == {True}


async def test_bytes_that_still_wait_at_the_end_are_dropped() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as outgoing:
            while not waiting(stream):
                await outgoing.send(MESSAGE)
            assert not stream.transport.is_closing()
        async with asyncio.timeout(SECONDS):
            await stream.lost()
        assert not outgoing.stuck


async def test_a_close_that_nobody_answers_is_cut_off() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as outgoing:
            await outgoing.send("close")
        while not waiting(stream):
            stream.transport.write(MESSAGE)
        stream.transport.close()  # it waits until everything is sent
        async with asyncio.timeout(5):
            await stream.lost()
