"""The guard: checks the token, the Host and the Origin of every request before any route runs.

A web page must not reach a sidecar on localhost, neither by a plain request (Origin) nor by DNS rebinding (Host).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.net.hosts import is_allowed_host, is_allowed_origin, is_loopback
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.server.replies import refuse

_UNIX_PEER = "the Unix socket"
ALWAYS_OPEN = frozenset({"/healthz", "/readyz"})
_NO_SESSION = frozenset({"/metrics", "/v1/status", "/", "/docs", "/openapi.json"})


class Guard:
    """ASGI middleware that refuses forbidden requests and passes on all others unchanged."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        secrets: Secrets,
        draining: Callable[[], bool],
        refused: Callable[[GatewayError, str], None],
    ) -> None:
        """Create the middleware.

        Args:
            app: the application to guard.
            draining: returns whether the sidecar is about to stop. Then only clients on this machine are served, so
                that a bot which is shutting down as well can still say goodbye.
            refused: called with the error and the client's address for each refused request.
        """
        self._app = app
        self._settings = settings
        self._secrets = secrets
        self._draining = draining
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope)
            except GatewayError as error:
                self._refused(error, peer_of(scope))
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if not scope["path"].isprintable():
            raise GatewayError(ErrorCode.BAD_REQUEST, "The address contains control characters, so it names no model.")
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = self._settings.sidecar_allowed_origins, self._settings.sidecar_allowed_hosts
        if origin is not None and not is_allowed_origin(origin, headers.get("host", ""), *allowed):
            raise GatewayError(
                ErrorCode.FORBIDDEN_ORIGIN,
                "Web pages of other sites may not use this sidecar. To allow one, name its origin in "
                "SIDECAR_ALLOWED_ORIGINS.",
            )
        if scope["path"] in ALWAYS_OPEN:
            return
        token = self._secrets.token
        if token is not None:
            if not any(is_token(shown, token) for shown in _tokens(scope, headers)):
                raise GatewayError(
                    ErrorCode.LOCAL_AUTH,
                    "This sidecar needs its token: send 'Authorization: Bearer <SIDECAR_TOKEN>', X-API-Key or ?token=.",
                )
        elif self._settings.sidecar_uds is None and not all(
            is_allowed_host(host, self._settings.sidecar_allowed_hosts) for host in headers.getlist("host") or [""]
        ):
            raise GatewayError(
                ErrorCode.FORBIDDEN_ORIGIN,
                "This Host name is not allowed. Use 127.0.0.1 or localhost, or name the host in SIDECAR_ALLOWED_HOSTS.",
            )
        if self._draining() and scope["path"] not in _NO_SESSION and not _is_local(scope):
            raise GatewayError(
                ErrorCode.DRAINING, "This sidecar is shutting down. Use another one, or try again later."
            )


def bearer(headers: Headers) -> str | None:
    """Return the bearer token of a request; None if it has none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def peer_of(scope: Scope) -> str:
    """Return the client address of a request. All clients of a Unix socket share one address."""
    client = scope.get("client")
    return (client[0] if client else "") or _UNIX_PEER


def _is_local(scope: Scope) -> bool:
    """Return whether a request comes from this machine: from a loopback address, or over a Unix socket."""
    peer = peer_of(scope)
    return peer == _UNIX_PEER or is_loopback(peer)


def _tokens(scope: Scope, headers: Headers) -> list[str]:
    query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    return [shown for shown in (bearer(headers), headers.get("x-api-key"), *query) if shown]


def is_token(shown: str, token: str | None) -> bool:
    """Return whether a client sent the sidecar's token, in a time that does not depend on the token."""
    return token is not None and hmac.compare_digest(token.encode(), shown.encode(errors="replace"))
