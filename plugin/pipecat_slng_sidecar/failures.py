"""Failures of the sidecar, translated to Pipecat's error categories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipecat.utils.errors import ErrorCategory, classify_http_status_code

# The codes of the sidecar's error messages. Codes that are not listed here get their category from upstream's status,
# or count as a failure of the provider.
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
    """A failure that the sidecar reported, or a failure to reach the sidecar.

    Attributes:
        message: what went wrong and what to do.
        category: Pipecat's category of the cause.
        permanent: whether retrying is of no use.
    """

    message: str
    category: ErrorCategory
    permanent: bool = False


def failure_from_error(error: Mapping[str, Any]) -> Failure:
    """Build a failure from an error of the sidecar.

    An error that is not fatal never makes the service unusable, because one failed request does not predict the next.

    Args:
        error: an ``error`` message of the WebSocket, or the value of ``error`` in an HTTP reply.

    Returns:
        The failure. It is permanent if the error is fatal and the sidecar marks it as not retryable.
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
    return Failure(
        str(error.get("message") or code or "The sidecar sent an error without a message."), category, permanent
    )


def failure_from_reply(status: int, body: bytes | None, address: object) -> Failure:
    """Build a failure from an HTTP reply that refuses the request.

    A sidecar gives its reason as JSON. A reply without that JSON is not from a sidecar.

    Args:
        status: the HTTP status of the reply.
        body: the body of the reply.
        address: where the reply came from, for the message.
    """
    try:
        error = json.loads(body or b"")["error"]
        return failure_from_error({**error, "fatal": True})
    except (ValueError, KeyError, TypeError):
        category = classify_http_status_code(status)
        message = f"The server at {address} answered {status} and is not a slng-sidecar. Check `sidecar_url`."
        return Failure(message, category, permanent=category.is_permanent)
