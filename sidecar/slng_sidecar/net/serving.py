"""uvicorn as the gateway and the simulator run it: with their own signals and sockets, and a way to abort a peer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

_TRANSPORT = "slng.transport"
_BACKLOG = 1024
# These detect a client whose machine or network is gone within two minutes. Nothing else would, because an idle client
# is sent nothing, and no WebSocket pings. Accepted sockets inherit the options. Systems without one keep their default.
_TCP_OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}

_HEAD_SECONDS = 15.0
# Longer than clients keep an idle connection (httpx 5 s, aiohttp 15 s), because a request fails if the server closes
# its connection at the same moment.
_IDLE_SECONDS = 60


class CannotListen(Exception):
    """Raised when a listening socket cannot be opened. The text says why and what to do."""


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which also passes the connection's transport to the application.

    ASGI has no way to abort a peer that stopped reading, and a close frame would wait in the same full buffer.
    """

    async def run_asgi(self) -> None:
        extensions: dict[Any, Any] = self.scope["extensions"]
        extensions[_TRANSPORT] = self.transport
        app = self.app

        async def noting_refusals(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if self.initial_response is not None:
                # Otherwise uvicorn logs an error for every upgrade that is refused with a response.
                self.handshake_complete = True

        self.app = noting_refusals
        await super().run_asgi()


class _HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also passes the transport, and aborts a connection whose request head is late.

    Mutable: ``_head_by``, the timer, while a head is awaited.
    """

    _head_by: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._head_by is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_by = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_by is not None:
            self._head_by.cancel()
            self._head_by = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[Any, Any] = self.scope.setdefault("extensions", {})
        extensions[_TRANSPORT] = self.transport


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers. It reports when it listens, and stops at once when asked to."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Have ``serve`` return once all connections are closed."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Keep the Date header current until ``stop``, without uvicorn's ten wake-ups a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)


def transport_of(scope: Scope) -> asyncio.Transport:
    """Return the transport of a request or WebSocket that ``serving`` serves."""
    transport: asyncio.Transport = scope["extensions"][_TRANSPORT]
    return transport


def listen_tcp(host: str, port: int) -> socket.socket:
    """Open a listening TCP socket. Port 0 chooses a free port.

    Raises:
        CannotListen: the port is in use, or the address is not one of this machine.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise CannotListen(f"{host!r} is not an address to listen on ({error.strerror}).") from None
    family, kind, protocol, _, address = infos[0]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} on {host} is in use. Stop what uses it, or choose another port."
        else:
            text = f"Cannot listen on {host}:{port}: {error.strerror}."
        raise CannotListen(text) from None
    sock.setblocking(False)
    return sock


def listen_unix(path: Path, mode: int) -> socket.socket:
    """Open a listening Unix socket, and replace one on which no process listens any more.

    Args:
        mode: its permissions, whatever the umask. Processes that may write to it may connect.

    Raises:
        CannotListen: another process listens there, or the path cannot be used.
    """
    dead = False
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            # A frozen process may accept no connection, and the probe must not wait for it.
            probe.setblocking(False)
            dead = probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)
        # After any other answer, such as a missing permission, a process may listen on the socket.
        if not dead:
            raise CannotListen(f"{path} is in use by another process.")
    sock = socket.socket(socket.AF_UNIX)
    try:
        if dead:
            path.unlink(missing_ok=True)
        sock.bind(str(path))
        # No process can connect before the socket listens, so the umask never applies.
        path.chmod(mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(f"Cannot listen on {path}: {error.strerror or error}.") from None
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, sock: socket.socket, *, max_message_size: int, shutdown_timeout: float
) -> AsyncIterator[None]:
    """Serve ``app`` on ``sock`` while the block runs. Then close what is left with 1012.

    Args:
        max_message_size: the most bytes of a WebSocket message. A longer one is answered by close 1009.
        shutdown_timeout: seconds that requests have to end once the block is left, before they are cancelled.
    """
    config = uvicorn.Config(
        app,
        http=_HttpProtocol,
        ws=_WebSocketProtocol,
        ws_max_size=max_message_size,
        # Some clients do not read an idle socket, so the server must not depend on pongs.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(shutdown_timeout)),
        server_header=False,
        proxy_headers=False,
        log_config=None,
        # uvicorn logs the query string, which may contain a token.
        log_level="warning",
        access_log=False,
        lifespan="on",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]), name="uvicorn")
    listening = asyncio.create_task(server.listening.wait(), name="uvicorn listening")
    try:
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            raise CannotListen("The server ended while it started.")
        yield
    finally:
        listening.cancel()
        server.stop()
        await task


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals that the process received.

    Attributes:
        stop: set by the first SIGTERM or SIGINT.
        stop_now: set by the second.
        reload: set by SIGHUP. Whoever handles it clears it.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_now: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def stop_or_hurry(self) -> None:
        """Handle a signal to stop: the first one, or a later one."""
        (self.stop_now if self.stop.is_set() else self.stop).set()


@contextlib.contextmanager
def signals(*, reloads: bool = False) -> Iterator[Signals]:
    """Handle SIGTERM and SIGINT, and SIGHUP if it ``reloads``, while the block runs.

    Enter the block before reporting that the process runs, so that no signal is missed.
    """
    loop = asyncio.get_running_loop()
    received = Signals()
    handlers = {signal.SIGTERM: received.stop_or_hurry, signal.SIGINT: received.stop_or_hurry}
    if reloads:
        handlers[signal.SIGHUP] = received.reload.set
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield received
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
