"""When a lost upstream is tried again, and when not any more."""

from __future__ import annotations

from collections.abc import Callable

from slng_sidecar.protocol.errors import GatewayError

QUICK_SECONDS = 5.0
"""A connection that lives shorter is a sign that upstream does not want it; three in a row end the trying."""

_QUICK_LIVES = 3
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0


class ReconnectPolicy:
    """The policy of one upstream: at once, then after growing delays with jitter, until it is hopeless.

    Hopeless is a refusal that trying again cannot change (most 4xx), three connections in a row that lived less than
    5 s, and ``limit`` seconds without one.

    Mutable: ``attempt``, of the outage that goes on, 0 outside one; ``lost_at``, when it began; ``_quick_lives``, how
    many in a row.
    """

    def __init__(self, limit: float, jitter: Callable[[], float]) -> None:
        """Make a policy.

        Args:
            limit: seconds that an outage may last.
            jitter: gives 0 to 1, so that many sessions do not come back at the same moment.
        """
        self._limit = limit
        self._jitter = jitter
        self._quick_lives = 0
        self.attempt = 0
        self.lost_at: float | None = None

    def __repr__(self) -> str:
        return f"Recovery(attempt {self.attempt}, {self._quick_lives} quick lives)"

    def lost(self, error: GatewayError, lived: float | None, now: float) -> float:
        """Give the time of the next attempt.

        Args:
            error: why the connection, or the attempt, is lost.
            lived: seconds since its ``ready``; None where it never got there.

        Raises:
            GatewayError: there is to be none.
        """
        if lived is not None:
            self._quick_lives = self._quick_lives + 1 if lived < QUICK_SECONDS else 0
        if not error.retryable:
            raise _fatal(error, error.message)
        if self._quick_lives >= _QUICK_LIVES:
            raise _fatal(
                error, f"{_QUICK_LIVES} connections in a row ended within {QUICK_SECONDS:g} s. {error.message}"
            )
        if self.lost_at is None:
            self.lost_at = now
        delay = 0.0
        if self.attempt:
            delay = min(_FIRST_DELAY * 2 ** (self.attempt - 1), _LONGEST_DELAY) * (0.5 + self._jitter())
        if now + delay > self.lost_at + self._limit:
            raise _fatal(error, f"Upstream did not come back within {self._limit:g} s. {error.message}")
        self.attempt += 1
        return now + delay

    def ready(self) -> None:
        """Note that the outage is over."""
        self.attempt = 0
        self.lost_at = None


def _fatal(error: GatewayError, message: str) -> GatewayError:
    return GatewayError(error.code, message, status=error.status, upstream=error.upstream)
