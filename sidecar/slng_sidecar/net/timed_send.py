"""Sends with a deadline: a peer that accepts nothing is aborted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

# Below asyncio's low-water mark (16 KiB) a transport is never paused, so a send cannot wait.
_NEVER_WAITS = 16_384


async def deliver(sending: Awaitable[None], size: int, transport: asyncio.WriteTransport, seconds: float) -> None:
    """Await ``sending``, and abort ``transport`` if its peer accepts no byte for ``seconds``.

    A slow peer may take any time as long as it goes on reading. After an abort, ``sending`` or the next send or receive
    fails as for any lost connection. A close frame would not help, because it would wait in the same full buffer.

    Args:
        sending: the send, not awaited yet.
        size: the size of the message in bytes, roughly.
        transport: the transport that it is sent on.
        seconds: the longest time without progress.
    """
    waiting = transport.get_write_buffer_size()
    if waiting + size < _NEVER_WAITS:
        await sending
        return
    watchdog = _Watchdog(transport, seconds)
    try:
        await sending
    finally:
        watchdog.cancel()


class _Watchdog:
    """Aborts a transport whose write buffer has not shrunk between two checks."""

    def __init__(self, transport: asyncio.WriteTransport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_soon(self._look, None)

    def cancel(self) -> None:
        self._handle.cancel()

    def _look(self, before: int | None) -> None:
        now = self._transport.get_write_buffer_size()
        if before is not None and now >= before:
            self._transport.abort()
        else:
            self._handle = self._loop.call_later(self._seconds, self._look, now)
