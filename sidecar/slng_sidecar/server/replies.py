"""Errors as HTTP replies, with the same body for a request and for a refused upgrade."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from slng_sidecar.protocol.errors import ErrorCode, GatewayError


def error_response(error: GatewayError, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the reply for an error: ``{"error": {...}}`` with its status."""
    headers = dict(headers or {})
    if error.status == 401 and error.code == ErrorCode.LOCAL_AUTH:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (429, 503):
        headers["Retry-After"] = "1"
    if (auth_source := (error.upstream or {}).get("auth_source")) is not None:
        headers["X-Slng-Auth-Source"] = auth_source
    return JSONResponse({"error": error.as_fields()}, error.status, headers)


async def refuse(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request or an upgrade with an error."""
    await error_response(error)(scope, receive, send)


async def disconnected(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
