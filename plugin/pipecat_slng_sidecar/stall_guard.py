"""Sending with an end: a sidecar that takes nothing of what waits for it is aborted, not waited for."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

SEND_TIMEOUT = 10.0
"""Seconds that bytes may wait for the sidecar while it takes none: twice its own ``SIDECAR_SEND_TIMEOUT`` (5 s).

A sidecar whose upstream is stuck holds us back until that deadline of its own, which must come first.
"""

_LOOKS = 5
# Longer than the wait for the answer to a close (``connection``), shorter than Pipecat's for a task to end (1 s).
_CLOSE_TIMEOUT = 0.7


class _Connection(Protocol):
    @property
    def transport(self) -> asyncio.Transport: ...

    async def send(self, message: str | bytes) -> None: ...


class StallGuard:
    """What goes out on one connection, watched while the ``with`` block runs.

    A send waits for a sidecar that reads slowly, as long as it goes on reading. Where it takes nothing for
    ``SEND_TIMEOUT`` seconds (two fifths more at most) the transport is aborted, and with it every wait on it;
    websockets' own pings cannot notice it, since they wait in the same full buffer. At the end of the block what still
    waits is dropped, and a close that follows is cut off where it is not answered: its frame would wait there, too.

    Mutable: ``_handed``, bytes given to the connection; ``_taken``, how many of them had left it when some last did;
    ``_looks`` at it since then.

    Attributes:
        stuck: whether it was aborted because nothing was taken.
    """

    def __init__(self, connection: _Connection) -> None:
        self.stuck = False
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._handed = self._taken = self._looks = 0

    def __repr__(self) -> str:
        waiting = self._connection.transport.get_write_buffer_size()
        return f"Outgoing({self._handed} bytes, {waiting} wait{', stuck' if self.stuck else ''})"

    def __enter__(self) -> Self:
        self._look()
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

        Raises:
            ConnectionClosed: the connection is lost, or was aborted.
        """
        # Frames' headers and pings are not counted: they are too few to pass for progress, or to hide it.
        self._handed += len(message)
        await self._connection.send(message)

    def _look(self) -> None:
        transport = self._connection.transport
        waiting = transport.get_write_buffer_size()
        taken = self._handed - waiting
        if not waiting or taken > self._taken:
            self._taken, self._looks = taken, 0
        else:
            self._looks += 1
        # Looks and not a clock: where our own loop stood still, the sidecar had no chance either.
        if self._looks > _LOOKS:
            self.stuck = True
            transport.abort()
        else:
            self._handle = self._loop.call_later(SEND_TIMEOUT / _LOOKS, self._look)
