"""uvicorn as the gateway and the simulator run it: our signals, our socket, and a way to abort a stuck peer."""

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
# A client whose machine or network is gone without a word is noticed two minutes after its last: nothing else would,
# as an idle client is sent nothing, and no WebSocket pings. Accepted sockets inherit it; names that a system lacks are
# left to its defaults.
_TCP_OPTIONS = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}

_HEAD_SECONDS = 15.0
# Longer than clients keep an idle connection (httpx 5 s, aiohttp 15 s): one that is closed just when it is used again
# fails a request.
_IDLE_SECONDS = 60


class CannotListen(Exception):
    """Raised when the address cannot be listened on; its text says why and what to do."""


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which also hands the connection's transport to the application.

    ASGI has no way to abort a peer that stopped reading, and a close frame would wait behind what it does not read.
    """

    async def run_asgi(self) -> None:
        extensions: dict[Any, Any] = self.scope["extensions"]
        extensions[_TRANSPORT] = self.transport
        app = self.app

        async def noting_refusals(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if self.initial_response is not None:
                # Else uvicorn logs an error for every upgrade that is refused by a response.
                self.handshake_complete = True

        self.app = noting_refusals
        await super().run_asgi()


class _HttpProtocol(HttpToolsProtocol):
    """uvicorn's own, likewise, which gives up a connection whose request's head does not come whole.

    Mutable: ``_head_by``, the timer for that, while a head is awaited.
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
    """uvicorn's own, without its signal handlers, saying when it listens and stopping at once when told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let ``serve`` return once what is open is closed."""
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
    """Give the transport under a request or WebSocket that came through ``serving``."""
    transport: asyncio.Transport = scope["extensions"][_TRANSPORT]
    return transport


def listen_tcp(host: str, port: int) -> socket.socket:
    """Open a listening TCP socket; port 0 takes a free one.

    Raises:
        CannotListen: the port is taken, or the address is not this machine's.
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
    """Open a listening Unix socket, taking the place of a dead one.

    Args:
        mode: its permissions, whatever the umask; who may write to it may connect.

    Raises:
        CannotListen: another process listens there, or the path cannot be used.
    """
    dead = False
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            # One that is frozen takes no more connections at some time, and must not hold us up.
            probe.setblocking(False)
            dead = probe.connect_ex(str(path)) in (errno.ECONNREFUSED, errno.ENOENT)
        # Any other answer, such as that we may not connect, is of one that somebody may listen on.
        if not dead:
            raise CannotListen(f"{path} is in use by another process.")
    sock = socket.socket(socket.AF_UNIX)
    try:
        if dead:
            path.unlink(missing_ok=True)
        sock.bind(str(path))
        # Nobody gets in before it listens, so there is no moment with the permissions of the umask.
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
    """Serve ``app`` on ``sock`` while the block runs, then stop: what is left is closed with 1012.

    Args:
        max_message_size: the longest WebSocket message taken, in bytes; a longer one is answered by close 1009.
        shutdown_timeout: seconds that requests get to end once the block is left; then they are cancelled.
    """
    config = uvicorn.Config(
        app,
        http=_HttpProtocol,
        ws=_WebSocketProtocol,
        ws_max_size=max_message_size,
        # Clients exist that do not read an idle socket, so nothing of ours may depend on a pong.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, round(shutdown_timeout)),
        server_header=False,
        proxy_headers=False,
        log_config=None,
        # uvicorn logs the query string, which may hold a token.
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
    """What the process was told.

    Attributes:
        stop: set by the first SIGTERM or SIGINT.
        stop_now: set by the second.
        reload: set by SIGHUP; who has seen it clears it.
    """

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stop_now: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)

    def stop_or_hurry(self) -> None:
        """Take a signal to stop: the first, or another one."""
        (self.stop_now if self.stop.is_set() else self.stop).set()


@contextlib.contextmanager
def signals(*, reloads: bool = False) -> Iterator[Signals]:
    """Take SIGTERM and SIGINT, and SIGHUP where it ``reloads``; enter it before telling anyone that we run."""
    loop = asyncio.get_running_loop()
    told = Signals()
    handlers = {signal.SIGTERM: told.stop_or_hurry, signal.SIGINT: told.stop_or_hurry}
    if reloads:
        handlers[signal.SIGHUP] = told.reload.set
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield told
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
