"""A session machine driven as its runner drives it: a test sends events, gets commands, and moves the time.

The commands are short tuples, so that a test reads like a conversation. ``Conversation`` checks that each command can
be carried out: only open connections are written to or retired, nothing is sent to a client after its close, every text
is JSON and UTF-8, and no deadline stays in the past.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from hypothesis import strategies as st
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
from slng_sidecar.protocol.errors import Close, GatewayError
from slng_sidecar.sessions.delivery import AudioDelivery

Step = tuple[Any, ...]
READY = {"type": "ready", "session_id": "s1"}
# More wakes than these at the same time are a busy loop.
_SETTLED = 20


def dial(connection: int) -> Step:
    return ("dial", connection)


def up(message: dict[str, Any] | bytes, connection: int = 0) -> Step:
    return ("up", connection, message)


def retire(connection: int) -> Step:
    return ("retire", connection)


def down(message: dict[str, Any] | bytes) -> Step:
    return ("down", message)


def refusal(code: str) -> Step:
    """Return an error after which the session goes on."""
    return ("error", code, "goes on")


def fatal(code: str) -> Step:
    return ("error", code, "fatal")


def client_closed(code: int) -> Step:
    return ("client_closed", code)


def strict_json(text: str) -> Any:
    """Parse JSON strictly, without NaN and Infinity, after encoding and decoding it as on the wire."""
    return json.loads(text.encode().decode(), parse_constant=_not_json)


def upstream_close(code: int = 1006, reason: str = "") -> Close:
    """Return the close of an open upstream connection."""
    error = GatewayError("upstream_closed", "upstream closed", upstream={"close_code": code, "reason": reason})
    return Close(error, code, reason)


class Conversation:
    """A machine with its client and its upstream.

    Attributes:
        open: the connections that were dialled and neither lost nor retired, and whether each one is ready.
        inits: the ``init`` of each connection dialled.
        errors: the error messages that were sent to the client.
        over: whether the client's connection was closed, or the client left.
    """

    def __init__(self, machine: SessionMachine) -> None:
        self.machine = machine
        self.now = 1000.0
        self.open: dict[int, bool] = {}
        self.inits: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.over = False
        self._delivered: list[str | bytes] = []
        self._delivery = AudioDelivery(lambda data: self._delivered.append(data))
        assert self._done(machine.started(self.now)) == []

    @property
    def newest(self) -> int:
        """Return the number of the connection dialled last."""
        return len(self.inits) - 1

    def client(self, *messages: dict[str, Any] | str | bytes) -> list[Step]:
        """Send messages of the client, and return the steps that follow."""
        found: list[Step] = []
        for message in messages:
            if isinstance(message, bytes):
                found += self._done(self.machine.client_binary(message, self.now))
            else:
                text = message if isinstance(message, str) else json.dumps(message)
                found += self._done(self.machine.client_text(text, self.now))
        return found

    def client_leaves(self) -> list[Step]:
        found = self._done(self.machine.client_gone(self.now))
        self.over = True
        return found

    def ready(self, since: float | None = None, connection: int | None = None, **fields: Any) -> list[Step]:
        """Send ``ready`` on a connection, by default the newest. A standby connection became ready at the time
        ``since``.
        """
        number = self.newest if connection is None else connection
        assert self.open[number] is False
        self.open[number] = True
        text = json.dumps({**READY, **fields})
        return self._done(self.machine.upstream_ready(number, text, self.now, since))

    def upstream(self, *messages: dict[str, Any] | str | bytes, connection: int | None = None) -> list[Step]:
        """Send messages of upstream, on the newest connection by default."""
        found: list[Step] = []
        number = self.newest if connection is None else connection
        for message in messages:
            if isinstance(message, bytes):
                found += self._done(self.machine.upstream_binary(number, message, self.now))
            else:
                text = message if isinstance(message, str) else json.dumps(message)
                found += self._done(self.machine.upstream_text(number, text, self.now))
        return found

    def lost(self, how: Close | GatewayError | int = 1006, connection: int | None = None) -> list[Step]:
        """End a connection, the newest by default, with a close, an error or a close code."""
        number = self.newest if connection is None else connection
        del self.open[number]
        match how:
            case int():
                close = upstream_close(how)
            case GatewayError():
                close = Close(how)
            case Close():
                close = how
        return self._done(self.machine.upstream_lost(number, close, self.now))

    def wait(self, seconds: float) -> list[Step]:
        """Move the time, and wake the machine whenever it asked for it."""
        found: list[Step] = []
        until = self.now + seconds
        woken_at, wakes = self.now, 0
        while (deadline := self.machine.deadline) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            wakes = wakes + 1 if self.now == woken_at else 1
            woken_at = self.now
            assert wakes < _SETTLED, f"the machine asks to be woken at {deadline} without end; it is {self.now}"
            found += self._done(self.machine.wake(self.now))
        self.now = until
        return found

    def drain(self, seconds: float) -> list[Step]:
        """Start to drain the sidecar, which must stop within some seconds."""
        return self._done(self.machine.drain(self.now + seconds, self.now))

    def _done(self, commands: list[Command]) -> list[Step]:
        return [steps for command in commands for steps in self._carried_out(command)]

    def _carried_out(self, command: Command) -> list[Step]:
        match command:
            case StartDecoding():
                self._delivery.start(command)
            case DecodeAudio():
                self._delivery.decode(command)
            case EndDecoding():
                self._delivery.end(command)
            case _:
                return [self._carried_out_one(command)]
        delivered, self._delivered = self._delivered, []
        return [down(data) if isinstance(data, bytes) else self._received(strict_json(data)) for data in delivered]

    def _carried_out_one(self, command: Dial | SendUpstream | Retire | SendClient | CloseClient) -> Step:
        match command:
            case Dial(number, init):
                assert not self.over, "a dial after the end"
                assert number == len(self.inits), "a connection number was used twice or left out"
                self.inits.append(strict_json(init))
                self.open[number] = False
                return dial(number)
            case SendUpstream(number, data):
                assert self.open.get(number), f"something was sent on connection {number}, which is not ready"
                return up(data if isinstance(data, bytes) else strict_json(data), number)
            case Retire(number):
                assert number in self.open, f"connection {number} was retired, which is not open"
                del self.open[number]
                return retire(number)
            case SendClient(data):
                assert not self.over, "something was sent after the client's connection was closed"
                return down(data) if isinstance(data, bytes) else self._received(strict_json(data))
            case CloseClient(code, reason):
                assert not self.over, "the client's connection was closed twice"
                assert len(reason.encode()) <= 123
                self.over = True
                return client_closed(code)

    def _received(self, message: dict[str, Any]) -> Step:
        if message.get("type") != "error":
            return down(message)
        self.errors.append(message)
        assert message["data"] == {"code": message["code"], "message": message["message"]}
        return fatal(message["code"]) if message["fatal"] else refusal(message["code"])


# Messages that nobody should send but that can come

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1", "401", "QUJD"])
)
json_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
"""Any value that Python's ``json`` writes, including NaN, Infinity and lone surrogates."""

_TYPES = (
    "init", "text", "flush", "clear", "cancel", "close", "stop", "finalize", "keepalive", "audio", "ready", "Results",
    "partial_transcript", "final_transcript", "audio_end", "flushed", "done", "cleared", "event", "error", "Error",
    "audio_chunk", "chunk", "segment_end", "Metadata", "Flushed", "unheard_of", None, 7,
)  # fmt: skip
_FIELDS = (
    "text", "flush", "config", "voice", "data", "audio", "isFinal", "error", "code", "status_code", "err_code",
    "message", "transcript", "confidence", "words", "channel", "is_final", "from_finalize", "event_type", "session_id",
)  # fmt: skip
_CHANNELS = st.fixed_dictionaries(
    {"alternatives": st.lists(st.dictionaries(st.sampled_from(["transcript", "confidence", "words"]), json_values))}
)
_VALUES = json_values | _CHANNELS | st.dictionaries(st.sampled_from(_FIELDS), json_values, max_size=3)
odd_objects = st.builds(
    lambda kind, fields: {**fields, **kind},
    st.just({}) | st.fixed_dictionaries({"type": st.sampled_from(_TYPES)}),
    st.dictionaries(st.sampled_from(_FIELDS), _VALUES, max_size=4),
)
"""Objects with types and fields of the bridge and any values in them."""


def odd_client_messages(*without: str) -> st.SearchStrategy[str]:
    """Return a strategy for texts that a client may send, except messages of the types ``without``."""
    objects = odd_objects.filter(lambda found: str(found.get("type")).lower() not in without)
    return st.text(max_size=10) | objects.map(json.dumps)


def odd_upstream_messages() -> st.SearchStrategy[str | bytes]:
    return st.binary(max_size=4) | st.text(max_size=10) | odd_objects.map(json.dumps)


def _not_json(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")
