"""HTTP in the tests: a client for gateways, server-sent events, and a server that plays upstream."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


def http_client(url: str) -> httpx.AsyncClient:
    """Return a client of the server at ``url``. It ignores the proxies of the environment."""
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=30)


def server_sent_events(body: str) -> list[dict[str, Any]]:
    """Return the events in the body of a reply."""
    return [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *_arguments: object) -> None: ...


@contextlib.contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve requests in threads while the block runs, and yield the server's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
