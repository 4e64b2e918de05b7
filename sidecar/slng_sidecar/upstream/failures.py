"""Failures of upstream as errors for the client, without keys."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
from slng_sidecar.protocol.route import Target

_MAX_QUOTE = 300
# A shorter key is a placeholder in a test, and would match in the middle of words.
_SHORTEST_KEY = 8
# Characters that JSON may escape without need: a slash (as PHP does), and any by its number (as Go does with &, <, >).
_ESCAPE = re.compile(r"\\(?:u00([2-7][0-9a-fA-F])|(.))", re.DOTALL)

_CODE_OF_STATUS = {
    400: ErrorCode.CONFIG_ERROR,
    401: ErrorCode.AUTH_ERROR,
    403: ErrorCode.AUTH_ERROR,
    404: ErrorCode.CONFIG_ERROR,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    429: ErrorCode.RATE_LIMIT,
    503: ErrorCode.NOT_READY,
}


def without_keys(text: str, secrets: Iterable[str]) -> str:
    """Return upstream's text without the keys that it may repeat, however JSON escapes them."""
    # The longest key first, because one key may begin with another.
    keys = sorted((secret for secret in secrets if len(secret) >= _SHORTEST_KEY), key=len, reverse=True)
    for key in keys:
        text = text.replace(key, "[key]")
    if "\\" in text:
        plain = _ESCAPE.sub(_as_python_writes, text)
        written = [json.dumps(key)[1:-1] for key in keys]
        if any(key in plain for key in written):
            for key in written:
                plain = plain.replace(key, "[key]")
            return plain
    return text


def _as_python_writes(escape: re.Match[str]) -> str:
    """Replace the escape of an ASCII character by what Python's encoder writes for it."""
    number, character = escape.groups()
    if number is not None:
        return json.dumps(chr(int(number, 16)))[1:-1]
    return "/" if character == "/" else escape[0]


def quote(text: str, secrets: Iterable[str]) -> str:
    """Return upstream's text as one short line without the keys."""
    text = without_keys(text, secrets)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_QUOTE else line[: _MAX_QUOTE - 1] + "…"


def dial_failure(error: Exception, target: Target, seconds: float) -> GatewayError:
    """Return the error for a connection to upstream that could not be opened.

    Args:
        seconds: the deadline that the dial had.
    """
    host = urlsplit(target.base_url).netloc
    match error:
        case InvalidStatus():
            reply = error.response
            auth_source = ", ".join(reply.headers.get_all("X-Slng-Auth-Source"))
            return refused(reply.status_code, bytes(reply.body or b""), target, auth_source)
        case ConnectionClosed():
            return closed(error, target).error
        case TimeoutError():
            return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, f"{host} was not ready within {seconds:g} s.")
        case ssl.SSLError():
            return GatewayError(
                ErrorCode.UPSTREAM_UNREACHABLE,
                f"The TLS connection to {host} failed: {quote(getattr(error, 'reason', None) or str(error), ())}.",
            )
        case InvalidMessage() | InvalidHandshake() | EOFError():
            text = f"{host} does not answer as a WebSocket server. Check SLNG_BASE_URL."
            return GatewayError(ErrorCode.UPSTREAM_UNREACHABLE, text)
        case OSError():
            detail = error.strerror or str(error) or type(error).__name__
            return GatewayError(
                ErrorCode.UPSTREAM_UNREACHABLE, f"Cannot reach {host}: {quote(detail, target.secrets)}."
            )
    return GatewayError(ErrorCode.UPSTREAM_UNREACHABLE, f"Cannot open a connection to {host}: {type(error).__name__}.")


def refused(status: int, body: bytes, target: Target, auth_source: str | None = None) -> GatewayError:
    """Return the error for an HTTP status that upstream answered instead of a connection or of audio.

    Args:
        auth_source: whose key was refused, from upstream's ``X-Slng-Auth-Source``.
    """
    host = urlsplit(target.base_url).netloc
    text_of_body = _text_of(body, target)
    code = _CODE_OF_STATUS.get(
        status, ErrorCode.BACKEND_CONNECTION_FAILED if status >= 500 else ErrorCode.UPSTREAM_UNREACHABLE
    )
    quoted = f": {text_of_body}" if text_of_body else ""
    match status:
        case 400 if text_of_body:
            text = text_of_body
        case 401 | 403:
            text = (
                f"{host} refused the key (HTTP {status}{quoted}). Check SLNG_API_KEY, and that it is for this gateway."
            )
        case 404 | 502:
            text = (
                f"{host} answered HTTP {status} for {target.model}{quoted}. The model may be misspelt, or not deployed "
                "at this gateway; the catalogue lists where each one runs."
            )
        case 429:
            text = f"{host} allows no more sessions now (HTTP 429{quoted})."
        case _ if status < 400:
            text = f"{host} answered HTTP {status} instead of opening a WebSocket. Check SLNG_BASE_URL."
        case _:
            text = f"{host} answered HTTP {status}{quoted}."
    upstream: dict[str, Any] = {"status": status}
    if auth_source:
        upstream["auth_source"] = quote(auth_source, target.secrets)
    return GatewayError(code, text, status=status if status >= 400 else 502, upstream=upstream)


def closed(error: ConnectionClosed, target: Target) -> Close:
    """Return how a connection ended: upstream closed it, or it was lost."""
    host = urlsplit(target.base_url).netloc
    if error.rcvd is None:
        text = f"The connection to {host} was lost."
        return Close(GatewayError(ErrorCode.UPSTREAM_CLOSED, text, upstream={"close_code": 1006}), 1006)
    code, reason = error.rcvd.code, quote(error.rcvd.reason, target.secrets)
    text = f"{host} closed the connection (code {code}{': ' + reason if reason else ''})."
    upstream = {"close_code": code, "reason": reason}
    return Close(GatewayError(ErrorCode.UPSTREAM_CLOSED, text, upstream=upstream), code, reason)


def cleaned(error: GatewayError, target: Target, *, fatal: bool) -> GatewayError:
    """Return an error of upstream without keys, and fatal or not as it is for the client."""
    return GatewayError(
        quote(error.code, target.secrets),
        quote(error.message, target.secrets),
        status=error.status,
        fatal=fatal,
        upstream=error.upstream,
    )


def _text_of(body: bytes, target: Target) -> str:
    """Return the text of an error body, which is JSON or plain text. A page of HTML has none."""
    text = body[:4096].decode(errors="replace").strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else quote(text, target.secrets)
    if isinstance(value, dict):
        for name in ("error", "message", "detail"):
            if isinstance(value.get(name), str):
                return quote(value[name], target.secrets)
    return quote(text, target.secrets)
