"""The address of a running sidecar, for the commands that use one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect, unix_connect

from slng_sidecar.protocol.route import shown_url

DEFAULT_URL = "http://127.0.0.1:8765"


@dataclass(frozen=True, slots=True)
class SidecarAddress:
    """A sidecar's base URL, ``http://host:port`` or ``unix:/path``, and its token, which ``repr`` hides."""

    url: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        return shown_url(self.url)

    @classmethod
    def of(cls, url: str | None, token: str | None) -> SidecarAddress:
        """Use the given URL and token, else ``SLNG_SIDECAR_URL`` and ``SIDECAR_TOKEN``, else the sidecar's settings.

        Raises:
            ValueError: the URL is not a sidecar's address.
        """
        url = (url or os.environ.get("SLNG_SIDECAR_URL") or _configured()).rstrip("/")
        if not url.startswith("unix:"):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(
                    f"{shown_url(url)!r} is not a sidecar's address. Use one such as {DEFAULT_URL} or unix:/path."
                )
        return cls(url, token or os.environ.get("SIDECAR_TOKEN") or None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request, with the token if there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def _socket(self) -> str | None:
        return self.url.removeprefix("unix:").removeprefix("//") if self.url.startswith("unix:") else None

    def http(self, timeout: float | None) -> httpx.AsyncClient:
        """Return an HTTP client for the sidecar."""
        return httpx.AsyncClient(
            base_url="http://localhost" if self._socket else self.url,
            transport=httpx.AsyncHTTPTransport(uds=self._socket) if self._socket else None,
            headers=self.headers,
            timeout=timeout,
            trust_env=False,
        )

    async def websocket(self, path: str) -> ClientConnection:
        """Open a WebSocket to the sidecar, in the extended dialect.

        Raises:
            OSError, websockets.exceptions.InvalidHandshake: as ``websockets.connect`` does.
        """
        settings: dict[str, Any] = {
            "additional_headers": self.headers,
            "compression": None,
            "ping_interval": None,
            "subprotocols": ["slng-sidecar.v1"],
            "max_size": 16_777_216,
        }
        path = quote(path, safe="/:")
        if self._socket:
            return await unix_connect(self._socket, uri=f"ws://localhost{path}", **settings)
        return await connect(self.url.replace("http", "ws", 1) + path, proxy=None, **settings)


def _configured() -> str:
    """Return the address of a sidecar with the same environment, such as one in the same container."""
    if path := os.environ.get("SIDECAR_UDS"):
        return f"unix:{path}"
    host, port = os.environ.get("SIDECAR_HOST"), os.environ.get("SIDECAR_PORT")
    if host in (None, "", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port or 8765}" if ":" in host else f"http://{host}:{port or 8765}"
