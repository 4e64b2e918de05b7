"""Sends messages and aborts the connection if the sidecar accepts no data for too long."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

SEND_TIMEOUT = 10.0
"""Seconds that the sidecar may accept no data while some is waiting: twice its own ``SIDECAR_SEND_TIMEOUT`` (5 s).

If upstream is stuck, the sidecar stops reading from the plugin until its own timeout, which must come first.
"""

_CHECKS = 5
# Longer than the wait for the answer to a close (``connection``), shorter than Pipecat's wait for a task to end (1 s).
_CLOSE_TIMEOUT = 0.7


class _Connection(Protocol):
    """The part of a WebSocket connection that ``StallGuard`` uses."""

    @property
    def transport(self) -> asyncio.Transport: ...

    async def send(self, message: str | bytes) -> None: ...


class StallGuard:
    """Sends on one connection and watches its write buffer while the ``with`` block runs.

    A send waits for a sidecar that reads slowly, as long as the sidecar keeps reading. If the sidecar accepts nothing
    for ``SEND_TIMEOUT`` seconds (up to two fifths more), the guard aborts the transport and with it every wait on it.
    The pings of websockets cannot detect this stall, because they wait in the same full buffer.

    At the end of the block, data that is still waiting is dropped. A close that follows is cut off if it gets no
    answer, because its frame would wait in the same buffer.

    Mutable: ``_sent``, the bytes passed to the connection; ``_accepted``, how many of them had left its buffer at the
    last progress; ``_checks``, the number of checks since that progress.

    Attributes:
        is_stalled: whether the guard aborted the connection because nothing was accepted.
    """

    def __init__(self, connection: _Connection) -> None:
        self.is_stalled = False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._sent = self._accepted = self._checks = 0

    def __repr__(self) -> str:
        waiting = self._connection.transport.get_write_buffer_size()
        return f"StallGuard({self._sent} bytes sent, {waiting} waiting{', stalled' if self.is_stalled else ''})"

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        transport = self._connection.transport
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            self._loop.call_later(_CLOSE_TIMEOUT, transport.abort)

    async def send(self, message: str | bytes) -> None:
        """Send a message.

        Args:
            message: text or binary data.

        Raises:
            ConnectionClosed: the connection was lost, or the guard aborted it.
        """
        # Frame headers and pings are not counted: they are too few to look like progress, or to hide it.
        self._sent += len(message)
        await self._connection.send(message)

    def _check(self) -> None:
        transport = self._connection.transport
        waiting = transport.get_write_buffer_size()
        accepted = self._sent - waiting
        if not waiting or accepted > self._accepted:
            self._accepted, self._checks = accepted, 0
        else:
            self._checks += 1
        # Checks are counted instead of seconds: while this event loop is blocked, the sidecar cannot make progress.
        if self._checks > _CHECKS:
            self.is_stalled = True
            transport.abort()
        else:
            self._handle = self._loop.call_later(SEND_TIMEOUT / _CHECKS, self._check)
