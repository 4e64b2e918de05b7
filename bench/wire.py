"""The observer's record: the connections to the simulator, and when each message passed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.observer import DOWN, RECORD, REQUEST, UP

_TEXT, _BINARY = 1, 2
_WAIT = 10.0


@dataclass
class Connection:
    """One connection to the simulator. Each message has the time at which it passed (``time.monotonic``).

    Attributes:
        request: the first line of the upgrade request.
        texts_up: the JSON messages from the client.
        audio_up: the audio from the client.
        texts_down: the JSON messages to the client.
        audio_down: the audio to the client.
    """

    request: str = ""
    texts_up: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    audio_up: list[tuple[float, bytes]] = field(default_factory=list)
    texts_down: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    audio_down: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def pcm_up(self) -> bytes:
        """All audio from the client."""
        return b"".join(data for _, data in self.audio_up)

    def arrivals(self, kind: str) -> list[float]:
        """Return when the client's messages of a type passed."""
        return [at for at, message in self.texts_up if message.get("type") == kind]


class Wire:
    """Reads the observer's record while the observer writes it.

    Mutable: ``_read``, how many bytes of the file were read; ``_connections``, by their numbers.
    """

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self._process = process
        self._path = path
        self._read = 0
        self._connections: dict[int, Connection] = {}
        self._lock = asyncio.Lock()

    async def connections_to(self, model: str) -> list[Connection]:
        """Return the connections to a model so far, in the order in which they were opened."""
        async with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(b"\n")
            async with asyncio.timeout(_WAIT):
                await self._process.stdout.readline()
            self._read_records()
        return [c for _, c in sorted(self._connections.items()) if f"/{model} " in c.request]

    def _read_records(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        at = 0
        while at < len(data):
            time, number, direction, opcode, size = RECORD.unpack_from(data, at)
            payload = data[at + RECORD.size : at + RECORD.size + size]
            at += RECORD.size + size
            connection = self._connections.setdefault(number, Connection())
            match opcode, direction:
                case 255, _:
                    connection.request = payload.decode()
                case 1, 0:
                    connection.texts_up.append((time, json.loads(payload)))
                case 1, 1:
                    connection.texts_down.append((time, json.loads(payload)))
                case 2, 0:
                    connection.audio_up.append((time, payload))
                case 2, 1:
                    connection.audio_down.append((time, payload))


# The patterns of the ``match`` statement above have to be literals.
assert (REQUEST, _TEXT, _BINARY, UP, DOWN) == (255, 1, 2, 0, 1)
