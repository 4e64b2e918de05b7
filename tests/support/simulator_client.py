"""A client of the simulator for tests: it sends what a test says and keeps what came."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

NOVA = "slng/deepgram/nova:3-en"
AURA = "slng/deepgram/aura:2-en"
KEY = {"Authorization": "Bearer key"}
# A guard against a hang only, so that a busy machine does not reach it.
WAIT = 20


class Client:
    """One WebSocket to the simulator.

    Attributes:
        messages: the text messages that came, as objects.
        audio: the sound that came.
        times: when each of ``messages`` came, by the loop's clock.
    """

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.audio = bytearray()
        self.binaries = 0

    async def send(self, *messages: dict[str, Any] | str | bytes) -> None:
        for message in messages:
            await self.websocket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def next(self) -> dict[str, Any] | bytes:
        async with asyncio.timeout(WAIT):
            data = await self.websocket.recv()
        if isinstance(data, bytes):
            self.audio += data
            self.binaries += 1
            return data
        message: dict[str, Any] = json.loads(data)
        self.messages.append(message)
        self.times.append(asyncio.get_running_loop().time())
        return message

    async def next_sound(self) -> bytes:
        """Read what must be a binary message."""
        data = await self.next()
        assert isinstance(data, bytes)
        return data

    async def until(self, kind: str) -> dict[str, Any]:
        """Read until a text message of the type comes, and give it."""
        while True:
            message = await self.next()
            if isinstance(message, dict) and message.get("type") == kind:
                return message

    async def until_closed(self) -> tuple[int | None, str | None]:
        """Read until the connection ends; give the code and the reason."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.websocket.close_code, self.websocket.close_reason

    async def nothing_for(self, seconds: float) -> None:
        """Fail if anything comes within that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                raise AssertionError(f"came: {await self.websocket.recv()!r}")

    def types(self) -> list[str]:
        return [message.get("type", "") for message in self.messages]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("type") == kind]

    def transcripts(self) -> list[str]:
        return [message["transcript"] for message in self.of("final_transcript")]

    def words(self, rate: int = 16_000) -> list[str]:
        """Read the numbered signal in the sound that came."""
        return [word.text for word in signal.decode(bytes(self.audio), rate)]


@contextlib.asynccontextmanager
async def dialled(
    simulator: Simulator, kind: str, model: str, headers: dict[str, str] | None = None, query: str = ""
) -> AsyncIterator[Client]:
    url = f"{simulator.url}/v1/bridges/unmute/{kind}/{model}{query}"
    sent = KEY if headers is None else headers
    async with connect(url, additional_headers=sent, compression=None, close_timeout=1, max_size=64 << 20) as websocket:
        yield Client(websocket)


@contextlib.asynccontextmanager
async def stt(simulator: Simulator, model: str = NOVA, **config: Any) -> AsyncIterator[Client]:
    """An STT session that is ready."""
    async with dialled(simulator, "stt", model) as client:
        await client.send({"type": "init", "config": {"sample_rate": 16_000, "encoding": "linear16", **config}})
        await client.until("ready")
        yield client


@contextlib.asynccontextmanager
async def tts(simulator: Simulator, model: str = AURA, **config: Any) -> AsyncIterator[Client]:
    """A TTS session that is ready."""
    async with dialled(simulator, "tts", model) as client:
        await client.send({"type": "init", "config": {"sample_rate": 16_000, "encoding": "linear16", **config}})
        await client.until("ready")
        yield client


def fast(**fields: Any) -> contextlib.AbstractAsyncContextManager[Simulator]:
    """A simulator that answers at once."""
    return running_simulator(SimulatorOptions.fast(**fields))


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
FINALIZE = {"type": "finalize"}
