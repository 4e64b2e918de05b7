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

log = logging.getLogger(__name__)


def listen(settings: Settings) -> socket.socket:
    """Open the socket that the settings ask for.

    Raises:
        CannotListen: with what to do.
    """
    if settings.sidecar_uds is not None:
        return listen_unix(settings.sidecar_uds, int(settings.sidecar_uds_mode, 8))
    return listen_tcp(settings.sidecar_host, settings.sidecar_port)


def address_of(sock: socket.socket) -> str:
    """Give the base URL under which a listening socket is reached."""
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
    """Serve until SIGTERM or SIGINT, then let what is being said or heard be finished; a second signal ends at once.

    Args:
        listening: called once requests are taken.
        reread: reads the settings again, on SIGHUP; it may raise ``ConfigError``.
    """
    gateway = Gateway(settings, secrets)
    app = create_app(settings, secrets, gateway)
    # At a terminal SIGHUP means that it was closed.
    reloads = reread is not None and not sys.stdin.isatty()
    with signals(reloads=reloads) as told:
        async with (
            serving(
                app,
                sock,
                max_message_size=int(settings.sidecar_max_message),
                shutdown_timeout=settings.sidecar_close_timeout,
            ),
            Tasks() as tasks,
        ):
            # What is loaded by now stays. A full collection that walks it holds the event loop up for 60 ms.
            gc.freeze()
            listening()
            if reread is not None:
                tasks.start(_reload_when_told(told.reload, gateway, reread), "reload")
            await told.stop.wait()
            draining = tasks.start(gateway.drain(gateway.settings.sidecar_drain_seconds), "drain")
            at_once = tasks.start(told.stop_now.wait(), "second signal")
            await asyncio.wait((draining, at_once), return_when=asyncio.FIRST_COMPLETED)
            gateway.cut_off()
            log.info("stopping")


async def _reload_when_told(event: asyncio.Event, gateway: Gateway, reread: Callable[[], Settings]) -> None:
    while True:
        await event.wait()
        event.clear()
        try:
            settings, changed, fixed = reloaded(gateway.settings, reread())
        except ConfigError as error:
            log.error("SIGHUP: the settings cannot be used, the old ones hold: %s", error)
            continue
        gateway.settings = settings
        logging.getLogger().setLevel(settings.sidecar_log_level.upper())
        log.info("SIGHUP: changed %s", ", ".join(name.upper() for name in changed) or "nothing")
        if fixed:
            log.warning("SIGHUP: these need a restart: %s", ", ".join(name.upper() for name in fixed))
