"""When what happened to a request over HTTP, for its ``Server-Timing`` header."""

from __future__ import annotations

import time


class Timing:
    """The moments of one request, each noted once it comes; of dials the last one counts.

    Times are seconds of ``time.monotonic``.
    """

    def __init__(self, first: str = "first-audio", *, overhead: bool = True) -> None:
        """Begin now.

        Args:
            first: what the first thing is called that comes from upstream.
            overhead: whether all else that has passed is our own doing.
        """
        self._first = first
        self._overhead = overhead
        self._asked = time.monotonic()
        self._dialling: float | None = None
        self._opened: float | None = None
        self._ready: float | None = None
        self._sounded: float | None = None

    def dialling(self) -> None:
        """Note that a connection to upstream is being opened."""
        self._dialling, self._opened, self._ready = time.monotonic(), None, None

    def opened(self) -> None:
        """Note that it is open."""
        self._opened = time.monotonic()

    def ready(self) -> None:
        """Note that upstream is ready, or has answered."""
        if self._ready is None:
            self._ready = time.monotonic()

    def sounded(self) -> None:
        """Note that the first sound, or the first words, came from upstream."""
        if self._sounded is None:
            self._sounded = time.monotonic()

    @property
    def first_sound(self) -> float | None:
        """When the first sound came."""
        return self._sounded

    def overhead(self) -> float:
        """Give the seconds until now that were not spent on waiting for upstream."""
        return self._passed() - sum(seconds for _, seconds in self._waits())

    def header(self) -> str:
        """Give what is known now as the value of ``Server-Timing``, in milliseconds."""
        last = ("overhead", self.overhead()) if self._overhead else ("total", self._passed())
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in (*self._waits(), last))

    def _passed(self) -> float:
        return time.monotonic() - self._asked

    def _waits(self) -> list[tuple[str, float]]:
        spans = (
            ("dial", self._dialling, self._opened),
            ("ready", self._opened, self._ready),
            (self._first, self._ready, self._sounded),
        )
        return [
            (name, end - start) for name, start, end in spans if start is not None and end is not None and end >= start
        ]
