"""Joins a local client and its upstream connections: the shell that carries out what a session machine decides."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from slng_sidecar.net.channel import Channel
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.protocol.commands import (
    CloseClient,
    Command,
    DecodeAudio,
    Dial,
    EndDecoding,
    Retire,
    SendClient,
    SendUpstream,
    SessionMachine,
    StartDecoding,
)
from slng_sidecar.protocol.errors import Close
from slng_sidecar.protocol.messages import parse_object
from slng_sidecar.protocol.reports import StandbyResult, UpstreamObserver
from slng_sidecar.protocol.route import Target
from slng_sidecar.sessions.delivery import AudioDelivery
from slng_sidecar.telemetry.log import SessionLog
from slng_sidecar.upstream.connection import Dialler, UpstreamConnection
from slng_sidecar.upstream.standby import Standby, StandbyConnection

# How much may wait for a slow client before upstream is held back.
_CLIENT_AHEAD_BYTES = 262_144
_MAX_ID = 128
# Upstream's request id goes into the log, which must not contain upstream's words.
_ID = re.compile(r"[A-Za-z0-9._:/+=-]+")


class ClientGone(Exception):
    """Raised by a client's methods once its connection is lost or closed."""


class Client(Protocol):
    """The local side of a session: a WebSocket, or a request over HTTP."""

    async def receive(self) -> str | bytes:
        """Wait for the next message.

        Raises:
            ClientGone: there will be none.
        """

    async def send(self, data: str | bytes) -> None:
        """Send a message, within a deadline of the client's own.

        Raises:
            ClientGone: it cannot be sent any more.
        """

    async def close(self, code: int, reason: str) -> None:
        """Close the connection after what was sent before. Never raises."""


@dataclass(slots=True, eq=False)
class _Upstream:
    """What a session knows of one of its upstream connections.

    Attributes:
        target, init: what it was opened with.
        dialled_at: when it was dialled; None once it is ready, or if it was ready in standby.
        request_id: upstream's id of the request, if its ``ready`` has one.
        standby: what was found in standby when it was needed; None if the session uses none.
    """

    connection: UpstreamConnection
    target: Target
    init: str
    dialled_at: float | None = None
    request_id: str | None = None
    standby: StandbyResult | None = None


class SessionRunner:
    """One session, from the accepted client to the last closed socket.

    The machine decides everything. Its commands are carried out at once, in order and without waiting. Where speeds
    differ there is a channel: one towards the client and one towards each upstream connection.

    Mutable: ``_upstreams``, by number, while they live; ``_timer`` for ``_timer_at``, the machine's deadline;
    ``_closing``, once the client is being closed; ``_drain_by``, once the session is drained; ``_running``, between
    ``started`` and the end.
    """

    def __init__(
        self,
        client: Client,
        machine: SessionMachine,
        target: Target,
        dialler: Dialler,
        log: SessionLog,
        observers: Sequence[UpstreamObserver] = (),
        standby: Standby | None = None,
        lease: int = 0,
    ) -> None:
        """Create a session, which does nothing before ``run``.

        Args:
            log: the log of this session.
            standby: where standby connections are held, if they are.
            lease: the name of this session there.
        """
        self._client = client
        self._machine = machine
        self._target = target
        self._dialler = dialler
        self._log = log
        self._observers = observers
        self._standby = standby
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._to_client: Channel[str | bytes] = Channel()
        self._delivery = AudioDelivery(self._to_client.put)
        self._upstreams: dict[int, _Upstream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._closing: CloseClient | None = None
        self._running = False
        self._drain_by: float | None = None
        self.dials = 0

    def __repr__(self) -> str:
        connections = [upstream.connection for upstream in self._upstreams.values()]
        return f"SessionRunner({self._target}, {self._machine}, {connections}, client {self._to_client})"

    def drain(self, by: float) -> None:
        """End at the next moment that cuts nothing, and at ``by``, on the loop's clock, in any case."""
        self._drain_by = by
        if self._running:
            self._do(self._machine.drain(by, self._loop.time()))

    @property
    def is_busy(self) -> bool:
        """Whether an end now would cut something that is being said or transcribed."""
        return self._machine.is_busy(self._loop.time())

    @property
    def queue_bytes(self) -> int:
        """The most that ever waited for the client."""
        return self._to_client.high_water

    @property
    def counts(self) -> Counter[str]:
        """What was dropped or ignored, by reason."""
        return self._machine.counts

    async def run(self) -> CloseClient | None:
        """Run to the end.

        Returns:
            How the client was closed; None if it left by itself.
        """
        try:
            return await self._run()
        finally:
            self._retire_all()
            if self._standby is not None:
                self._standby.release(self._lease)

    async def _run(self) -> CloseClient | None:
        async with self._tasks as tasks:
            writer = tasks.start(self._write_client(), "client writer")
            reader = tasks.start(self._read_client(), "client reader")
            waker = tasks.start(self._wake_machine(), "deadlines")
            self._do(self._machine.started(self._loop.time()))
            self._running = True
            if self._drain_by is not None:
                self.drain(self._drain_by)
            try:
                # The writer ends when the client is closed or accepts nothing more, the reader when it is gone.
                await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._disarm()
            self._running = False
            for task in (writer, reader, waker):
                task.cancel()
            if self._closing is None or not writer.done():
                self._do(self._machine.client_gone(self._loop.time()))
            self._disarm()
            # Nothing is sent any more, so upstream must not wait until some of it has left.
            self._to_client.discard()
            self._retire_all()
            # The task of a connection that was in standby belongs to somebody else, so the block does not await it.
            while self._upstreams:
                self._changed.clear()
                await self._changed.wait()
        self._report()
        return self._closing

    async def _read_client(self) -> None:
        machine, loop = self._machine, self._loop
        try:
            while True:
                data = await self._client.receive()
                if isinstance(data, bytes):
                    self._do(machine.client_binary(data, loop.time()))
                else:
                    self._do(machine.client_text(data, loop.time()))
                for upstream in tuple(self._upstreams.values()):
                    await upstream.connection.outgoing.room(machine.ahead_bytes)
                while not machine.reads_client:
                    self._changed.clear()
                    await self._changed.wait()
        except ClientGone:
            return

    async def _write_client(self) -> None:
        try:
            while (data := await self._to_client.take()) is not None:
                await self._client.send(data)
        except ClientGone:
            return
        assert self._closing is not None
        await self._client.close(self._closing.code, self._closing.reason)

    async def _wake_machine(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            self._do(self._machine.wake(self._loop.time()))

    # What upstream does: ``ConnectionOwner``

    def upstream_opened(self, connection: int) -> None:
        """Handle the open connection: upstream is sent the ``init`` next."""
        if self._upstreams[connection].standby == "opening":
            return  # ``joined`` stands for its dial, of which an unknown part was over before
        for observer in self._observers:
            observer.opened()

    def upstream_ready(self, connection: int, text: str) -> None:
        """Handle a connection's ``ready``."""
        now, upstream = self._loop.time(), self._upstreams.get(connection)
        if upstream is None:
            return  # its task was cancelled before a connection from standby could report
        if upstream.dialled_at is not None:
            for observer in self._observers:
                observer.ready(now - upstream.dialled_at)
            upstream.dialled_at = None
        upstream.request_id = _request_id(text)
        self._log.info("connection %d ready", connection, fields=self._fields("connection_ready", connection))
        if (standby := self._used_standby) is not None:
            standby.want(upstream.target, upstream.init, self._lease)
        self._do(self._machine.upstream_ready(connection, text, now, upstream.connection.ready_at))

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        """Handle a message of upstream, and wait while the client is too slow for more."""
        now = self._loop.time()
        if isinstance(data, bytes):
            self._do(self._machine.upstream_binary(connection, data, now))
        else:
            self._do(self._machine.upstream_text(connection, data, now))
        await self._to_client.room(_CLIENT_AHEAD_BYTES)

    def upstream_lost(self, connection: int, close: Close) -> None:
        """Handle the end of a connection that was not retired."""
        upstream, error = self._upstreams[connection], close.error
        is_opening, upstream.dialled_at = upstream.dialled_at is not None, None
        if is_opening or not close.is_clean:
            what, event = ("not opened", "connection_not_opened") if is_opening else ("lost", "connection_lost")
            fields = {**self._fields(event, connection), "code": error.known_code}
            self._log.info("connection %d %s: %s", connection, what, error.for_log, fields=fields)
        for observer in self._observers:
            if is_opening:
                observer.not_opened(error.known_code)
            else:
                observer.lost("closed" if close.is_clean else error.known_code)
        self._do(self._machine.upstream_lost(connection, close, self._loop.time()))

    def _fields(self, event: str, connection: int) -> dict[str, object]:
        upstream = self._upstreams[connection]
        fields = {"event": event, "connection": connection, "request_id": upstream.request_id}
        return {**fields, "spare": upstream.standby} if upstream.standby is not None else fields

    # What the machine decides

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendUpstream(number, data):
                    if (upstream := self._upstreams.get(number)) is not None:
                        upstream.connection.send(data)
                case SendClient(data):
                    self._to_client.put(data)
                case DecodeAudio():
                    self._delivery.decode(command)
                case StartDecoding():
                    self._delivery.start(command)
                case EndDecoding():
                    self._delivery.end(command)
                case Dial(number, init, model):
                    self._dial(number, init, model)
                case Retire(number):
                    if (upstream := self._upstreams.get(number)) is not None:
                        upstream.connection.retire()
                case CloseClient():
                    self._closing = command
                    self._to_client.finish()
        self._changed.set()
        self._arm()
        if self._machine.reports:
            self._report()

    def _report(self) -> None:
        now, reports = self._loop.time(), self._machine.reports
        while reports:
            report = reports.popleft()
            for observer in self._observers:
                observer.turn(report, now)
        for observer in self._observers:
            observer.progress(self._machine.counts, self._machine.audio_seconds)

    def _dial(self, number: int, init: str, model: str | None) -> None:
        target = self._target if model is None else replace(self._target, model=model)
        standby, result = None, None
        if self._used_standby is not None:
            standby, result = self._used_standby.claim(target, init, self, number)
            for observer in self._observers:
                observer.standby_used(result)
        if standby is None:
            upstream = self._new_connection(number, target, init)
        else:
            upstream = self._take_over(number, standby, target, init)
        upstream.standby = result
        task = upstream.connection.task
        assert task is not None
        self._upstreams[number] = upstream
        task.add_done_callback(lambda _: self._forget(number))

    def _new_connection(self, number: int, target: Target, init: str) -> _Upstream:
        self.dials += 1
        for observer in self._observers:
            observer.dialled()
        connection = UpstreamConnection(number, target, init, self._dialler, self)
        connection.task = self._tasks.start(connection.run(), f"upstream {number}")
        return _Upstream(connection, target, init, self._loop.time())

    def _take_over(self, number: int, standby: StandbyConnection, target: Target, init: str) -> _Upstream:
        dialled_at = None
        if standby.ready is None:
            dialled_at = standby.dialled_at
            for observer in self._observers:
                observer.joined()
        task = standby.connection.task
        assert task is not None
        self._tasks.start(_fail_with(task), f"upstream {number}")
        return _Upstream(standby.connection, target, init, dialled_at)

    @property
    def _used_standby(self) -> Standby | None:
        """Where this session gets standby connections from, if it uses any."""
        standby = self._standby
        return standby if standby is not None and (standby.per_shape or self._machine.wants_standby) else None

    def _retire_all(self) -> None:
        for upstream in self._upstreams.values():
            upstream.connection.retire()

    def _forget(self, number: int) -> None:
        del self._upstreams[number]
        self._changed.set()

    def _arm(self) -> None:
        deadline = self._machine.deadline
        if deadline == self._timer_at:
            return
        self._disarm()
        if deadline is not None:
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer = self._timer_at = None
        self._due.set()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timer_at = None


async def _fail_with(task: asyncio.Task[None]) -> None:
    """Wait for a task that somebody else owns, and raise what it raised."""
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _request_id(ready: str) -> str | None:
    """Return upstream's id of a request, to find it in upstream's logs; None if the ``ready`` has no usable one."""
    request = parse_object(ready).get("slng_request_id")
    return request[:_MAX_ID] if isinstance(request, str) and _ID.fullmatch(request) else None
