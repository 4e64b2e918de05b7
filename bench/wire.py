"""What the observer saw: who dialled, and when each message passed."""

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
    """One connection to the simulator; messages are their time (``time.monotonic``) and what they said."""

    request: str = ""
    texts_up: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    audio_up: list[tuple[float, bytes]] = field(default_factory=list)
    texts_down: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    audio_down: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def sound_up(self) -> bytes:
        return b"".join(data for _, data in self.audio_up)

    def arrived(self, kind: str) -> list[float]:
        """Give when the client's messages of a type passed."""
        return [at for at, message in self.texts_up if message.get("type") == kind]


class Wire:
    """The observer's notes."""

    def __init__(self, process: asyncio.subprocess.Process, path: Path) -> None:
        self._process = process
        self._path = path
        self._read = 0
        self._connections: dict[int, Connection] = {}
        self._lock = asyncio.Lock()

    async def of(self, model: str) -> list[Connection]:
        """Give the connections to a model so far, in the order of their dials."""
        async with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(b"\n")
            async with asyncio.timeout(_WAIT):
                await self._process.stdout.readline()
            self._take()
        return [c for _, c in sorted(self._connections.items()) if f"/{model} " in c.request]

    def _take(self) -> None:
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


assert (REQUEST, _TEXT, _BINARY, UP, DOWN) == (255, 1, 2, 0, 1)
