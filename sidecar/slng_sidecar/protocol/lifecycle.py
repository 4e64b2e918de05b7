"""The life of a session as STT and TTS share it: its phases, the deadlines of its ends, and its ``init``."""

from __future__ import annotations

import enum
from typing import Any

from slng_sidecar.protocol.commands import CloseClient
from slng_sidecar.protocol.errors import ErrorCode, GatewayError

INIT_FIRST = 'The first message of a session must be {"type":"init"}; '

DRAIN_GRACE = 1.0
"""Seconds that a session without an ``init`` gets to ask for something once the sidecar drains."""

SHUTDOWN = CloseClient(1012, "draining: the sidecar is shutting down")
"""How a drained session closes its client."""


class Phase(enum.Enum):
    """Where a session is in its life."""

    NEW = "new"  # no init yet
    OPEN = "open"
    CLOSING = "closing"  # the client asked to close; what is left is still delivered
    ENDED = "ended"


class Lifecycle:
    """The phase of one session and the deadlines that end it. Times are seconds of one monotonic clock.

    Mutable: ``phase``; ``_by``, the deadline of the ``init`` or of the close; ``drain_by``, the time at which a
    drained session ends in any case; ``drains_from``, the time from which it may end.
    """

    def __init__(self, init_timeout: float, close_timeout: float) -> None:
        """Create the lifecycle of a session that has not started.

        Args:
            init_timeout: seconds that the client has to send its ``init``.
            close_timeout: seconds that a close may take.
        """
        self.phase = Phase.NEW
        self.drain_by: float | None = None
        self.drains_from = 0.0
        self._by: float | None = None
        self._init_timeout = init_timeout
        self._close_timeout = close_timeout

    @property
    def deadline(self) -> float | None:
        """The next time at which ``init_overdue``, ``close_is_overdue`` or ``drain_is_overdue`` changes."""
        if self.phase is Phase.ENDED:
            return None
        return min((time for time in (self._by, self.drain_by) if time is not None), default=None)

    @property
    def is_ended(self) -> bool:
        """Whether the session is over."""
        return self.phase is Phase.ENDED

    @property
    def takes_messages(self) -> bool:
        """Whether the client may still send messages: it has not asked to close, and the session is not over."""
        return self.phase in (Phase.NEW, Phase.OPEN)

    @property
    def is_draining(self) -> bool:
        """Whether the session is to end because the sidecar stops."""
        return self.drain_by is not None

    def start(self, now: float) -> None:
        """Start to wait for the ``init``."""
        self._by = now + self._init_timeout

    def open(self) -> None:
        """Enter the open phase: the ``init`` came."""
        self.phase, self._by = Phase.OPEN, None

    def close(self, now: float, limit: float | None = None) -> None:
        """Enter the closing phase, which ends at the close timeout and not after ``limit``."""
        by = now + self._close_timeout
        self.phase, self._by = Phase.CLOSING, by if limit is None else min(by, limit)

    def end(self) -> None:
        """End the session."""
        self.phase, self._by = Phase.ENDED, None

    def drain(self, by: float, now: float) -> None:
        """Let the session end at the next moment that cuts nothing, and at ``by`` in any case."""
        self.drain_by = by
        self.drains_from = now + DRAIN_GRACE if self.phase is Phase.NEW else now

    def may_drain(self, now: float) -> bool:
        """Return whether a drained session may end now, if nothing would be cut."""
        return self.is_draining and now >= self.drains_from

    def init_overdue(self, now: float) -> GatewayError | None:
        """Return the error for an ``init`` that did not come in time, if that is so."""
        if self.phase is not Phase.NEW or self._by is None or now < self._by:
            return None
        return GatewayError(ErrorCode.BAD_REQUEST, f"{INIT_FIRST}none came within {self._init_timeout:g} s.")

    def close_is_overdue(self, now: float) -> bool:
        """Return whether the close takes too long."""
        return self.phase is Phase.CLOSING and self._by is not None and now >= self._by

    def drain_overdue(self, now: float) -> GatewayError | None:
        """Return the error for a drain that takes too long, if it does."""
        return drain_expired() if self.drain_by is not None and now >= self.drain_by else None


def check_init(message: dict[str, Any]) -> dict[str, Any]:
    """Return the ``config`` of an ``init``. A field that is null counts as missing.

    Raises:
        GatewayError: ``config_error``, naming the field that cannot be used.
    """
    config = message.get("config")
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise GatewayError(ErrorCode.CONFIG_ERROR, 'In init, config must be an object such as {"sample_rate": 16000}.')
    rate = config.get("sample_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or not 1000 <= rate <= 384_000):
        raise GatewayError(ErrorCode.CONFIG_ERROR, "In init, config.sample_rate must be a number of Hz such as 16000.")
    encoding = config.get("encoding")
    if encoding is not None and not isinstance(encoding, str):
        raise GatewayError(ErrorCode.CONFIG_ERROR, "In init, config.encoding must be a string such as linear16.")
    return config


def drain_expired() -> GatewayError:
    """Return the error for work that was unfinished when the time to drain ran out."""
    return GatewayError(ErrorCode.DRAINING, "The sidecar is shutting down, and the time to finish has run out.")


def init_missing() -> GatewayError:
    """Return the error for a message that came before the ``init``; the session goes on."""
    return GatewayError(ErrorCode.BAD_REQUEST, f"{INIT_FIRST}this message was ignored.", fatal=False)


def second_init() -> GatewayError:
    """Return the error for an ``init`` after the first; the session goes on."""
    return GatewayError(
        ErrorCode.BAD_REQUEST,
        "This session already had its init; this one was ignored. Connect again for other settings.",
        fatal=False,
    )


def base64_refused() -> GatewayError:
    """Return the error for audio sent as base64 in JSON, which SLNG documents but its live bridge refuses."""
    return GatewayError(
        ErrorCode.UNSUPPORTED_AUDIO_FORMAT,
        "Send audio as binary WebSocket messages, not as base64 in JSON. SLNG does not accept base64 either.",
        status=400,
        fatal=False,
    )
