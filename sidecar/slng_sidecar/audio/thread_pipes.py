"""Pipes between the event loop and a thread, bounded both ways: the faster side waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class Aborted(Exception):
    """Raised in the thread when the event loop has aborted the pipe."""


class ToThread:
    """A pipe into which the event loop puts and from which a thread reads."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._finished = False
        self._aborted = False

    async def put(self, data: bytes) -> None:
        """Add bytes, and wait while enough of them wait. Do nothing once the pipe is aborted."""
        with self._changed:
            if data and not self._aborted:
                self._pieces.append(data)
                self._size += len(data)
                self._changed.notify()
        while self._size >= self._bound and not self._aborted:
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        """Record that there are no more bytes."""
        with self._changed:
            self._finished = True
            self._changed.notify()

    def abort(self) -> None:
        """End both sides' waits. Either side may call it."""
        with self._changed:
            self._aborted = True
            self._pieces.clear()
            self._size = 0
            self._changed.notify()
        self._loop.call_soon_threadsafe(self._room.set)

    def read(self, size: int) -> bytes:
        """Wait for up to ``size`` bytes; empty after the last. The thread calls it.

        Raises:
            Aborted: the pipe is aborted.
        """
        with self._changed:
            while not self._pieces and not self._finished and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Aborted
            if not self._pieces:
                return b""
            data = self._pieces.popleft()
            if len(data) > size:
                self._pieces.appendleft(data[size:])
                data = data[:size]
            self._size -= len(data)
            roomy = self._size < self._bound
        if roomy:
            self._loop.call_soon_threadsafe(self._room.set)
        return data


class FromThread:
    """A pipe into which a thread puts and from which the event loop takes."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._some = asyncio.Event()
        self._pieces: list[bytes] = []
        self._size = 0
        self._aborted = False
        self._ended = False
        self._error: Exception | None = None

    def put(self, data: bytes) -> None:
        """Add bytes, and wait while enough of them wait. The thread calls it.

        Raises:
            Aborted: the pipe is aborted.
        """
        with self._changed:
            self._pieces.append(data)
            self._size += len(data)
            first = len(self._pieces) == 1
            if first:
                self._loop.call_soon_threadsafe(self._some.set)
            while self._size >= self._bound and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Aborted

    def end(self, error: Exception | None = None) -> None:
        """Record that there are no more bytes, and the error that ended them, if any. The thread calls it."""
        with self._changed:
            self._ended, self._error = True, error
        self._loop.call_soon_threadsafe(self._some.set)

    def abort(self) -> None:
        """End the thread's wait with ``Aborted``."""
        with self._changed:
            self._aborted = True
            self._pieces.clear()
            self._size = 0
            self._changed.notify()

    async def take(self) -> bytes | None:
        """Wait for bytes; None after the last.

        Raises:
            Exception: the error that the thread ended with.
        """
        while True:
            with self._changed:
                if self._pieces:
                    data = b"".join(self._pieces)
                    self._pieces.clear()
                    self._size = 0
                    self._changed.notify()
                    return data
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return None
                self._some.clear()
            await self._some.wait()
