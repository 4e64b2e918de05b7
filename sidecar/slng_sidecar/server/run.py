"""Running the gateway as a process: its socket, its signals and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import Callable

from slng_sidecar.config import Settings, reloaded
from slng_sidecar.keys import ConfigError, Secrets
from slng_sidecar.net.serving import listen_tcp, listen_unix, serving, signals
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.server.app import create_app
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.services import Services

log = logging.getLogger(__name__)


def listen(settings: Settings) -> socket.socket:
    """Open the socket that the settings ask for.

    Raises:
        CannotListen: the socket cannot be opened. The text says what to do.
    """
    if settings.sidecar_uds is not None:
        return listen_unix(settings.sidecar_uds, int(settings.sidecar_uds_mode, 8))
    return listen_tcp(settings.sidecar_host, settings.sidecar_port)


def address_of(sock: socket.socket) -> str:
    """Return the base URL of a listening socket."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_gateway(
    settings: Settings,
    secrets: Secrets,
    sock: socket.socket,
    listening: Callable[[], None] = lambda: None,
    reread: Callable[[], Settings] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal ends at once.

    Args:
        listening: called once requests are accepted.
        reread: reads the settings again on SIGHUP. It may raise ``ConfigError``.
    """
    services = Services(settings, secrets)
    gateway = Gateway(services)
    app = create_app(gateway)
    # At a terminal, SIGHUP means that the terminal was closed.
    reloads = reread is not None and not sys.stdin.isatty()
    with signals(reloads=reloads) as received:
        async with (
            serving(
                app,
                sock,
                max_message_size=int(settings.sidecar_max_message),
                shutdown_timeout=settings.sidecar_close_timeout,
            ),
            Tasks() as tasks,
        ):
            # Objects that exist by now stay. A full garbage collection that visits them blocks the loop for 60 ms.
            gc.freeze()
            listening()
            if reread is not None:
                tasks.start(_reload_on_signal(received.reload, services, reread), "reload")
            await received.stop.wait()
            draining = tasks.start(gateway.drain(services.settings.sidecar_drain_seconds), "drain")
            at_once = tasks.start(received.stop_now.wait(), "second signal")
            await asyncio.wait((draining, at_once), return_when=asyncio.FIRST_COMPLETED)
            gateway.cut_off()
            log.info("stopping")


async def _reload_on_signal(event: asyncio.Event, services: Services, reread: Callable[[], Settings]) -> None:
    while True:
        await event.wait()
        event.clear()
        try:
            settings, changed, fixed = reloaded(services.settings, reread())
        except ConfigError as error:
            log.error("SIGHUP: the settings cannot be used, so the previous ones stay: %s", error)
            continue
        services.settings = settings
        logging.getLogger().setLevel(settings.sidecar_log_level.upper())
        log.info("SIGHUP: changed %s", ", ".join(name.upper() for name in changed) or "nothing")
        if fixed:
            log.warning("SIGHUP: these need a restart: %s", ", ".join(name.upper() for name in fixed))
