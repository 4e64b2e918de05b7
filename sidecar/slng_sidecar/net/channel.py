"""A queue of messages between two speeds, bounded in bytes by whoever fills it."""

from __future__ import annotations

import asyncio
from collections import deque


class Channel:
    """Messages on their way to one peer.

    Putting never waits; whoever reads from the other side waits for ``room`` before it reads on, so what can pile up is
    that bound and one message more. One task takes, one waits for room.

    Attributes:
        size: bytes (characters of text) that wait.
        high_water: the most that ever waited.
    """

    def __init__(self) -> None:
        self.size = 0
        self.high_water = 0
        self._items: deque[str | bytes] = deque()
        self._finished = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        finished = ", finished" if self._finished else ""
        return f"Outbox({len(self._items)} messages, {self.size} bytes, high water {self.high_water}{finished})"

    def put(self, data: str | bytes) -> None:
        """Add a message; nothing happens once the outbox is finished."""
        if self._finished:
            return
        self._items.append(data)
        self.size += len(data)
        self.high_water = max(self.high_water, self.size)
        self._changed.set()

    def finish(self) -> None:
        """Take no more messages; what waits can still be taken."""
        self._finished = True
        self._changed.set()
        self._room.set()

    def discard(self) -> None:
        """Finish, and drop what waits: the peer is gone."""
        self._items.clear()
        self.size = 0
        self.finish()

    async def take(self) -> str | bytes | None:
        """Remove the oldest message, waiting for one; None once the outbox is finished and empty."""
        while not self._items:
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        data = self._items.popleft()
        self.size -= len(data)
        self._room.set()
        return data

    async def room(self, bound: int) -> None:
        """Wait until less than ``bound`` bytes wait, or the outbox is finished."""
        while self.size >= bound and not self._finished:
            self._room.clear()
            await self._room.wait()
