"""When a lost upstream connection is dialled again, and when that ends."""

from __future__ import annotations

from collections.abc import Callable

from slng_sidecar.protocol.errors import GatewayError

SHORT_LIFE_SECONDS = 5.0
"""A connection that ends earlier suggests that upstream does not want it; three in a row end the attempts."""

_SHORT_LIVES_ALLOWED = 3
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 5.0


class ReconnectPolicy:
    """Decides when one upstream is dialled again: at once, then after growing delays with jitter.

    The attempts end when upstream refuses in a way that another attempt cannot change (most 4xx), after three
    connections in a row that lived less than 5 s, and after ``limit`` seconds without a connection.

    Mutable: ``attempt``, the number of attempts in the present outage, 0 outside one; ``lost_at``, when that outage
    began; ``_short_lives``, the number of short lives in a row.
    """

    def __init__(self, limit: float, jitter: Callable[[], float]) -> None:
        """Create a policy.

        Args:
            limit: seconds that an outage may last.
            jitter: returns a number from 0 to 1, so that many sessions do not reconnect at the same moment.
        """
        self._limit = limit
        self._jitter = jitter
        self._short_lives = 0
        self.attempt = 0
        self.lost_at: float | None = None

    def __repr__(self) -> str:
        return f"ReconnectPolicy(attempt {self.attempt}, {self._short_lives} short lives)"

    def next_attempt(self, error: GatewayError, lived: float | None, now: float) -> float:
        """Return the time of the next attempt after a connection, or an attempt to open one, was lost.

        Args:
            error: why it was lost.
            lived: seconds since its ``ready``; None if it never got there.

        Raises:
            GatewayError: there must be no further attempt. The error is fatal and says why.
        """
        if lived is not None:
            self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE_SECONDS else 0
        if not error.retryable:
            raise _fatal(error, error.message)
        if self._short_lives >= _SHORT_LIVES_ALLOWED:
            count, seconds = _SHORT_LIVES_ALLOWED, SHORT_LIFE_SECONDS
            raise _fatal(error, f"{count} connections in a row ended within {seconds:g} s. {error.message}")
        if self.lost_at is None:
            self.lost_at = now
        delay = 0.0
        if self.attempt:
            delay = min(_FIRST_DELAY * 2 ** (self.attempt - 1), _LONGEST_DELAY) * (0.5 + self._jitter())
        if now + delay > self.lost_at + self._limit:
            raise _fatal(error, f"Upstream did not come back within {self._limit:g} s. {error.message}")
        self.attempt += 1
        return now + delay

    def connected(self) -> None:
        """Record that the outage is over."""
        self.attempt = 0
        self.lost_at = None


def _fatal(error: GatewayError, message: str) -> GatewayError:
    return GatewayError(error.code, message, status=error.status, upstream=error.upstream)
