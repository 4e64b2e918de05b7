"""Observers of upstream for the server's own status, and for connections that no session uses yet."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from typing_extensions import override

from slng_sidecar.protocol.reports import UpstreamObserver
from slng_sidecar.protocol.route import Target
from slng_sidecar.telemetry.metrics import Metrics

_ERRORS_KEPT = 20


class RecentErrors:
    """The last errors of upstream, as the status shows them: codes and times, no words.

    Mutable: ``_errors``, oldest first.
    """

    def __init__(self) -> None:
        self._errors: deque[dict[str, Any]] = deque(maxlen=_ERRORS_KEPT)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the errors, oldest first."""
        return list(self._errors)

    def add(self, session: int | None, target: Target, code: str) -> None:
        """Add an error of a session, or of a standby connection if ``session`` is None."""
        self._errors.append(
            {
                "at": round(time.time(), 1),
                "session": session,
                "kind": target.kind,
                "model": target.model,
                "code": code,
            }
        )


class SessionErrors(UpstreamObserver):
    """Adds the errors of one session to the recent ones."""

    def __init__(self, errors: RecentErrors, session: int, target: Target) -> None:
        self._errors = errors
        self._session = session
        self._target = target

    @override
    def not_opened(self, code: str) -> None:
        self._errors.add(self._session, self._target, code)

    @override
    def lost(self, cause: str) -> None:
        if cause != "closed":
            self._errors.add(self._session, self._target, cause)


class StandbyObserver(UpstreamObserver):
    """Adds what becomes of a standby connection to the metrics and the recent errors."""

    def __init__(self, metrics: Metrics, errors: RecentErrors, target: Target) -> None:
        self._metrics = metrics
        self._errors = errors
        self._target = target

    @override
    def dialled(self) -> None:
        self._metrics.dials.labels(self._target.kind).inc()

    @override
    def ready(self, seconds: float) -> None:
        self._metrics.open_seconds.labels(self._target.kind).observe(seconds)

    @override
    def not_opened(self, code: str) -> None:
        self._metrics.dial_failures.labels(self._target.kind, code).inc()
        self._errors.add(None, self._target, code)

    @override
    def lost(self, cause: str) -> None:
        self._metrics.losses.labels(self._target.kind, cause).inc()
        self._errors.add(None, self._target, cause)
