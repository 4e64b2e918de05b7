"""A WebSocket client that records when each message arrived, for the sidecar's extended dialect or the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

RATE = 16_000
STT_INIT: dict[str, Any] = {
    "type": "init",
    "config": {"sample_rate": RATE, "encoding": "linear16", "enable_partials": True, "language": "en"},
}
TTS_INIT: dict[str, Any] = {"type": "init", "voice": "one", "config": {"sample_rate": RATE, "encoding": "linear16"}}
WAIT = 10.0


class Client:
    """An open session.

    Attributes:
        messages: the JSON messages, each with its time of arrival (``time.monotonic``).
        audio: the audio messages, each with its time of arrival.
        audio_by_context: the same audio by context id (extended dialect).
        closed: whether the connection has ended.
    """

    def __init__(self, websocket: ClientConnection) -> None:
        self.messages: list[tuple[float, dict[str, Any]]] = []
        self.audio: list[tuple[float, bytes]] = []
        self.audio_by_context: dict[str, list[tuple[float, bytes]]] = {}
        self._websocket = websocket
        self._context = ""
        self._changed = asyncio.Event()
        self.closed = False

    async def send(self, message: dict[str, Any] | bytes) -> float:
        """Send a message and return the time just before."""
        at = time.monotonic()
        await self._websocket.send(json.dumps(message) if isinstance(message, dict) else message)
        return at

    async def read(self) -> None:
        """Record messages until the connection ends."""
        try:
            while True:
                data = await self._websocket.recv()
                at = time.monotonic()
                if isinstance(data, bytes):
                    self.audio.append((at, data))
                    self.audio_by_context.setdefault(self._context, []).append((at, data))
                else:
                    message: dict[str, Any] = json.loads(data)
                    self.messages.append((at, message))
                    match message.get("type"):
                        case "audio_start":
                            self._context = message["context_id"]
                        case "audio_end":
                            self._context = ""
                self._changed.set()
        except ConnectionClosed:
            self.closed = True
            self._changed.set()

    async def until(self, condition: Callable[[], object], timeout: float = WAIT) -> None:
        """Wait until the condition is true. It is checked after each message."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def arrival(self, kind: str, **fields: Any) -> float | None:
        """Return when the first message of a type with these fields arrived, or None if none did."""
        return next(
            (at for at, m in self.messages if m.get("type") == kind and all(m.get(k) == v for k, v in fields.items())),
            None,
        )

    def transcribed(self) -> list[str]:
        """Return the words of the finals."""
        finals = [m["transcript"] for _, m in self.messages if m.get("type") == "final_transcript"]
        return " ".join(finals).split()


@contextlib.asynccontextmanager
async def open_session(
    url: str, kind: str, model: str, init: dict[str, Any], *, extended: bool
) -> AsyncIterator[Client]:
    """Open a session and wait until it is ready. It closes at the end of the block."""
    async with connect(
        url.replace("http:", "ws:") + f"/v1/bridges/unmute/{kind}/{model}",
        additional_headers={"Authorization": "Bearer key-of-the-bench"},
        subprotocols=[Subprotocol("slng-sidecar.v1")] if extended else None,
        compression=None,
        proxy=None,
        open_timeout=WAIT,
        close_timeout=2,
    ) as websocket:
        client = Client(websocket)
        reading = asyncio.create_task(client.read())
        try:
            await client.send(init)
            await client.until(lambda: client.arrival("ready"))
            yield client
        finally:
            reading.cancel()
            await asyncio.wait([reading])
