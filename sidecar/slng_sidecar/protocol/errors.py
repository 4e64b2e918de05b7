"""Errors as clients see them: one exception, one table of codes, one shape on the wire.

``docs/reference/errors.md`` lists the codes. Upstream's codes and their HTTP statuses are those that the official
clients map (LiveKit's ``gateway_adapter``, SLNG's error reference).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class ErrorCode(StrEnum):
    """The codes of errors: those that SLNG sends, then the sidecar's own.

    SLNG may send a code that is not listed here. Such a code is passed on as a plain string.
    """

    AUTH_ERROR = "auth_error"
    CONFIG_ERROR = "config_error"
    INVALID_REQUEST = "invalid_request"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE_LIMIT = "rate_limit"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    IDLE_TIMEOUT_EXCEEDED = "idle_timeout_exceeded"
    MAX_CONNECTION_DURATION_EXCEEDED = "max_connection_duration_exceeded"
    PROVIDER_ERROR = "provider_error"
    BACKEND_ERROR = "backend_error"
    BACKEND_CONNECTION_FAILED = "backend_connection_failed"
    NOT_READY = "not_ready"
    BACKPRESSURE = "backpressure"
    STT_METERING_UNAVAILABLE = "stt_metering_unavailable"
    TRANSLATION_ERROR = "translation_error"
    PRONUNCIATION_NOT_FOUND = "pronunciation_not_found"
    INVALID_PRONUNCIATION = "invalid_pronunciation"

    LOCAL_AUTH = "local_auth"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BAD_REQUEST = "bad_request"
    SESSION_LIMIT = "session_limit"
    DRAINING = "draining"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CLOSED = "upstream_closed"
    AUDIO_OVERFLOW = "audio_overflow"
    UNSUPPORTED_AUDIO_FORMAT = "unsupported_audio_format"
    CLIENT_STUCK = "client_stuck"
    INTERNAL_ERROR = "internal_error"


STATUS_OF_CODE: dict[str, int] = {
    ErrorCode.AUTH_ERROR: 401,
    ErrorCode.CONFIG_ERROR: 400,
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.RATE_LIMIT: 429,
    ErrorCode.RATE_LIMIT_EXCEEDED: 429,
    ErrorCode.IDLE_TIMEOUT_EXCEEDED: 408,
    ErrorCode.MAX_CONNECTION_DURATION_EXCEEDED: 408,
    ErrorCode.PROVIDER_ERROR: 502,
    ErrorCode.BACKEND_ERROR: 502,
    ErrorCode.BACKEND_CONNECTION_FAILED: 502,
    ErrorCode.NOT_READY: 503,
    ErrorCode.BACKPRESSURE: 503,
    ErrorCode.STT_METERING_UNAVAILABLE: 503,
    ErrorCode.TRANSLATION_ERROR: 500,
    ErrorCode.PRONUNCIATION_NOT_FOUND: 400,
    ErrorCode.INVALID_PRONUNCIATION: 400,
    ErrorCode.LOCAL_AUTH: 401,
    ErrorCode.FORBIDDEN_ORIGIN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.SESSION_LIMIT: 429,
    ErrorCode.DRAINING: 503,
    ErrorCode.UPSTREAM_UNREACHABLE: 502,
    ErrorCode.UPSTREAM_TIMEOUT: 504,
    ErrorCode.UPSTREAM_CLOSED: 502,
    ErrorCode.AUDIO_OVERFLOW: 503,
    ErrorCode.UNSUPPORTED_AUDIO_FORMAT: 502,
    ErrorCode.CLIENT_STUCK: 408,
    ErrorCode.INTERNAL_ERROR: 500,
}
"""The HTTP status of each code."""

_RETRYABLE_4XX = frozenset({408, 409, 425, 429})

# A close frame has at most 125 bytes, of which two are the code (RFC 6455, section 5.5).
MAX_CLOSE_REASON = 123


def is_retryable(status: int) -> bool:
    """Return whether a retry can help: for every status but most 4xx, of which only 408, 409, 425 and 429 count."""
    return not 400 <= status < 500 or status in _RETRYABLE_4XX


def close_reason(text: str) -> str:
    """Return as much of ``text`` as fits a WebSocket close frame: 123 bytes of UTF-8, in whole characters."""
    return text.encode(errors="replace")[:MAX_CLOSE_REASON].decode(errors="ignore")


class GatewayError(Exception):
    """A failure that is reported to a client.

    Attributes:
        code: an ``ErrorCode``, or another code that upstream sent.
        message: what is wrong and what to do, in plain words and without secrets.
        status: the HTTP status.
        retryable: whether the same request may succeed later.
        fatal: whether the connection ends.
        context_id: the context that the error is about; None if it is about the session.
        upstream: what upstream said, if it did: ``status``, ``close_code``, ``reason``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        fatal: bool = True,
        context_id: str | None = None,
        upstream: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status if status is not None else STATUS_OF_CODE.get(code, 502)
        self.retryable = is_retryable(self.status)
        self.fatal = fatal
        self.context_id = context_id
        self.upstream = upstream

    def __repr__(self) -> str:
        return f"GatewayError({str(self.code)!r}, {self.message!r}, status={self.status}, fatal={self.fatal})"

    @classmethod
    def own_fault(cls) -> Self:
        """Return the error for a fault of the sidecar, whose cause is in the log."""
        return cls(ErrorCode.INTERNAL_ERROR, "The sidecar failed. Its log has the cause. Please report it.")

    def as_fields(self) -> dict[str, Any]:
        """Return the fields of the error, as in a message or, under ``error``, in an HTTP body."""
        fields: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "fatal": self.fatal,
        }
        if self.context_id is not None:
            fields["context_id"] = self.context_id
        if self.upstream:
            fields["upstream"] = self.upstream
        # The official clients read ``data`` first.
        fields["data"] = {"code": self.code, "message": self.message}
        return fields

    def as_message(self) -> dict[str, Any]:
        """Return the error as a WebSocket message."""
        return {"type": "error", **self.as_fields()}

    @property
    def known_code(self) -> str:
        """The code if it is listed, otherwise ``other``. Metrics use it, because upstream may send any code."""
        return self.code if self.code in STATUS_OF_CODE else "other"

    @property
    def for_log(self) -> str:
        """The part of the error that may be logged: codes, but not upstream's words, which may quote what was said."""
        upstream = self.upstream or {}
        codes = [f"{name} {upstream[name]}" for name in ("status", "close_code") if upstream.get(name) is not None]
        return f"{self.known_code} ({', '.join(codes)})" if codes else self.known_code

    @property
    def close_code(self) -> int:
        """The WebSocket close code that follows a fatal error.

        1008 is a fault of the client or its key, 1012 a shutdown, 1013 a busy server, and 1011 any other failure.
        """
        if self.code == ErrorCode.DRAINING:
            return 1012
        if self.status in (429, 503):
            return 1013
        return 1008 if 400 <= self.status < 500 and self.status != 408 else 1011


@dataclass(frozen=True, slots=True)
class Close:
    """How an upstream connection ended, or that it never opened.

    Attributes:
        error: the error for the client, if the end has to be reported.
        code: the WebSocket close code; 1006 if the connection was lost without a close frame, None if it never opened
            or the sidecar itself gave it up.
        reason: upstream's close reason, without keys.
    """

    error: GatewayError
    code: int | None = None
    reason: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether upstream closed in good order: with 1000, or without a code."""
        return self.code in (1000, 1005)
