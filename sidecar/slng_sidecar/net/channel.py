"""A queue between two tasks of different speeds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def _length(item: Any) -> int:
    size: int = len(item)
    return size


class Channel(Generic[T]):
    """Items on their way from one task to another, in order.

    ``put`` never waits. Whoever fills the channel waits for ``room`` before it goes on, so the bound is that of
    ``room`` and one item more. One task takes items, and one waits for room.

    Attributes:
        size: how much waits to be taken, as ``size_of`` counts it.
        high_water: the most that ever waited.
    """

    def __init__(self, size_of: Callable[[T], int] = _length) -> None:
        """Create an empty channel.

        Args:
            size_of: returns the size of an item; its length unless given.
        """
        self.size = 0
        self.high_water = 0
        self._size_of = size_of
        self._items: deque[T] = deque()
        self._error: Exception | None = None
        self._finished = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    def __repr__(self) -> str:
        finished = ", finished" if self._finished else ""
        return f"Channel({len(self._items)} items, size {self.size}, high water {self.high_water}{finished})"

    @property
    def is_finished(self) -> bool:
        """Whether no more items can be put."""
        return self._finished

    def put(self, item: T) -> None:
        """Add an item. Do nothing once the channel is finished."""
        if self._finished:
            return
        self._items.append(item)
        self.size += self._size_of(item)
        self.high_water = max(self.high_water, self.size)
        self._changed.set()

    def finish(self, error: Exception | None = None) -> None:
        """Accept no more items. Those that wait can still be taken. Only the first call counts.

        Args:
            error: raised to the taker after the last item.
        """
        if self._finished:
            return
        self._finished, self._error = True, error
        self._changed.set()
        self._room.set()

    def discard(self) -> None:
        """Finish and drop what waits: nobody takes any more."""
        self._items.clear()
        self.size = 0
        self.finish()

    async def take(self) -> T | None:
        """Remove and return the oldest item, waiting for one; None once the channel is finished and empty.

        Raises:
            Exception: the error that the channel was finished with, after the last item.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        self.size -= self._size_of(item)
        self._room.set()
        return item

    def take_waiting(self) -> list[T]:
        """Remove and return all items that wait now."""
        items = list(self._items)
        self._items.clear()
        self.size = 0
        self._room.set()
        return items

    async def room(self, bound: int) -> None:
        """Wait until the size is below ``bound``, or the channel is finished."""
        while self.size >= bound and not self._finished:
            self._room.clear()
            await self._room.wait()
