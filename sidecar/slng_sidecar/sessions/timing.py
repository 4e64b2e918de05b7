"""When what happened to a request over HTTP, for its ``Server-Timing`` header."""

from __future__ import annotations

import time

from typing_extensions import override

from slng_sidecar.protocol.reports import UpstreamObserver


class Timing(UpstreamObserver):
    """Records the moments of one request. If upstream is dialled more than once, the last dial counts.

    Times are seconds of ``time.monotonic``.
    """

    def __init__(self, first: str = "first-audio", *, overhead: bool = True) -> None:
        """Start now.

        Args:
            first: the name of the first result that comes from upstream.
            overhead: whether all time that is not spent waiting for upstream is the sidecar's own.
        """
        self._first = first
        self._overhead = overhead
        self._asked = time.monotonic()
        self._dialled: float | None = None
        self._opened: float | None = None
        self._ready: float | None = None
        self._first_result: float | None = None

    @override
    def dialled(self) -> None:
        self._dialled, self._opened, self._ready = time.monotonic(), None, None

    @override
    def joined(self) -> None:
        # How much of the dial was over before is not known, so all of the wait counts as waiting for ready.
        self.dialled()
        self.opened()

    @override
    def opened(self) -> None:
        self._opened = time.monotonic()

    @override
    def ready(self, seconds: float) -> None:
        self.answered()

    def answered(self) -> None:
        """Record that upstream is ready, or has answered. Only the first call after a dial counts."""
        if self._ready is None:
            self._ready = time.monotonic()

    def has_result(self) -> None:
        """Record that the first audio, or the first words, came. Only the first call counts."""
        if self._first_result is None:
            self._first_result = time.monotonic()

    @property
    def first_audio(self) -> float | None:
        """When the first result came; None before."""
        return self._first_result

    def overhead(self) -> float:
        """Return the seconds until now that were not spent waiting for upstream."""
        return self._passed() - sum(seconds for _, seconds in self._waits())

    def header(self) -> str:
        """Return what is known now as the value of ``Server-Timing``, in milliseconds."""
        last = ("overhead", self.overhead()) if self._overhead else ("total", self._passed())
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in (*self._waits(), last))

    def _passed(self) -> float:
        return time.monotonic() - self._asked

    def _waits(self) -> list[tuple[str, float]]:
        spans = (
            ("dial", self._dialled, self._opened),
            ("ready", self._opened, self._ready),
            (self._first, self._ready, self._first_result),
        )
        return [
            (name, end - start) for name, start, end in spans if start is not None and end is not None and end >= start
        ]
