"""The WebSocket to the sidecar: one task that connects, sends, receives, and connects again.

What is said is not decided here. A ``ReplayQueue`` gives the opening of each connection and then one message after the
other, so that what must be said again on a new connection is the script's knowledge alone, and nothing that calls a
service ever waits for the network.
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

from pipecat_slng_sidecar.failures import Failure, failure_of, failure_of_reply
from pipecat_slng_sidecar.options import SUBPROTOCOL, Address
from pipecat_slng_sidecar.stall_guard import SEND_TIMEOUT, StallGuard

# A restart of the sidecar takes a second or two; after OUTAGE seconds without it the service gives up (issue of the
# plugin: "50-500 ms, for 30 s before it is permanent"), and looks only now and then whether it is back.
FIRST_WAIT, LONGEST_WAIT, OUTAGE, LATER_WAIT = 0.05, 0.5, 30.0, 5.0
_OPEN_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 0.5
# A frozen sidecar is noticed after these while its socket takes what is sent; then by what waits (``sending``).
# Together less than the audio that is kept, 30 s, so that none was given up when a frozen sidecar is noticed.
_PING_INTERVAL, _PING_TIMEOUT = 8.0, 18.0
# websockets before 15 knows no proxies and would pass the argument on to the socket.
_NO_PROXY: dict[str, Any] = {"proxy": None} if "proxy" in inspect.signature(connect.__init__).parameters else {}


class ReplayQueue(Protocol):
    """What is said on a connection, in its order."""

    def opening(self) -> tuple[str, dict[str, Any]]:
        """Begin a new connection: give its model and its ``init``; what is not done with goes again."""
        ...

    def next(self) -> str | bytes | None:
        """Give what is to be sent next, or ``None`` while there is nothing."""
        ...

    def closed(self) -> None:
        """Hear that the connection is gone."""
        ...


class SidecarConnection:
    """A service's connection to the sidecar, for as long as the service lives.

    Mutable, and only by its own task: ``_up``, whether the sidecar has said ``ready``; ``_draining``, whether it is
    about to stop; ``_down_since``, when the outage that lasts began; ``_gave_up``, whether it was reported as
    permanent. ``_closing`` is set by ``finish`` and ``stop``.
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
        on_up: Callable[[], Awaitable[None]],
        on_lost: Callable[[], Awaitable[None]],
        on_given_up: Callable[[], Awaitable[None]],
    ) -> None:
        """Make a link, which does nothing before ``start``.

        Args:
            owner: whose events and errors the changes of state become.
            kind: ``stt`` or ``tts``.
            headers: of each upgrade.
            on_up: called when the sidecar has said that upstream is ready.
            on_lost: called when a connection has ended, or could not be had.
            on_given_up: called when the outage has become permanent, after its error.
        """
        self._owner = owner
        self._address = address
        self._kind = kind
        self._headers = headers
        self._queue = queue
        self._on_message = on_message
        self._on_audio = on_audio
        self._on_up = on_up
        self._on_lost = on_lost
        self._on_given_up = on_given_up
        self._something = asyncio.Event()
        self._may_push = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._up = False
        self._draining = False
        self._down_since: float | None = None
        self._gave_up = False

    def __repr__(self) -> str:
        state = "up" if self._up else "given up" if self._gave_up else "down" if self._down_since else "connecting"
        return f"Link({self._kind} at {self._address}, {state})"

    @property
    def is_down(self) -> bool:
        """Whether an outage lasts that was reported."""
        return self._down_since is not None

    @property
    def down_for(self) -> float:
        """How long that outage has lasted, in seconds."""
        return 0.0 if self._down_since is None else asyncio.get_running_loop().time() - self._down_since

    def start(self) -> None:
        """Connect, without waiting for it. Frames are pushed only from ``release`` on."""
        self._closing = False
        if self._task is None or self._task.done():
            self._task = self._owner.create_task(self._run(), name="link")

    def release(self) -> None:
        """Let frames out: the StartFrame has passed."""
        self._may_push.set()

    def wake(self) -> None:
        """Say that the script has something to send."""
        self._something.set()

    async def finish(self, timeout: float) -> None:
        """Wait until the sidecar has closed in answer to the script's ``close``, up to ``timeout`` seconds; then stop.

        There is no waiting for a sidecar that is away.
        """
        self._closing = True
        self.wake()
        if self._task is not None and not self.is_down:
            await asyncio.wait([self._task], timeout=timeout)
        await self.stop()

    async def stop(self) -> None:
        """End the task and the connection now."""
        self._closing = True
        task, self._task = self._task, None
        if task is not None:
            await self._owner.cancel_task(task)

    async def _run(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                failure = await self._converse()
            finally:
                self._queue.closed()
                was_up, self._up = self._up, False
                if was_up:
                    await self._owner._call_event_handler("on_disconnected")
            if self._closing:
                return
            if was_up:
                wait = FIRST_WAIT
            await self._may_push.wait()
            await self._on_lost()
            await self._went_wrong(failure)
            if failure.permanent:
                return
            await asyncio.sleep(LATER_WAIT if self._gave_up else wait)
            wait = min(wait * 2, LONGEST_WAIT)

    async def _converse(self) -> Failure:
        """Hold one connection from its dialling to its end; give what ended it."""
        model, init = self._queue.opening()
        self._draining = False
        try:
            async with self._dial(model) as websocket:
                if websocket.subprotocol != SUBPROTOCOL:
                    return self._not_ours("does not speak its protocol")
                with StallGuard(websocket) as outgoing:
                    await outgoing.send(json.dumps(init))
                    return await self._exchange(websocket, outgoing)
        except InvalidStatus as error:
            return failure_of_reply(error.response.status_code, bytes(error.response.body or b""), self._address)
        except (OSError, TimeoutError, ConnectionClosed, InvalidMessage) as error:
            return self._unreachable(error)
        except InvalidHandshake:
            return self._not_ours("does not answer as a WebSocket server")

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
        uri = self._address.websocket(self._kind, model)
        return unix_connect(self._address.socket, uri, **options) if self._address.socket else connect(uri, **options)

    async def _exchange(self, websocket: ClientConnection, outgoing: StallGuard) -> Failure:
        sending = asyncio.create_task(self._send(outgoing))
        try:
            return await self._receive(websocket, outgoing)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send(self, outgoing: StallGuard) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._something.clear()
                while (message := self._queue.next()) is not None:
                    await outgoing.send(message)
                await self._something.wait()

    async def _receive(self, websocket: ClientConnection, outgoing: StallGuard) -> Failure:
        last: Failure | None = None
        try:
            async for data in websocket:
                if not self._may_push.is_set():
                    await self._may_push.wait()
                last = await self._take(data) or last
        except ConnectionClosed as error:
            if outgoing.stuck:
                return last or self._lost(f"took nothing for {SEND_TIMEOUT:.0f} s")
            return last or self._unreachable(error)
        code, reason = websocket.close_code, websocket.close_reason
        return last or self._lost(f"closed the connection ({code} {reason})" if reason else f"closed ({code})")

    async def _take(self, data: str | bytes) -> Failure | None:
        """Take one message; give the failure that ends the connection, where it tells one."""
        try:
            if isinstance(data, bytes):
                await self._on_audio(data)
                return None
            message = json.loads(data)
            if message["type"] == "error" and message.get("fatal"):
                return failure_of(message)
            if message["type"] == "status" and message.get("state") == "draining":
                self._draining = True
            # A sidecar that is about to stop still takes what waits here, but it is not back.
            if message["type"] == "ready" and not self._draining:
                await self._came_up()
            else:
                await self._on_message(message)
        except Exception as error:
            # One message that cannot be dealt with must not end the conversation.
            await self._owner.push_error(f"A message of the sidecar was not understood: {error!r}", exception=error)
        return None

    async def _came_up(self) -> None:
        self._up = True
        self._down_since = None
        if self._gave_up:
            self._gave_up = False
            await self._owner.set_usable(True)
        logger.debug(f"{self._owner}: connected to the sidecar at {self._address}")
        await self._owner._call_event_handler("on_connected")
        await self._on_up()

    async def _went_wrong(self, failure: Failure) -> None:
        """Report a change of state: the outage's begin, and its becoming permanent."""
        now = asyncio.get_running_loop().time()
        begins = self._down_since is None
        if self._down_since is None:
            self._down_since = now
        if self._gave_up:
            return
        if failure.permanent:
            await self._give_up(failure, failure.message)
        elif now - self._down_since >= OUTAGE:
            await self._give_up(failure, f"{failure.message} It has been away for {OUTAGE:.0f} s.")
        elif begins:
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
            return self._lost("closed the connection" if error.rcvd else "went away")
        silent = isinstance(error, (TimeoutError, InvalidMessage))
        what = "did not answer" if silent else str(error) or type(error).__name__
        return Failure(
            f"No sidecar at {self._address} ({what}). Start it with: slng-sidecar serve. It is tried again.",
            ErrorCategory.CONNECTIVITY,
        )

    def _lost(self, how: str) -> Failure:
        how = "is shutting down" if self._draining else how
        return Failure(f"The sidecar at {self._address} {how}. It is tried again.", ErrorCategory.CONNECTIVITY)

    def _not_ours(self, what: str) -> Failure:
        return Failure(
            f"What listens at {self._address} {what}: it is no slng-sidecar. Check sidecar_url.",
            ErrorCategory.INVALID_REQUEST,
            permanent=True,
        )
