"""The WebSocket to the sidecar: one task connects, sends, receives and reconnects.

This module does not decide what to send. A ``ReplayQueue`` supplies the ``init`` of each connection and then the
messages in order. Only the queue knows what must be sent again on a new connection, and a service that adds a message
never waits for the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from loguru import logger
from pipecat.services.ai_service import AIService
from pipecat.utils.errors import ErrorCategory
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from pipecat_slng_sidecar.failures import Failure, failure_from_error, failure_from_reply
from pipecat_slng_sidecar.options import SUBPROTOCOL, Address
from pipecat_slng_sidecar.stall_guard import SEND_TIMEOUT, StallGuard

# The wait before a retry, in seconds: the first one, then twice as long each time up to the longest. A restart of the
# sidecar takes a second or two, so these waits are short.
FIRST_WAIT, LONGEST_WAIT = 0.05, 0.5
# After an outage of this many seconds the service counts as permanently failed. It is then retried at this interval.
GIVE_UP_AFTER, WAIT_AFTER_GIVING_UP = 30.0, 5.0
_OPEN_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 0.5
# Pings detect a frozen sidecar while its socket still accepts data. Once the socket is full, ``StallGuard`` does.
# Together they must stay below the 30 s of audio that the plugin keeps, so that no audio is lost before the detection.
_PING_INTERVAL, _PING_TIMEOUT = 8.0, 18.0
# Before version 15, websockets has no proxy support and would pass the argument on to the socket.
_NO_PROXY: dict[str, Any] = {"proxy": None} if "proxy" in inspect.signature(connect.__init__).parameters else {}


class ReplayQueue(Protocol):
    """The messages of one service in order, including those that a new connection must send again."""

    def begin_connection(self) -> tuple[str, dict[str, Any]]:
        """Queue again what is not settled, and return the model and the ``init`` of a new connection."""
        ...

    def next_message(self) -> str | bytes | None:
        """Return the next message to send, or ``None`` if there is none."""
        ...

    def end_connection(self) -> None:
        """Record that the connection is closed."""
        ...


class SidecarConnection:
    """The connection of one service to the sidecar. It reconnects for as long as the service runs.

    Mutable, and changed only by its own task: ``_is_ready``, whether the sidecar has sent ``ready``; ``_draining``,
    whether the sidecar is about to stop; ``_down_since``, when the current outage began; ``_gave_up``, whether that
    outage was reported as permanent. ``finish`` and ``stop`` set ``_closing``.
    """

    def __init__(
        self,
        owner: AIService,
        address: Address,
        kind: str,
        headers: dict[str, str],
        queue: ReplayQueue,
        *,
        on_message: Callable[[dict[str, Any]], Awaitable[None]],
        on_audio: Callable[[bytes], Awaitable[None]],
        on_ready: Callable[[], Awaitable[None]],
        on_lost: Callable[[], Awaitable[None]],
        on_given_up: Callable[[], Awaitable[None]],
    ) -> None:
        """Create a connection that does nothing before ``start``.

        Args:
            owner: the service that runs the task and emits the events and errors.
            address: where the sidecar listens.
            kind: ``stt`` or ``tts``.
            headers: the headers of each WebSocket upgrade.
            queue: supplies the messages to send.
            on_message: called with each JSON message except ``ready`` and fatal errors.
            on_audio: called with each binary message.
            on_ready: called when the sidecar reports that upstream is ready.
            on_lost: called when a connection has ended or a connection attempt has failed.
            on_given_up: called when the outage has become permanent, after its error was pushed.
        """
        self._owner = owner
        self._address = address
        self._kind = kind
        self._headers = headers
        self._queue = queue
        self._on_message = on_message
        self._on_audio = on_audio
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_given_up = on_given_up
        self._queue_changed = asyncio.Event()
        self._may_push = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._is_ready = False
        self._draining = False
        self._down_since: float | None = None
        self._gave_up = False

    def __repr__(self) -> str:
        if self._is_ready:
            state = "ready"
        else:
            state = "given up" if self._gave_up else "down" if self._down_since else "connecting"
        return f"SidecarConnection({self._kind} at {self._address}, {state})"

    @property
    def is_down(self) -> bool:
        """Whether there is an outage that was reported."""
        return self._down_since is not None

    @property
    def down_for(self) -> float:
        """The duration of the current outage in seconds, or 0 without one."""
        return 0.0 if self._down_since is None else asyncio.get_running_loop().time() - self._down_since

    def start(self) -> None:
        """Start connecting and return at once. No frames are pushed before ``allow_frames``."""
        self._closing = False
        if self._task is None or self._task.done():
            self._task = self._owner.create_task(self._run(), name="sidecar connection")

    def allow_frames(self) -> None:
        """Allow frames to be pushed, because the StartFrame has passed."""
        self._may_push.set()

    def notify(self) -> None:
        """Wake the sender, because a message was added to the replay queue."""
        self._queue_changed.set()

    async def finish(self, timeout: float) -> None:
        """Wait until the sidecar has answered the queue's ``close`` by closing, then stop.

        If the sidecar is down, stop at once.

        Args:
            timeout: how many seconds to wait at most.
        """
        self._closing = True
        self.notify()
        if self._task is not None and not self.is_down:
            await asyncio.wait([self._task], timeout=timeout)
        await self.stop()

    async def stop(self) -> None:
        """Close the connection and end its task now."""
        self._closing = True
        task, self._task = self._task, None
        if task is not None:
            await self._owner.cancel_task(task)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                failure = await self._run_once()
            finally:
                self._queue.end_connection()
                was_ready, self._is_ready = self._is_ready, False
                if was_ready:
                    await self._owner._call_event_handler("on_disconnected")
            if self._closing:
                return
            if was_ready:
                wait = FIRST_WAIT
            await self._may_push.wait()
            await self._on_lost()
            await self._report_failure(failure)
            if failure.permanent:
                return
            await asyncio.sleep(WAIT_AFTER_GIVING_UP if self._gave_up else wait)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _run_once(self) -> Failure:
        """Open one connection, use it until it ends, and return the failure that ended it."""
        model, init = self._queue.begin_connection()
        self._draining = False
        try:
            async with self._dial(model) as websocket:
                if websocket.subprotocol != SUBPROTOCOL:
                    return self._wrong_server(f"does not support the subprotocol {SUBPROTOCOL}")
                with StallGuard(websocket) as guard:
                    await guard.send(json.dumps(init))
                    return await self._exchange(websocket, guard)
        except InvalidStatus as error:
            return failure_from_reply(error.response.status_code, bytes(error.response.body or b""), self._address)
        except (OSError, TimeoutError, ConnectionClosed, InvalidMessage) as error:
            return self._unreachable(error)
        except InvalidHandshake:
            return self._wrong_server("does not answer as a WebSocket server")

    def _dial(self, model: str) -> Any:
        options: dict[str, Any] = {
            "additional_headers": self._headers,
            "subprotocols": [Subprotocol(SUBPROTOCOL)],
            "compression": None,
            "open_timeout": _OPEN_TIMEOUT,
            "ping_interval": _PING_INTERVAL,
            "ping_timeout": _PING_TIMEOUT,
            "close_timeout": _CLOSE_TIMEOUT,
            "max_size": None,
            **_NO_PROXY,
        }
        url = self._address.websocket_url(self._kind, model)
        return unix_connect(self._address.socket, url, **options) if self._address.socket else connect(url, **options)

    async def _exchange(self, websocket: ClientConnection, guard: StallGuard) -> Failure:
        sending = asyncio.create_task(self._send(guard))
        try:
            return await self._receive(websocket, guard)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send(self, guard: StallGuard) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._queue_changed.clear()
                while (message := self._queue.next_message()) is not None:
                    await guard.send(message)
                await self._queue_changed.wait()

    async def _receive(self, websocket: ClientConnection, guard: StallGuard) -> Failure:
        last: Failure | None = None
        try:
            async for data in websocket:
                if not self._may_push.is_set():
                    await self._may_push.wait()
                last = await self._handle(data) or last
        except ConnectionClosed as error:
            if guard.is_stalled:
                return last or self._lost(f"accepted no data for {SEND_TIMEOUT:.0f} s")
            return last or self._unreachable(error)
        code, reason = websocket.close_code, websocket.close_reason
        return last or self._lost(
            f"closed the connection ({code} {reason})" if reason else f"closed the connection ({code})"
        )

    async def _handle(self, data: str | bytes) -> Failure | None:
        """Handle one message. Return the failure if the message is a fatal error."""
        try:
            if isinstance(data, bytes):
                await self._on_audio(data)
                return None
            message = json.loads(data)
            if message["type"] == "error" and message.get("fatal"):
                return failure_from_error(message)
            if message["type"] == "status" and message.get("state") == "draining":
                self._draining = True
            # A sidecar that is about to stop still accepts the queued messages, but the outage is not over.
            if message["type"] == "ready" and not self._draining:
                await self._handle_ready()
            else:
                await self._on_message(message)
        except Exception as error:
            # One message that cannot be handled must not end the session.
            await self._owner.push_error(f"Could not handle a message from the sidecar: {error!r}", exception=error)
        return None

    async def _handle_ready(self) -> None:
        self._is_ready = True
        self._down_since = None
        if self._gave_up:
            self._gave_up = False
            await self._owner.set_usable(True)
        logger.debug(f"{self._owner}: connected to the sidecar at {self._address}")
        await self._owner._call_event_handler("on_connected")
        await self._on_ready()

    async def _report_failure(self, failure: Failure) -> None:
        """Report a failure if it begins an outage or makes the current one permanent."""
        now = asyncio.get_running_loop().time()
        is_first = self._down_since is None
        if self._down_since is None:
            self._down_since = now
        if self._gave_up:
            return
        if failure.permanent:
            await self._give_up(failure, failure.message)
        elif now - self._down_since >= GIVE_UP_AFTER:
            message = f"{failure.message} The sidecar has been away for {GIVE_UP_AFTER:.0f} s."
            await self._give_up(failure, message)
        elif is_first:
            await self._report(failure.message, failure.category, permanent=False)

    async def _give_up(self, failure: Failure, message: str) -> None:
        self._gave_up = True
        await self._report(message, failure.category, permanent=True)
        await self._on_given_up()

    async def _report(self, message: str, category: ErrorCategory, *, permanent: bool) -> None:
        await self._owner._call_event_handler("on_connection_error", message)
        await self._owner.push_error(message, category=category, force_treat_as_permanent=permanent)

    def _unreachable(self, error: Exception) -> Failure:
        if isinstance(error, ConnectionClosed):
            return self._lost("closed the connection" if error.rcvd else "dropped the connection")
        is_silent = isinstance(error, (TimeoutError, InvalidMessage))
        cause = "no answer" if is_silent else str(error) or type(error).__name__
        return Failure(
            f"Cannot connect to a sidecar at {self._address} ({cause}). The plugin keeps trying. If none is running, "
            "start one with `slng-sidecar serve`.",
            ErrorCategory.CONNECTIVITY,
        )

    def _lost(self, cause: str) -> Failure:
        cause = "is shutting down" if self._draining else cause
        return Failure(
            f"The sidecar at {self._address} {cause}. The plugin keeps trying to reconnect.", ErrorCategory.CONNECTIVITY
        )

    def _wrong_server(self, reason: str) -> Failure:
        return Failure(
            f"The server at {self._address} {reason}, so it is not a slng-sidecar. Check `sidecar_url`.",
            ErrorCategory.INVALID_REQUEST,
            permanent=True,
        )
