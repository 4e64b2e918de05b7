"""A local client and its upstream, joined by a machine: the shell that carries out what the machine decides."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from slng_sidecar.net.channel import Channel
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.protocol.commands import CloseClient, Command, Dial, Retire, SendClient, SendUpstream, SessionMachine
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import parse_object
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.route import Target
from slng_sidecar.telemetry.log import SessionLog
from slng_sidecar.upstream.connection import Dialler, UpstreamConnection
from slng_sidecar.upstream.standby import Standby, StandbyConnection, StandbyResult

# How much may wait for a slow client before upstream is read no further.
_CLIENT_AHEAD_BYTES = 262_144
_MAX_ID = 128
# It goes into the log, where nothing stands that upstream says in words.
_ID = re.compile(r"[A-Za-z0-9._:/+=-]+")


class ClientGone(Exception):
    """Raised by a client's methods once its connection is lost, or closed by it."""


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
        """End the connection after what was sent; never raises."""


class Observer(Protocol):
    """Who is told how a session fares; times are seconds of the loop's clock."""

    def dialled(self) -> None: ...
    def opened(self, seconds: float) -> None: ...
    def not_opened(self, code: str) -> None: ...
    def lost(self, cause: str) -> None: ...
    def turn(self, turn: TurnReport, now: float) -> None: ...
    def progress(self, counts: Counter[str], audio_seconds: float) -> None: ...


class SessionRunner:
    """One session, from the accepted client to the last closed socket.

    Every decision is the machine's, and its commands are carried out at once, without waiting, in the order it gave
    them; two queues, one a direction, stand where speeds differ.

    Mutable: ``_connections``, by number, while they live, with ``_shapes``, ``_requests``, their ids upstream, and
    ``_dialled_at``, for those that are not ready yet;
    ``_timer`` for ``_timer_at``, the machine's deadline; ``_closing``, once the client is being closed; ``_drain_by``,
    once the session is drained; ``_running``, between ``started`` and the end.
    """

    def __init__(
        self,
        client: Client,
        machine: SessionMachine,
        target: Target,
        dialler: Dialler,
        log: SessionLog,
        observers: Sequence[Observer] = (),
        standby: Standby | None = None,
        lease: int = 0,
    ) -> None:
        """Make a session, which does nothing before ``run``.

        Args:
            log: knows which session it is.
            standby: has spare connections, where they are held.
            lease: this session's name there.
        """
        self._client = client
        self._machine = machine
        self._target = target
        self._dialler = dialler
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        self._to_client = Channel()
        self._connections: dict[int, UpstreamConnection] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._closing: CloseClient | None = None
        self._log = log
        self._observers = observers
        self._dialled_at: dict[int, float] = {}
        self._standby = standby
        self._lease = lease
        self._shapes: dict[int, tuple[Target, str]] = {}
        self._requests: dict[int, str | None] = {}
        self._found: dict[int, StandbyResult] = {}
        self._running = False
        self._drain_by: float | None = None
        self.dials = 0

    def __repr__(self) -> str:
        return f"Session({self._target}, {self._machine}, {list(self._connections.values())}, client {self._to_client})"

    def drain(self, by: float) -> None:
        """End at the next moment at which nothing is cut, and at ``by``, on the loop's clock, in any case."""
        self._drain_by = by
        if self._running:
            self._do(self._machine.drain(by, self._loop.time()))

    @property
    def is_busy(self) -> bool:
        """Whether an end now would cut something that is being said or heard."""
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
        """Run to the end; give how the client was closed, or None where it went by itself."""
        try:
            return await self._run()
        finally:
            for connection in self._connections.values():
                connection.retire()
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
                # The writer ends when the client has been closed or takes nothing more, the reader when it is gone.
                await asyncio.wait((writer, reader), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._disarm()
            self._running = False
            for task in (writer, reader, waker):
                task.cancel()
            if self._closing is None or not writer.done():
                self._do(self._machine.client_gone(self._loop.time()))
            self._disarm()
            for connection in self._connections.values():
                connection.retire()
            # Theirs may be another one's tasks, where they were spares.
            while self._connections:
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
                for connection in tuple(self._connections.values()):
                    await connection.outbox.room(machine.ahead_bytes)
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

    # What upstream sends: ``ConnectionOwner``

    def upstream_ready(self, connection: int, text: str) -> None:
        now = self._loop.time()
        if (dialled := self._dialled_at.pop(connection, None)) is not None:
            for observer in self._observers:
                observer.opened(now - dialled)
        self._requests[connection] = _request_id(text)
        self._log.info("connection %d ready", connection, fields=self._fields("connection_ready", connection))
        if self._spares is not None and connection in self._shapes:
            self._spares.want(*self._shapes[connection], self._lease)
        opened = self._connections[connection].ready_at
        self._do(self._machine.upstream_ready(connection, text, now, opened))

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        now = self._loop.time()
        if isinstance(data, bytes):
            self._do(self._machine.upstream_binary(connection, data, now))
        else:
            self._do(self._machine.upstream_text(connection, data, now))
        await self._to_client.room(_CLIENT_AHEAD_BYTES)

    def upstream_lost(self, connection: int, error: GatewayError) -> None:
        opening = self._dialled_at.pop(connection, None) is not None
        if opening or not closed_cleanly(error):
            told, event = ("not opened", "connection_not_opened") if opening else ("lost", "connection_lost")
            fields = {**self._fields(event, connection), "code": error.known_code}
            self._log.info("connection %d %s: %s", connection, told, error.for_log, fields=fields)
        for observer in self._observers:
            if opening:
                observer.not_opened(error.known_code)
            else:
                observer.lost("closed" if closed_cleanly(error) else error.known_code)
        self._do(self._machine.upstream_lost(connection, error, self._loop.time()))

    def _fields(self, event: str, connection: int) -> dict[str, object]:
        fields = {"event": event, "connection": connection, "request_id": self._requests.get(connection)}
        return {**fields, "spare": self._found[connection]} if connection in self._found else fields

    # What the machine decides

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendUpstream(number, data):
                    if (connection := self._connections.get(number)) is not None:
                        connection.send(data)
                case SendClient(data):
                    self._to_client.put(data)
                case Dial(number, init, model):
                    self._dial(number, init, model)
                case Retire(number):
                    if (connection := self._connections.get(number)) is not None:
                        connection.retire()
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
            turn = reports.popleft()
            for observer in self._observers:
                observer.turn(turn, now)
        for observer in self._observers:
            observer.progress(self._machine.counts, self._machine.audio_seconds)

    def _dial(self, number: int, init: str, model: str | None) -> None:
        target = self._target if model is None else replace(self._target, model=model)
        spares = self._spares
        spare = None
        if spares is not None:
            spare, self._found[number] = spares.claim(target, init, self, number)
        connection = self._new_connection(number, target, init) if spare is None else self._taken_over(number, spare)
        assert connection.task is not None
        self._connections[number] = connection
        self._shapes[number] = (target, init)
        connection.task.add_done_callback(lambda _: self._forget(number))

    def _new_connection(self, number: int, target: Target, init: str) -> UpstreamConnection:
        self.dials += 1
        self._dialled_at[number] = self._loop.time()
        for observer in self._observers:
            observer.dialled()
        connection = UpstreamConnection(number, target, init, self._dialler, self)
        connection.task = self._tasks.start(connection.run(), f"upstream {number}")
        return connection

    def _taken_over(self, number: int, spare: StandbyConnection) -> UpstreamConnection:
        if spare.ready is None:
            self._dialled_at[number] = spare.dialled
            self._dialler.joined()
        task = spare.connection.task
        assert task is not None
        self._tasks.start(_fail_with(task), f"upstream {number}")
        return spare.connection

    @property
    def _spares(self) -> Standby | None:
        """Where this session gets spare connections from, if it wants any."""
        standby = self._standby
        return standby if standby is not None and (standby.per_shape or self._machine.wants_standby) else None

    def _forget(self, number: int) -> None:
        del self._connections[number]
        del self._shapes[number]
        self._requests.pop(number, None)
        self._found.pop(number, None)
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
    """Wait for a task that somebody else owns; raise what it dies of."""
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _request_id(ready: str) -> str | None:
    """Give upstream's id of a request, where its ``ready`` bears one, to find it again in their logs."""
    request = parse_object(ready).get("slng_request_id")
    return request[:_MAX_ID] if isinstance(request, str) and _ID.fullmatch(request) else None
