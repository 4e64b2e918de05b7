"""One upstream WebSocket connection: its dialling, its ``init`` and ``ready``, its messages both ways, and its end."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Literal, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from slng_sidecar import __version__
from slng_sidecar.net.channel import Channel
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.net.timed_send import deliver
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import Ready, UpstreamError, dump, parse_stt
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.failures import cleaned, closed, dial_failure, without_keys

# The idle timer upstream counts messages, not pings; LiveKit's newest client sends one as often.
_KEEPALIVE_SECONDS = 20.0
# Pings find a peer that is gone without a word; upstream's WebSocket servers answer them by themselves.
_PING_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an upstream connection: seconds, and bytes of one message."""

    open_timeout: float = 15
    send_timeout: float = 5
    close_timeout: float = 5
    max_message: int = 16_777_216


class ConnectionOwner(Protocol):
    """Who hears of a connection: nothing, or once ``ready`` and then messages; and once that it is lost."""

    def upstream_ready(self, connection: int, text: str) -> None: ...

    async def upstream_message(self, connection: int, data: str | bytes) -> None: ...

    def upstream_lost(self, connection: int, error: GatewayError) -> None: ...


class Moments(Protocol):
    """Who is told when upstream is dialled, and when the connection is open."""

    def dialling(self) -> None: ...

    def opened(self) -> None: ...


class _Connect(connect):
    """websockets' own, which follows no redirect: the keys are for the gateway that was asked, and no other."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Dialler:
    """Opens upstream connections; holds what they share."""

    def __init__(self, limits: Limits, *, proxy_from_env: bool = False) -> None:
        self.limits = limits
        self._proxy: Literal[True] | None = True if proxy_from_env else None
        self._tls: ssl.SSLContext | None = None

    async def open(self, target: Target) -> ClientConnection:
        """Open the WebSocket.

        Raises:
            OSError, TimeoutError, websockets.exceptions.InvalidHandshake: as websockets does.
        """
        if self._tls is None and target.url.startswith("wss:"):
            # Reading the certificates takes tens of milliseconds, so it is done once, and aside.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return await _Connect(
            target.url,
            additional_headers=target.headers(),
            user_agent_header=f"slng-sidecar/{__version__}",
            ssl=self._tls if target.url.startswith("wss:") else None,
            proxy=self._proxy,
            # Deepgram's route has refused upgrades that offer compression (LiveKit's comment); speech gains nothing.
            compression=None,
            open_timeout=None,  # one deadline of ours spans everything up to ready
            close_timeout=self.limits.close_timeout,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            max_size=self.limits.max_message,
        )

    def joined(self) -> None:
        """Note that somebody waits for a connection that is being opened already."""


class TellingDialler(Dialler):
    """Another dialler that also tells somebody when."""

    def __init__(self, dialler: Dialler, moments: Moments) -> None:
        super().__init__(dialler.limits)
        self._dialler = dialler
        self._moments = moments

    async def open(self, target: Target) -> ClientConnection:
        self._moments.dialling()
        socket = await self._dialler.open(target)
        self._moments.opened()
        return socket

    def joined(self) -> None:
        # How much of the wait is whose cannot be told apart.
        self._moments.dialling()
        self._moments.opened()


class UpstreamConnection:
    """An upstream connection and the only owner of its socket.

    Mutable: ``number`` and ``_owner``, once, by ``give_to``; ``_socket``, while open; ``_opening``, the task to cancel
    until it is; ``_retiring``, with ``_abort``, its deadline; ``_told_lost``, once its owner knows that it is gone;
    ``_sent_at``, when something was last sent.

    Attributes:
        task: that runs ``run``.
        ready_at: since when it is ready, on the loop's clock.
    """

    def __init__(self, number: int, target: Target, init: str, dialler: Dialler, owner: ConnectionOwner) -> None:
        self.number = number
        self.outbox = Channel()
        self.task: asyncio.Task[None] | None = None
        self.ready_at: float | None = None
        self._target = target
        self._init = init
        self._dialler = dialler
        self._owner = owner
        self._socket: ClientConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._retiring = False
        self._told_lost = False
        self._abort: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    def __repr__(self) -> str:
        state = "retiring" if self._retiring else "open" if self._socket else "opening"
        return f"Connection({self.number} {state} {self._target.kind} {self._target.model}, {self.outbox})"

    def give_to(self, owner: ConnectionOwner, number: int, ready: str | None) -> None:
        """Change hands; the new owner hears soon that it is ready, if it is."""
        self._owner, self.number = owner, number
        if ready is not None:
            asyncio.get_running_loop().call_soon(self._tell_ready, ready)

    def _tell_ready(self, ready: str) -> None:
        if not self._retiring and not self._told_lost:
            self._owner.upstream_ready(self.number, ready)

    def send(self, data: str | bytes) -> None:
        """Send a message after those before it."""
        self.outbox.put(data)

    def retire(self) -> None:
        """Close once what was sent has left, or at once while still opening; the owner hears no more of it.

        Both have the close timeout together; then the connection is aborted.
        """
        if self._retiring:
            return
        self._retiring = True
        self.outbox.finish()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            self._abort = loop.call_later(self._dialler.limits.close_timeout, self._socket.transport.abort)
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    async def run(self) -> None:
        """Live this connection's life; returns when it is over and closed."""
        limits = self._dialler.limits
        if self._retiring:
            return
        self._opening = asyncio.current_task()
        try:
            async with asyncio.timeout(limits.open_timeout):
                ready = await self._open()
            self._opening = None
            self.ready_at = asyncio.get_running_loop().time()
            self._owner.upstream_ready(self.number, ready)
            async with Tasks() as tasks:
                tasks.start(self._write(), f"upstream {self.number} writer")
                tasks.start(self._keep_alive(), f"upstream {self.number} keepalive")
                await self._read()
        except asyncio.CancelledError:
            if not self._retiring:
                raise
        except GatewayError as error:
            self._lost(error)
        except ConnectionClosed as error:
            self._lost(closed(error, self._target))
        except (OSError, EOFError, WebSocketException) as error:
            self._lost(dial_failure(error, self._target, limits.open_timeout))
        finally:
            self.outbox.discard()
            if self._socket is not None:
                await self._socket.close()
            if self._abort is not None:
                self._abort.cancel()

    async def _open(self) -> str:
        """Dial, say ``init`` and await ``ready``."""
        self._socket = await self._dialler.open(self._target)
        await self._socket.send(self._init)
        self._sent_at = asyncio.get_running_loop().time()
        while True:
            text = await self._socket.recv()
            if not isinstance(text, str):
                continue
            try:
                message = parse_stt(text)  # ready and errors look alike on both bridges
            except GatewayError:
                continue
            if isinstance(message, Ready):
                return without_keys(text, self._target.secrets)
            if isinstance(message, UpstreamError):
                raise cleaned(message.error, self._target, fatal=True)

    async def _read(self) -> None:
        assert self._socket is not None
        while True:
            data = await self._socket.recv()
            if self._retiring:
                continue
            if isinstance(data, str):
                data = without_keys(data, self._target.secrets)
            await self._owner.upstream_message(self.number, data)

    async def _write(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        seconds = self._dialler.limits.send_timeout
        while (data := await self.outbox.take()) is not None:
            await deliver(self._socket.send(data), len(data), self._socket.transport, seconds)
            self._sent_at = loop.time()
        await self._socket.close()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            idle = loop.time() - self._sent_at
            if idle >= _KEEPALIVE_SECONDS:
                self.send(dump({"type": "keepalive"}))
                idle = 0
            await asyncio.sleep(_KEEPALIVE_SECONDS - idle)

    def _lost(self, error: GatewayError) -> None:
        if not self._retiring:
            self._told_lost = True
            self._owner.upstream_lost(self.number, error)
