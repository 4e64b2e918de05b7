"""The stall guard, with a peer that reads only when a test makes it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from pipecat_slng_sidecar import stall_guard
from pipecat_slng_sidecar.stall_guard import StallGuard
from support.streams import Stream, connected

SECONDS = 0.2
MESSAGE = bytes(8000)


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_guard, "SEND_TIMEOUT", SECONDS)
    monkeypatch.setattr(stall_guard, "_CLOSE_TIMEOUT", SECONDS)


class Sender(Stream):
    """A stream with the interface of a WebSocket connection."""

    @property
    def transport(self) -> asyncio.Transport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport

    async def send(self, message: str | bytes) -> None:
        self.writer.write(message.encode() if isinstance(message, str) else message)
        await self.writer.drain()

    async def wait_lost(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def waiting(stream: Sender) -> int:
    return stream.transport.get_write_buffer_size()


async def test_a_send_to_a_peer_that_reads_nothing_is_aborted_at_the_timeout() -> None:
    async with connected(Sender) as stream:
        began = asyncio.get_running_loop().time()
        with StallGuard(stream) as guard, contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                while not stream.transport.is_closing():
                    await guard.send(MESSAGE)
        assert guard.is_stalled
        assert asyncio.get_running_loop().time() - began >= SECONDS


async def test_buffered_bytes_are_watched_even_if_no_send_waits_for_them() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as guard:
            while not waiting(stream):
                await guard.send(MESSAGE)
            async with asyncio.timeout(5):
                await stream.wait_lost()
        assert guard.is_stalled


@pytest.mark.parametrize("waits", [True, False], ids=["a send waits", "no send waits"])
async def test_a_slow_peer_that_keeps_reading_is_not_aborted(waits: bool) -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as guard:
            while waiting(stream) < 3 * len(MESSAGE):  # less than half of the size at which a send waits
                await guard.send(MESSAGE)
            end = asyncio.get_running_loop().time() + 4 * SECONDS
            sizes = set()
            while asyncio.get_running_loop().time() < end:
                task = asyncio.create_task(guard.send(bytes(200_000) if waits else MESSAGE))
                # Without a waiting send, as much is sent as is read, so the size of the buffer shows no progress.
                while not task.done():
                    await stream.peer_reads(8000)
                    await asyncio.sleep(SECONDS / 20)
                await task
                sizes.add(waiting(stream) > 0)
        assert not guard.is_stalled
        assert waits or sizes == {True}


async def test_buffered_data_is_dropped_at_the_end_of_the_block() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as guard:
            while not waiting(stream):
                await guard.send(MESSAGE)
            assert not stream.transport.is_closing()
        async with asyncio.timeout(SECONDS):
            await stream.wait_lost()
        assert not guard.is_stalled


async def test_a_close_without_an_answer_is_cut_off() -> None:
    async with connected(Sender) as stream:
        with StallGuard(stream) as guard:
            await guard.send("close")
        while not waiting(stream):
            stream.transport.write(MESSAGE)
        stream.transport.close()  # waits until the buffer is sent
        async with asyncio.timeout(5):
            await stream.wait_lost()
