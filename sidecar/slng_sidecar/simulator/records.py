"""Records of connections and their messages, for tests and for ``/_sim/log``."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_MESSAGES = 1000
_MAX_RECORDS = 500
_SECRET_HEADERS = ("authorization", "x-api-key", "x-slng-provider-key")


@dataclass(slots=True, eq=False)
class Record:
    """A connection, or an HTTP request, from the client's dial to its end.

    Attributes:
        id: its number, from 1 in the order of the dials.
        kind: ``stt``, ``tts`` or ``http``.
        headers: the request's headers, with names in lower case.
        query: the request's parameters.
        opened: when it was dialled.
        status: 101 once the WebSocket is open, otherwise the HTTP status; None before either.
        received: the last 1000 text messages received, each with its time in seconds since the dial.
        sent: the last 1000 text messages sent, likewise.
        audio: the audio received, up to ``SimulatorOptions.keep_audio``.
        audio_in: bytes of audio received.
        audio_out: bytes of audio sent.
        binary_in: how many binary messages were received.
        faults: the faults that acted on it.
        ended: who ended it: ``client``, ``simulator``, or the fault that did; None while it is open.
        close_code: of the close, whoever closed.
        close_reason: likewise.
    """

    id: int
    kind: str
    model: str
    headers: dict[str, str]
    query: dict[str, str]
    opened: float = field(default_factory=time.monotonic)
    status: int | None = None
    received: deque[tuple[float, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=MAX_MESSAGES))
    sent: deque[tuple[float, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=MAX_MESSAGES))
    audio: bytearray = field(default_factory=bytearray)
    audio_in: int = 0
    audio_out: int = 0
    binary_in: int = 0
    faults: list[str] = field(default_factory=list)
    ended: str | None = None
    close_code: int | None = None
    close_reason: str = ""

    @property
    def open(self) -> bool:
        """Whether the WebSocket is open."""
        return self.status == 101 and self.ended is None

    @property
    def types(self) -> list[str]:
        """The types of the text messages received, in order."""
        return [str(message.get("type")) for _, message in self.received]

    def last_received(self, kind: str) -> dict[str, Any] | None:
        """Return the newest message of a type that the client sent; None if there is none."""
        return next((message for _, message in reversed(self.received) if message.get("type") == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the record for the log, with keys hidden and audio only counted."""
        return {
            "id": self.id,
            "kind": self.kind,
            "model": self.model,
            "headers": {name: "***" if name in _SECRET_HEADERS else value for name, value in self.headers.items()},
            "query": {name: "***" if name == "token" else value for name, value in self.query.items()},
            "status": self.status,
            "received": [{"at": round(at, 3), **message} for at, message in self.received],
            "sent": [{"at": round(at, 3), **message} for at, message in self.sent],
            "audio_in": self.audio_in,
            "binary_in": self.binary_in,
            "audio_out": self.audio_out,
            "faults": self.faults,
            "ended": self.ended,
            "close_code": self.close_code,
            "close_reason": self.close_reason,
        }


class Log:
    """The last 500 records, and a way to wait for a condition on them."""

    def __init__(self, keep_audio: int = 0) -> None:
        self._records: deque[Record] = deque(maxlen=_MAX_RECORDS)
        self._keep_audio = keep_audio
        self._changed = asyncio.Event()
        self.dials = 0

    @property
    def records(self) -> list[Record]:
        """All records, in the order of the dials."""
        return list(self._records)

    def of(self, kind: str, model: str | None = None) -> list[Record]:
        """Return the records of one kind, and of one model if it is given."""
        return [r for r in self._records if r.kind == kind and model in (None, r.model)]

    @property
    def open(self) -> list[Record]:
        """The records of open WebSockets."""
        return [record for record in self._records if record.open]

    def dialled(self, kind: str, model: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Record:
        """Add the record of a dial."""
        self.dials += 1
        record = Record(self.dials, kind, model, dict(headers), dict(query))
        self._records.append(record)
        self.touch()
        return record

    def received(self, record: Record, message: dict[str, Any]) -> None:
        """Add a text message that was received."""
        record.received.append((time.monotonic() - record.opened, message))
        self.touch()

    def sent(self, record: Record, message: dict[str, Any]) -> None:
        """Add a text message that was sent."""
        record.sent.append((time.monotonic() - record.opened, message))
        self.touch()

    def audio(self, record: Record, audio: bytes) -> None:
        """Add audio that was received."""
        record.binary_in += 1
        record.audio_in += len(audio)
        room = self._keep_audio - len(record.audio)
        if room > 0:
            record.audio += audio[:room]
        self.touch()

    def touch(self) -> None:
        """Have waiting tasks check their conditions."""
        self._changed.set()

    def clear(self) -> None:
        """Remove the records that have ended. Ids and ``dials`` continue."""
        self._records = deque((record for record in self._records if record.open), maxlen=_MAX_RECORDS)

    async def until(self, condition: Callable[[Log], object], timeout: float = 5) -> None:
        """Wait until a condition holds. It is checked after every event.

        Raises:
            TimeoutError: it did not hold within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()
