"""Who may use the sidecar: the token, the Host and the Origin of every request, checked before any route runs.

A web page must not reach a sidecar on localhost, be it by a plain request (Origin) or after DNS rebinding (Host).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.server.replies import refuse

ALWAYS_OPEN = frozenset({"/healthz", "/readyz"})
_NO_SESSION = frozenset({"/metrics", "/v1/status", "/", "/docs", "/openapi.json"})


class Guard:
    """ASGI middleware that refuses what must not come in; everything else passes untouched."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        secrets: Secrets,
        draining: Callable[[], bool],
        refused: Callable[[GatewayError, str], None],
    ) -> None:
        """Stand before ``app``.

        Args:
            draining: whether the sidecar is about to stop; then only this machine is still served, so that a bot that
                is shutting down as well can say goodbye.
            refused: is told of each request that is refused, and of whose it is.
        """
        self._app = app
        self._settings = settings
        self._secrets = secrets
        self._draining = draining
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            raise GatewayError(ErrorCode.BAD_REQUEST, "The address holds control characters; it is not a model's.")
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and not self._origin_allowed(origin, headers.get("host", "")):
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
        elif self._settings.sidecar_uds is None and not all(map(self._host_allowed, headers.getlist("host") or [""])):
            raise GatewayError(
                ErrorCode.FORBIDDEN_ORIGIN,
                "This Host name is not taken. Use 127.0.0.1 or localhost, or name the host in SIDECAR_ALLOWED_HOSTS.",
            )
        if self._draining() and scope["path"] not in _NO_SESSION and not _is_local(scope):
            raise GatewayError(
                ErrorCode.DRAINING, "This sidecar is shutting down; use another one, or try again later."
            )

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if origin in self._settings.sidecar_allowed_origins:
            return True
        # A page that this sidecar itself served.
        return origin in (f"http://{host}", f"https://{host}") and self._host_allowed(host)

    def _host_allowed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self._settings.sidecar_allowed_hosts:
            return True
        if host in self._settings.sidecar_allowed_hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def bearer(headers: Headers) -> str | None:
    """Give the bearer token of a request."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def peer_of(scope: Scope) -> str:
    """Give the address that a request comes from; all who use a Unix socket are one."""
    client = scope.get("client")
    return (client[0] if client else "") or "the Unix socket"


def _is_local(scope: Scope) -> bool:
    """Tell whether a request comes from this machine: from a loopback address, or over a Unix socket."""
    try:
        return ipaddress.ip_address(peer_of(scope)).is_loopback
    except ValueError:
        return True


def _tokens(scope: Scope, headers: Headers) -> list[str]:
    query = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    return [shown for shown in (bearer(headers), headers.get("x-api-key"), *query) if shown]


def is_token(shown: str, token: str | None) -> bool:
    """Tell whether what a client shows is the sidecar's token, in a time that tells nothing of it."""
    return token is not None and hmac.compare_digest(token.encode(), shown.encode(errors="replace"))
