"""One upstream WebSocket connection: its dial, its ``init`` and ``ready``, its messages both ways, and its end."""

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
from slng_sidecar.protocol.errors import Close, GatewayError
from slng_sidecar.protocol.messages import Ready, UpstreamError, dump, parse_stt
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.failures import cleaned, closed, dial_failure, without_keys

# Upstream's idle timer counts messages, not pings. LiveKit's newest client sends one at this interval.
_KEEPALIVE_SECONDS = 20.0
# Pings detect a peer that is gone without a close. Upstream's WebSocket servers answer them by themselves.
_PING_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an upstream connection: seconds, and bytes of one message."""

    open_timeout: float = 15
    send_timeout: float = 5
    close_timeout: float = 5
    max_message: int = 16_777_216


class ConnectionOwner(Protocol):
    """Gets the news of a connection: nothing, or ``ready`` once and then messages, and once that it is lost."""

    def upstream_opened(self, connection: int) -> None:
        """Handle the open WebSocket, before its ``init`` is sent."""

    def upstream_ready(self, connection: int, text: str) -> None:
        """Handle upstream's ``ready``."""

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        """Handle a message. The connection reads no further until this returns."""

    def upstream_lost(self, connection: int, close: Close) -> None:
        """Handle the end of a connection that was not retired."""


class _Connect(connect):
    """websockets' ``connect`` without redirects, because the keys are for the configured gateway only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Dialler:
    """Opens upstream connections and holds what they share: limits, proxy and TLS context."""

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
            # Reading the certificates takes tens of milliseconds, so it is done once and in a thread.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return await _Connect(
            target.url,
            additional_headers=target.headers(),
            user_agent_header=f"slng-sidecar/{__version__}",
            ssl=self._tls if target.url.startswith("wss:") else None,
            proxy=self._proxy,
            # Deepgram's route has refused upgrades that offer compression (a comment in LiveKit's code).
            compression=None,
            open_timeout=None,  # one deadline spans everything up to ready
            close_timeout=self.limits.close_timeout,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            max_size=self.limits.max_message,
        )


class UpstreamConnection:
    """An upstream connection, and the only owner of its socket.

    Mutable: ``number`` and ``_owner``, once, by ``give_to``; ``_socket``, while it is open; ``_opening``, the task to
    cancel until it is; ``_retiring``, with ``_abort``, its deadline; ``_loss_reported``, once the owner knows that it
    is gone; ``_sent_at``, when a message was last sent.

    Attributes:
        outgoing: what waits to be sent.
        task: the task that runs ``run``.
        ready_at: since when it is ready, on the loop's clock.
    """

    def __init__(self, number: int, target: Target, init: str, dialler: Dialler, owner: ConnectionOwner) -> None:
        self.number = number
        self.outgoing: Channel[str | bytes] = Channel()
        self.task: asyncio.Task[None] | None = None
        self.ready_at: float | None = None
        self._target = target
        self._init = init
        self._dialler = dialler
        self._owner = owner
        self._socket: ClientConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._retiring = False
        self._loss_reported = False
        self._abort: asyncio.TimerHandle | None = None
        self._sent_at = 0.0

    def __repr__(self) -> str:
        state = "retiring" if self._retiring else "open" if self._socket else "opening"
        return f"UpstreamConnection({self.number} {state} {self._target.kind} {self._target.model}, {self.outgoing})"

    def give_to(self, owner: ConnectionOwner, number: int, ready: str | None) -> None:
        """Change the owner. If the connection is ready, the new owner gets its ``ready`` soon."""
        self._owner, self.number = owner, number
        if ready is not None:
            asyncio.get_running_loop().call_soon(self._report_ready, ready)

    def _report_ready(self, ready: str) -> None:
        if not self._retiring and not self._loss_reported:
            self._owner.upstream_ready(self.number, ready)

    def send(self, data: str | bytes) -> None:
        """Queue a message to be sent."""
        self.outgoing.put(data)

    def retire(self) -> None:
        """Close after pending writes are flushed, or at once if it is still opening. The owner gets no more news.

        Flushing and closing together have the close timeout. Then the connection is aborted.
        """
        if self._retiring:
            return
        self._retiring = True
        self.outgoing.finish()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            self._abort = loop.call_later(self._dialler.limits.close_timeout, self._socket.transport.abort)
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    async def run(self) -> None:
        """Run the connection from its dial to its end. Return when it is closed."""
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
            self._lost(Close(error))
        except ConnectionClosed as error:
            self._lost(closed(error, self._target))
        except (OSError, EOFError, WebSocketException) as error:
            self._lost(Close(dial_failure(error, self._target, limits.open_timeout)))
        finally:
            self.outgoing.discard()
            if self._socket is not None:
                await self._socket.close()
            if self._abort is not None:
                self._abort.cancel()

    async def _open(self) -> str:
        """Dial, send ``init`` and wait for ``ready``."""
        self._socket = await self._dialler.open(self._target)
        self._owner.upstream_opened(self.number)
        await self._socket.send(self._init)
        self._sent_at = asyncio.get_running_loop().time()
        while True:
            text = await self._socket.recv()
            if not isinstance(text, str):
                continue
            try:
                message = parse_stt(text)  # ready and errors have the same form on both bridges
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
        while (data := await self.outgoing.take()) is not None:
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

    def _lost(self, close: Close) -> None:
        if not self._retiring:
            self._loss_reported = True
            self._owner.upstream_lost(self.number, close)
