"""Errors as clients see them: one exception, one table of codes, one shape on the wire.

The shape and the sidecar's own codes are section 5 of the local contract; upstream's codes and their HTTP statuses are
those the official clients map (LiveKit's ``gateway_adapter`` and SLNG's error reference).
"""

from __future__ import annotations

from typing import Any, Self

# Upstream's codes, then the sidecar's own, each with the HTTP status that it stands for.
STATUS_OF_CODE = {
    "auth_error": 401,
    "config_error": 400,
    "invalid_request": 400,
    "payload_too_large": 413,
    "rate_limit": 429,
    "rate_limit_exceeded": 429,
    "idle_timeout_exceeded": 408,
    "max_connection_duration_exceeded": 408,
    "provider_error": 502,
    "backend_error": 502,
    "backend_connection_failed": 502,
    "not_ready": 503,
    "backpressure": 503,
    "stt_metering_unavailable": 503,
    "translation_error": 500,
    "pronunciation_not_found": 400,
    "invalid_pronunciation": 400,
    # the sidecar's own
    "local_auth": 401,
    "forbidden_origin": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "bad_request": 400,
    "session_limit": 429,
    "draining": 503,
    "upstream_unreachable": 502,
    "upstream_timeout": 504,
    "upstream_closed": 502,
    "audio_overflow": 503,
    "unsupported_audio_format": 502,
    "client_stuck": 408,
    "internal_error": 500,
}

_RETRYABLE_4XX = frozenset({408, 409, 425, 429})

# A WebSocket close reason is at most 125 bytes less the two of the code (RFC 6455, section 5.5).
MAX_CLOSE_REASON = 123


def is_retryable(status: int) -> bool:
    """Tell whether trying again can help: every status but the 4xx, and of those 408, 409, 425 and 429."""
    return not 400 <= status < 500 or status in _RETRYABLE_4XX


def close_reason(text: str) -> str:
    """Cut ``text`` so that it fits a WebSocket close frame: 123 bytes of UTF-8, never half a character."""
    return text.encode(errors="replace")[:MAX_CLOSE_REASON].decode(errors="ignore")


class GatewayError(Exception):
    """A failure that a client is told about.

    Attributes:
        code: one of ``STATUS_OF_CODE``, or what upstream said.
        message: what is wrong and what to do, in plain words, without secrets.
        status: the HTTP status it stands for.
        retryable: whether the same request may succeed later.
        fatal: whether the connection ends with it.
        upstream: what upstream said, where it did: ``status``, ``close_code``, ``reason``.
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
        return f"GatewayError({self.code!r}, {self.message!r}, status={self.status}, fatal={self.fatal})"

    @classmethod
    def own_fault(cls) -> Self:
        """Make the error for what should not have happened: its cause is in the log."""
        return cls("internal_error", "The sidecar failed; its log says how. Please report it.")

    def as_fields(self) -> dict[str, Any]:
        """Give the error's fields as they stand in a message and, under ``error``, in an HTTP body."""
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
        """Give the error as a WebSocket message."""
        return {"type": "error", **self.as_fields()}

    @property
    def known_code(self) -> str:
        """The code where it is one of the table, else ``other``; this may be counted, as upstream may say anything."""
        return self.code if self.code in STATUS_OF_CODE else "other"

    @property
    def for_log(self) -> str:
        """What may be logged of it: codes, and no words of upstream's, which may repeat what was said."""
        upstream = self.upstream or {}
        codes = [f"{name} {upstream[name]}" for name in ("status", "close_code") if upstream.get(name) is not None]
        return f"{self.known_code} ({', '.join(codes)})" if codes else self.known_code

    @property
    def close_code(self) -> int:
        """Give the WebSocket close code that follows a fatal error.

        1008 is the client's or the key's fault, 1012 shutdown, 1013 busy and 1011 ours or upstream's.
        """
        if self.code == "draining":
            return 1012
        if self.status in (429, 503):
            return 1013
        return 1008 if 400 <= self.status < 500 and self.status != 408 else 1011


def closed_cleanly(error: GatewayError) -> bool:
    """Tell whether upstream closed the lost connection in good order: with 1000, or without a code."""
    return (error.upstream or {}).get("close_code") in (1000, 1005)
