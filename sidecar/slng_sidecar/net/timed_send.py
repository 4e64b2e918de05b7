"""Sending with an end: a peer that accepts nothing is aborted, not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

# Below asyncio's low-water mark (16 KiB of a 64 KiB high-water mark) a transport is never paused, so no send can wait.
_NEVER_WAITS = 16_384


async def deliver(sending: Awaitable[None], size: int, transport: asyncio.WriteTransport, seconds: float) -> None:
    """Await ``sending``, and abort ``transport`` when its peer takes not a byte for ``seconds``.

    A slow peer is waited for as long as it goes on reading. After an abort the connection is lost: ``sending``, or what
    is sent or read next, fails as it then does.
    A closing graceful to a stuck peer would hang as well, since the close frame goes to the same full buffer.

    Args:
        size: bytes of the message, roughly.
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
    """Aborts a transport whose write buffer has not shrunk between two looks at it."""

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
