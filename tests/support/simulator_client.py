"""A client of the simulator that sends what a test says and keeps what comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator
from websockets.asyncio.client import ClientConnection, connect

from support.running import AURA, NOVA, Talk

__all__ = [
    "AURA",
    "CLEAR",
    "CLOSE",
    "FINALIZE",
    "FLUSH",
    "KEY",
    "NOVA",
    "Client",
    "dialled",
    "fast",
    "stt",
    "text",
    "tts",
]

KEY = {"Authorization": "Bearer key"}


class Client(Talk):
    """A WebSocket to the simulator.

    Attributes:
        messages: the text messages that came, as objects.
        audio: the audio that came.
        times: when each of ``messages`` came, by the clock of the event loop.
        binaries: how many binary messages came.
    """

    def __init__(self, websocket: ClientConnection) -> None:
        super().__init__(websocket)
        self.times: list[float] = []
        self.binaries = 0

    async def next_whenever(self) -> dict[str, Any] | bytes:
        message = await super().next_whenever()
        if isinstance(message, bytes):
            self.binaries += 1
        else:
            self.times.append(asyncio.get_running_loop().time())
        return message

    async def next_audio(self) -> bytes:
        """Read the next message, which must be binary."""
        data = await self.next()
        assert isinstance(data, bytes)
        return data

    async def nothing_for(self, seconds: float) -> None:
        """Fail if anything comes within some seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                raise AssertionError(f"came: {await self.websocket.recv()!r}")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("type") == kind]

    def transcripts(self) -> list[str]:
        return [message["transcript"] for message in self.of("final_transcript")]

    def words(self, rate: int = 16_000) -> list[str]:
        """Return the words in the audio that came, read as the numbered signal."""
        return [word.text for word in signal.decode(bytes(self.audio), rate)]


@contextlib.asynccontextmanager
async def dialled(
    simulator: Simulator, kind: str, model: str, headers: dict[str, str] | None = None, query: str = ""
) -> AsyncIterator[Client]:
    url = f"{simulator.url}/v1/bridges/unmute/{kind}/{model}{query}"
    sent = KEY if headers is None else headers
    async with connect(url, additional_headers=sent, compression=None, close_timeout=1, max_size=64 << 20) as websocket:
        yield Client(websocket)


def stt(simulator: Simulator, model: str = NOVA, **config: Any) -> contextlib.AbstractAsyncContextManager[Client]:
    """Open an STT session and wait for ``ready``."""
    return _session(simulator, "stt", model, config)


def tts(simulator: Simulator, model: str = AURA, **config: Any) -> contextlib.AbstractAsyncContextManager[Client]:
    """Open a TTS session and wait for ``ready``."""
    return _session(simulator, "tts", model, config)


@contextlib.asynccontextmanager
async def _session(simulator: Simulator, kind: str, model: str, config: dict[str, Any]) -> AsyncIterator[Client]:
    async with dialled(simulator, kind, model) as client:
        await client.send({"type": "init", "config": {"sample_rate": 16_000, "encoding": "linear16", **config}})
        await client.until("ready")
        yield client


def fast(**fields: Any) -> contextlib.AbstractAsyncContextManager[Simulator]:
    """Run a simulator that answers at once."""
    return running_simulator(SimulatorOptions.fast(**fields))


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
FINALIZE = {"type": "finalize"}
