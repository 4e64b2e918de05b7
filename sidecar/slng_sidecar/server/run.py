"""Running the gateway as a process: its socket, its signals and its end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from slng_sidecar.config import Secrets, Settings
from slng_sidecar.server.app import create_app
from slng_sidecar.serving import listen_tcp, listen_unix, serving, stop_signal

log = logging.getLogger(__name__)


def listen(settings: Settings) -> socket.socket:
    """Open the socket that the settings ask for.

    Raises:
        CannotListen: with what to do.
    """
    if settings.sidecar_uds is not None:
        return listen_unix(settings.sidecar_uds)
    return listen_tcp(settings.sidecar_host, settings.sidecar_port)


def address_of(sock: socket.socket) -> str:
    """Give the base URL under which a listening socket is reached."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_gateway(
    settings: Settings, secrets: Secrets, sock: socket.socket, listening: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        listening: called once requests are taken.
    """
    app = create_app(settings, secrets)
    with stop_signal() as stop:
        async with serving(
            app,
            sock,
            max_message_size=int(settings.sidecar_max_message),
            shutdown_timeout=settings.sidecar_close_timeout,
        ):
            listening()
            await stop.wait()
            log.info("stopping")
