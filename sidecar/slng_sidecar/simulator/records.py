"""What happened, for tests and for ``/_sim/log``."""

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
        id: counts from 1 in the order of the dials.
        kind: ``stt``, ``tts`` or ``http``.
        headers: the request's, names in lower case.
        query: the request's parameters.
        status: 101 once the WebSocket stands, else the HTTP status; None before either.
        received, sent: text messages and their time (seconds since the dial), the last 1000.
        audio: what came in as audio, as far as ``SimulatorOptions.keep_audio`` allows.
        audio_in, audio_out: bytes of audio received and sent, kept or not.
        binary_in: how many binary messages came.
        ended: who ended it: ``client``, ``simulator``, or the fault that did; None while it is open.
        close_code, close_reason: the close, the client's or ours.
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
        """Whether the WebSocket stands."""
        return self.status == 101 and self.ended is None

    @property
    def types(self) -> list[str]:
        """The types of the text messages received, in order."""
        return [str(message.get("type")) for _, message in self.received]

    def last_received(self, kind: str) -> dict[str, Any] | None:
        """Give the newest message of a type that the client sent."""
        return next((message for _, message in reversed(self.received) if message.get("type") == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """Give all of it for the log: keys are hidden, audio is counted."""
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
    """All records, the last 500, and a way to wait for what they shall say."""

    def __init__(self, keep_audio: int = 0) -> None:
        self._records: deque[Record] = deque(maxlen=_MAX_RECORDS)
        self._keep_audio = keep_audio
        self._changed = asyncio.Event()
        self.dials = 0

    @property
    def records(self) -> list[Record]:
        """Everything, in the order of the dials."""
        return list(self._records)

    def of(self, kind: str, model: str | None = None) -> list[Record]:
        """Give what was dialled of one kind, and of one model where it is named."""
        return [r for r in self._records if r.kind == kind and model in (None, r.model)]

    @property
    def open(self) -> list[Record]:
        """The WebSockets that stand."""
        return [record for record in self._records if record.open]

    def dialled(self, kind: str, model: str, headers: Mapping[str, str], query: Mapping[str, str]) -> Record:
        self.dials += 1
        record = Record(self.dials, kind, model, dict(headers), dict(query))
        self._records.append(record)
        self.touch()
        return record

    def received(self, record: Record, message: dict[str, Any]) -> None:
        record.received.append((time.monotonic() - record.opened, message))
        self.touch()

    def sent(self, record: Record, message: dict[str, Any]) -> None:
        record.sent.append((time.monotonic() - record.opened, message))
        self.touch()

    def heard(self, record: Record, audio: bytes) -> None:
        record.binary_in += 1
        record.audio_in += len(audio)
        room = self._keep_audio - len(record.audio)
        if room > 0:
            record.audio += audio[:room]
        self.touch()

    def touch(self) -> None:
        """Let those who wait look again."""
        self._changed.set()

    def clear(self) -> None:
        """Forget what has ended; ids and ``dials`` go on counting."""
        self._records = deque((record for record in self._records if record.open), maxlen=_MAX_RECORDS)

    async def until(self, condition: Callable[[Log], object], timeout: float = 5) -> None:
        """Wait until the condition holds; it is looked at after each thing that happens.

        Raises:
            TimeoutError: it did not within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()
