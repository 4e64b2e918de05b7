"""What went wrong with upstream, said in the client's language and freed of keys."""

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
# A shorter key is a placeholder of somebody's test, and would be found in the middle of words.
_SHORTEST_KEY = 8
# What JSON may escape and need not: a slash (PHP's writers do), and any character by its number (Go's do with &, <, >).
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
    """Give what upstream said without the keys, in case it repeats them, in JSON however it writes them."""
    # The longest first: one key may begin with another.
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
    """Write a character of ASCII in JSON as Python's encoder does, in the place of an escape for it."""
    number, character = escape.groups()
    if number is not None:
        return json.dumps(chr(int(number, 16)))[1:-1]
    return "/" if character == "/" else escape[0]


def quote(text: str, secrets: Iterable[str]) -> str:
    """Give what upstream said in one short line without the keys."""
    text = without_keys(text, secrets)
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MAX_QUOTE else line[: _MAX_QUOTE - 1] + "…"


def dial_failure(error: Exception, target: Target, seconds: float) -> GatewayError:
    """Explain why no connection to upstream came about.

    Args:
        seconds: the deadline that there was.
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
            return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, f"{host} did not get ready within {seconds:g} s.")
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
    """Explain an HTTP status that upstream gave instead of a connection or of sound.

    Args:
        auth_source: whose key was refused, as upstream's ``X-Slng-Auth-Source`` said.
    """
    host = urlsplit(target.base_url).netloc
    said = _said(body, target)
    code = _CODE_OF_STATUS.get(
        status, ErrorCode.BACKEND_CONNECTION_FAILED if status >= 500 else ErrorCode.UPSTREAM_UNREACHABLE
    )
    quoted = f": {said}" if said else ""
    match status:
        case 400 if said:
            text = said
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
            text = f"{host} allows no further session now (HTTP 429{quoted})."
        case _ if status < 400:
            text = f"{host} answered HTTP {status} instead of opening a WebSocket. Check SLNG_BASE_URL."
        case _:
            text = f"{host} answered HTTP {status}{quoted}."
    upstream: dict[str, Any] = {"status": status}
    if auth_source:
        upstream["auth_source"] = quote(auth_source, target.secrets)
    return GatewayError(code, text, status=status if status >= 400 else 502, upstream=upstream)


def closed(error: ConnectionClosed, target: Target) -> Close:
    """Explain the end of a connection, whether upstream closed it or it was lost."""
    host = urlsplit(target.base_url).netloc
    if error.rcvd is None:
        text = f"The connection to {host} was lost."
        return Close(GatewayError(ErrorCode.UPSTREAM_CLOSED, text, upstream={"close_code": 1006}), 1006)
    code, reason = error.rcvd.code, quote(error.rcvd.reason, target.secrets)
    text = f"{host} closed the connection (code {code}{': ' + reason if reason else ''})."
    upstream = {"close_code": code, "reason": reason}
    return Close(GatewayError(ErrorCode.UPSTREAM_CLOSED, text, upstream=upstream), code, reason)


def cleaned(error: GatewayError, target: Target, *, fatal: bool) -> GatewayError:
    """Give an error message of upstream's without keys, and as grave as it is here."""
    return GatewayError(
        quote(error.code, target.secrets),
        quote(error.message, target.secrets),
        status=error.status,
        fatal=fatal,
        upstream=error.upstream,
    )


def _said(body: bytes, target: Target) -> str:
    """Give the text of an error body: upstream's JSON, or plain text, but no page of HTML."""
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
