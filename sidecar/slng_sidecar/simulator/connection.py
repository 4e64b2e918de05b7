"""One WebSocket of the simulator, from the dial to its end: what both bridges share, such as timers and faults."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from slng_sidecar.net.serving import transport_of
from slng_sidecar.protocol.errors import GatewayError, close_reason
from slng_sidecar.protocol.messages import dump, parse_object
from slng_sidecar.simulator.faults import Fault
from slng_sidecar.simulator.profiles import RouteProfile
from slng_sidecar.simulator.replies import error_message, refusal_of
from slng_sidecar.simulator.state import Simulator

_CLOSE_TIMEOUT = 1.0
_INBOX = 100


class Ended(Exception):
    """Raised in a connection's tasks once the connection is over. It ends the other tasks."""


class BridgeSession(Protocol):
    """One bridge's side of an open connection."""

    async def on_message(self, message: dict[str, Any]) -> None:
        """Handle a text message."""

    async def on_binary(self, data: bytes) -> None:
        """Handle a binary message."""


class NewSession(Protocol):
    """Creates the session of an open connection."""

    def __call__(self, connection: SimulatedConnection, tasks: asyncio.TaskGroup, *, over: bool) -> BridgeSession:
        """Return the session. ``over`` is whether the connection exceeds the limit."""


class SimulatedConnection:
    """A dialled WebSocket.

    Attributes:
        profile: how it behaves from now on. A fault may change it at any time.
    """

    def __init__(
        self, simulator: Simulator, websocket: WebSocket, kind: str, model: str, new_session: NewSession
    ) -> None:
        self.simulator = simulator
        self.kind = kind
        self.model = model
        self.profile = RouteProfile()
        self.loop = asyncio.get_running_loop()
        self.record = simulator.log.dialled(kind, model, websocket.headers, websocket.query_params)
        self._websocket = websocket
        self._new_session = new_session
        self._moments: Counter[str] = Counter()
        self._audio_fired: set[tuple[int, int]] = set()
        self._faults: asyncio.Queue[Fault] = asyncio.Queue(_INBOX)
        self._tasks: asyncio.TaskGroup | None = None
        self._muted = False
        self._reading = True
        self._profile_changed = asyncio.Event()
        self._stalled_until = 0.0
        self._heard_at = 0.0

    # From the dial to the end

    async def serve(self) -> None:
        """Serve the connection from the dial to its end."""
        try:
            await self._serve()
        except Ended:
            pass
        finally:
            self.simulator.live.pop(self, None)
            self.record.ended = self.record.ended or "client"
            self.simulator.log.touch()

    async def _serve(self) -> None:
        simulator, record = self.simulator, self.record
        simulator.faults.opened(record.id, self.kind, self.model)
        refusal = simulator.refusal(self.kind, self.model, self._websocket.headers, self._websocket.query_params)
        self.profile = simulator.profile_for(self.kind, self.model)
        due = self._due("upgrade")
        for fault in due:
            if fault.do == "profile":
                await self._act(fault)
        await self.sleep_until(self.loop.time() + self.profile.upgrade_ms / 1000)
        if refusal is not None:
            await self._refuse(refusal)
        for fault in due:
            await self._fail_upgrade(fault)
        over = simulator.full
        if over and self.profile.over_limit == "429":
            await self._refuse(JSONResponse({"error": "Too many concurrent connections"}, 429))
        await self._websocket.accept()
        record.status = 101
        simulator.live[self] = None
        simulator.log.touch()
        self._heard_at = self.loop.time()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                session = self._new_session(self, tasks, over=over)
                tasks.create_task(self._read(session), name="simulator: read")
                tasks.create_task(self._watch_idle(), name="simulator: idle")
                tasks.create_task(self._watch_age(), name="simulator: age")
                tasks.create_task(self._take_faults(), name="simulator: faults")
                tasks.create_task(self._stop(), name="simulator: stop")
        except* Ended:
            pass

    async def _fail_upgrade(self, fault: Fault) -> None:
        await self.sleep_until(self.loop.time() + fault.delay_ms / 1000)
        match fault.do:
            case "refuse":
                self.record.faults.append("refuse")
                await self._refuse(refusal_of(fault.arguments))
            case "hang":
                self.record.faults.append("hang")
                await self._until_gone()
            case "drop":
                with contextlib.suppress(Ended):
                    await self._act(fault)
                await self._until_gone()
            case "tcp":
                await self._act(fault)

    async def _until_gone(self) -> None:
        await self._websocket.receive()  # the dial itself
        await self._websocket.receive()  # the client's leaving, or the server's
        raise Ended

    async def _refuse(self, response: Response) -> None:
        self.record.status = response.status_code
        self.record.ended = "simulator"
        with contextlib.suppress(WebSocketDisconnect):
            await self._websocket.send_denial_response(response)
        raise Ended

    async def _stop(self) -> None:
        await self.simulator.stopping.wait()
        await self.close(1012, "the simulator stops")

    # What goes out

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a text message, with its type spelt as the profile says.

        Raises:
            Ended: the connection is over.
        """
        shown = dict(message)
        if isinstance(kind := shown.get("type"), str):
            shown["type"] = {"upper": kind.upper(), "title": kind.title()}.get(self.profile.type_case, kind)
        await self._send_text(dump(shown), shown)

    async def send_audio(self, data: bytes) -> None:
        """Send a binary message.

        Raises:
            Ended: the connection is over.
        """
        if await self._may_send():
            self.record.audio_out += len(data)
            with _ending():
                await self._websocket.send_bytes(data)

    async def send_error(
        self, code: str, message: str, *, shape: str | None = None, status: int | None = None, closes: bool = True
    ) -> None:
        """Send an error in the profile's shape, unless one is given, and close if the profile says so.

        Raises:
            Ended: the connection is over.
        """
        await self.send(error_message(code, message, shape or self.profile.error_shape, status))
        if closes and self.profile.error_closes:
            await self.close(1011, message)

    async def close(self, code: int, reason: str = "", by: str = "simulator") -> None:
        """Close the connection. A peer that does not read is dropped.

        Raises:
            Ended: always.
        """
        if self.record.ended is None:
            self.record.ended = by
            self.record.close_code, self.record.close_reason = code, reason
            try:
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._websocket.close(code, close_reason(reason))
            except (WebSocketDisconnect, RuntimeError):
                pass
            except TimeoutError:
                transport_of(self._websocket.scope).abort()
        raise Ended

    async def _send_text(self, text: str, logged: dict[str, Any]) -> None:
        if await self._may_send():
            self.simulator.log.sent(self.record, logged)
            with _ending():
                await self._websocket.send_text(text)

    async def _may_send(self) -> bool:
        if self._stalled_until:
            await self.sleep_until(self._stalled_until)
        if self.record.ended is not None:
            raise Ended
        return not self._muted

    async def sleep_until(self, due: float) -> None:
        """Sleep until ``due`` on the loop's clock. A time in the past is no wait."""
        if (wait := due - self.loop.time()) > 0:
            await asyncio.sleep(wait)

    async def become_ready(self) -> bool:
        """Answer ``init`` as the profile says, and return whether the session is to work.

        Raises:
            Ended: the connection is over.
        """
        await self.sleep_until(self.loop.time() + self.profile.ready_ms / 1000)
        profile = self.profile
        match profile.ready:
            case "never":
                return False
            case "error":
                await self.send_error("backend_connection_failed", "the provider cannot be reached")
                return False
            case "once" | "twice":
                number = self.record.id
                ready: dict[str, Any] = {"type": "ready", "session_id": f"s-{number}", "slng_request_id": f"r-{number}"}
                if self.kind == "tts" and profile.partial_text:
                    ready["accepts_partial_text"] = True
                for _ in range(2 if profile.ready == "twice" else 1):
                    await self.send(ready)
        return True

    async def nap(self, due: float | None) -> None:
        """Sleep until ``due``, or for ever if it is None, but not beyond a change of the profile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._profile_changed.wait()

    # What comes in

    async def _read(self, session: BridgeSession) -> None:
        await self.moment("accepted")
        while True:
            if not self._reading:
                await self.simulator.stopping.wait()
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                if self.record.ended is None:
                    self.record.ended = "client"
                    self.record.close_code = event.get("code")
                    self.record.close_reason = event.get("reason") or ""
                raise Ended
            self._heard_at = self.loop.time()
            if (data := event.get("bytes")) is not None:
                self.simulator.log.audio(self.record, data)
                await session.on_binary(data)
            else:
                await self._take_text(event["text"], session)

    async def _take_text(self, text: str, session: BridgeSession) -> None:
        try:
            message = parse_object(text)
        except GatewayError as error:
            await self.send_error("invalid_request", error.message)
            return
        self.simulator.log.received(self.record, message)
        kind = message.get("type")
        if kind in ("init", "text", "flush", "clear", "cancel", "finalize", "keepalive", "close"):
            await self.moment(kind)
        await session.on_message(message)

    async def _watch_idle(self) -> None:
        while True:
            idle = self.profile.idle_s
            due = self._heard_at + idle
            if idle and self.loop.time() >= due:
                await self.close(self.profile.idle_code, self.profile.idle_reason)
            await self.nap(due if idle else None)

    async def _watch_age(self) -> None:
        begun = self.loop.time()
        while True:
            limit = self.profile.max_s
            if limit and self.loop.time() >= begun + limit:
                await self.close(self.profile.max_code, self.profile.max_reason)
            await self.nap(begun + limit if limit else None)

    # Faults

    def inject(self, fault: Fault) -> None:
        """Carry out a fault now."""
        with contextlib.suppress(asyncio.QueueFull):
            self._faults.put_nowait(fault)

    async def moment(self, name: str) -> None:
        """Carry out the faults that are due at this moment.

        Raises:
            Ended: a fault ended the connection.
        """
        self._moments[name] += 1
        for fault in self._due(name, occurrence=self._moments[name]):
            await self._schedule(fault)

    async def audio_moment(self, passed_ms: float, turn: int = 1) -> None:
        """Carry out the faults that are due after this much audio. A fault acts once in a turn.

        Raises:
            Ended: a fault ended the connection.
        """
        done = {number for number, fired_turn in self._audio_fired if fired_turn == turn}
        for fault in self._due("audio", occurrence=turn, passed_ms=passed_ms, exclude=done):
            self._audio_fired.add((fault.id, turn))
            await self._schedule(fault)

    def _due(
        self, moment: str, *, occurrence: int = 1, passed_ms: float = 0, exclude: Collection[int] = ()
    ) -> list[Fault]:
        return self.simulator.faults.due(
            self.record.id, self.kind, self.model, moment, occurrence=occurrence, passed_ms=passed_ms, exclude=exclude
        )

    async def _take_faults(self) -> None:
        while True:
            await self._schedule(await self._faults.get())

    async def _schedule(self, fault: Fault) -> None:
        if fault.delay_ms and self._tasks is not None:
            due = self.loop.time() + fault.delay_ms / 1000
            self._tasks.create_task(self._act_at(fault, due), name=f"simulator: fault {fault.do}")
        else:
            await self._act(fault)

    async def _act_at(self, fault: Fault, due: float) -> None:
        await self.sleep_until(due)
        await self._act(fault)

    async def _act(self, fault: Fault) -> None:
        self.record.faults.append(fault.do)
        self.simulator.log.touch()
        arguments = fault.arguments
        match fault.do:
            case "drop":
                self.record.ended = "fault: drop"
                transport_of(self._websocket.scope).abort()
                raise Ended
            case "close":
                await self.close(arguments.get("code", 1011), arguments.get("reason", ""), "fault: close")
            case "error":
                code = arguments.get("code", "provider_error")
                message = arguments.get("message", "the provider failed")
                shape, status = arguments.get("shape"), arguments.get("status")
                await self.send_error(code, message, shape=shape, status=status, closes=False)
                if "then_close" in arguments:
                    await self.close(arguments["then_close"], message, "fault: error")
            case "send":
                await self._send_as_given(arguments)
            case "oversized":
                size = arguments.get("bytes", 2 << 20)
                if arguments.get("binary", True):
                    await self.send_audio(bytes(size))
                else:
                    text = dump({"type": "padding", "padding": "x" * size})
                    await self._send_text(text, {"type": "padding", "bytes": size})
            case "mute":
                self._muted = True
            case "tcp":
                proxy, client = self.simulator.proxy, self._websocket.client
                if proxy is not None and client is not None and (proxied := proxy.connection(client.port)) is not None:
                    proxied.behave(arguments)
            case "stop_reading":
                self._reading = False
                transport_of(self._websocket.scope).pause_reading()
            case "stall":
                self._stalled_until = self.loop.time() + arguments["ms"] / 1000
            case "profile":
                self.profile = dataclasses.replace(self.profile, **arguments["set"])
                self._profile_changed.set()
                self._profile_changed.clear()

    async def _send_as_given(self, arguments: Mapping[str, Any]) -> None:
        if "base64" in arguments:
            await self.send_audio(base64.b64decode(arguments["base64"]))
        elif isinstance(message := arguments["message"], str):
            await self._send_text(message, {"type": "?", "text": message[:200]})
        else:
            await self._send_text(dump(dict(message)), dict(message))


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Raise ``Ended`` in place of what Starlette raises for a connection that is gone."""
    try:
        yield
    except (WebSocketDisconnect, RuntimeError):
        raise Ended from None
