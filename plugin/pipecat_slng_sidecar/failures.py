"""What went wrong, in Pipecat's terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipecat.utils.errors import ErrorCategory, classify_http_status_code

# The codes are those of the sidecar's error messages; the rest is told by its status, or as the provider's failure.
_CATEGORIES = {
    "auth_error": ErrorCategory.AUTHENTICATION,
    "local_auth": ErrorCategory.AUTHENTICATION,
    "forbidden_origin": ErrorCategory.AUTHORIZATION,
    "bad_request": ErrorCategory.INVALID_REQUEST,
    "config_error": ErrorCategory.INVALID_REQUEST,
    "invalid_request": ErrorCategory.INVALID_REQUEST,
    "not_found": ErrorCategory.INVALID_REQUEST,
    "pronunciation_not_found": ErrorCategory.INVALID_REQUEST,
    "invalid_pronunciation": ErrorCategory.INVALID_REQUEST,
    "rate_limit": ErrorCategory.RATE_LIMIT,
    "rate_limit_exceeded": ErrorCategory.RATE_LIMIT,
    "session_limit": ErrorCategory.RATE_LIMIT,
    "draining": ErrorCategory.CONNECTIVITY,
    "upstream_unreachable": ErrorCategory.CONNECTIVITY,
    "upstream_timeout": ErrorCategory.CONNECTIVITY,
    "upstream_closed": ErrorCategory.CONNECTIVITY,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as the sidecar, or the lack of one, tells it.

    Attributes:
        message: what is wrong and what to do.
        category: why, as Pipecat sorts it.
        permanent: whether trying again is of no use.
    """

    message: str
    category: ErrorCategory
    permanent: bool = False


def failure_of(error: Mapping[str, Any]) -> Failure:
    """Read the sidecar's error, the message on a WebSocket or what stands under ``error`` in a reply.

    An error that ends nothing never costs the service its usability: what one request did wrong says nothing about the
    next one.
    """
    code = str(error.get("code") or "")
    upstream = error.get("upstream")
    status = upstream.get("status") if isinstance(upstream, dict) else None
    category = _CATEGORIES.get(code)
    if category is None and isinstance(status, int):
        category = classify_http_status_code(status)
    if category in (None, ErrorCategory.UNKNOWN):
        category = ErrorCategory.SERVER
    assert category is not None
    permanent = bool(error.get("fatal", True)) and error.get("retryable") is False
    if category.is_permanent and not permanent:
        category = ErrorCategory.APPLICATION if category is ErrorCategory.INVALID_REQUEST else ErrorCategory.SERVER
    return Failure(str(error.get("message") or code or "an error without a message"), category, permanent)


def failure_of_reply(status: int, body: bytes | None, address: object) -> Failure:
    """Read a reply that refuses: a sidecar says why as JSON, and what is no sidecar does not."""
    try:
        error = json.loads(body or b"")["error"]
        return failure_of({**error, "fatal": True})
    except (ValueError, KeyError, TypeError):
        category = classify_http_status_code(status)
        message = f"What listens at {address} answered {status} and is no slng-sidecar. Check sidecar_url."
        return Failure(message, category, permanent=category.is_permanent)
