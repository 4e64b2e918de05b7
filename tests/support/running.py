"""A gateway and a simulator on real sockets, and a client for either."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from slng_sidecar.config import load_settings
from slng_sidecar.net.serving import serving
from slng_sidecar.server.app import create_app
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.run import address_of, listen
from slng_sidecar.server.services import Services
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

NOVA = "slng/deepgram/nova:3-en"
AURA = "slng/deepgram/aura:2-en"
KEY = "test-key-of-slng"
STT_INIT: dict[str, Any] = {
    "type": "init",
    "config": {"sample_rate": 16000, "encoding": "linear16", "enable_partials": True},
}
TTS_INIT: dict[str, Any] = {"type": "init", "config": {"sample_rate": 16000, "encoding": "linear16"}}
# A guard against a hang only, so that a busy machine does not reach it.
WAIT = 20.0


@contextlib.asynccontextmanager
async def running_gateway(base_url: str | None, **settings: Any) -> AsyncIterator[str]:
    """Serve a gateway on a free port while the block runs, and yield its HTTP address.

    Args:
        settings: by their names, such as ``sidecar_max_sessions``.
    """
    settings = {"slng_api_key": KEY, "sidecar_port": 0, **settings}
    values, secrets = load_settings(None, None, slng_base_url=base_url, **settings)
    sock = listen(values)
    async with serving(
        create_app(Gateway(Services(values, secrets))),
        sock,
        max_message_size=int(values.sidecar_max_message),
        shutdown_timeout=1,
    ):
        yield address_of(sock)


class Talk:
    """A WebSocket, and the messages that came over it."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.messages: list[dict[str, Any]] = []
        self.audio = bytearray()

    async def send(self, *messages: dict[str, Any] | str | bytes) -> None:
        for message in messages:
            await self.websocket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def next(self) -> dict[str, Any] | bytes:
        async with asyncio.timeout(WAIT):
            return await self.next_whenever()

    async def next_whenever(self) -> dict[str, Any] | bytes:
        """Read the next message, however long it takes."""
        data = await self.websocket.recv()
        if isinstance(data, bytes):
            self.audio += data
            return data
        message: dict[str, Any] = json.loads(data)
        self.messages.append(message)
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        """Read until a message of a type comes, and return it."""
        while True:
            message = await self.next()
            if isinstance(message, dict) and message.get("type") == kind:
                return message

    async def until_closed(self) -> tuple[int, str]:
        """Read until the other side closes, and return its code and reason."""
        while True:
            try:
                await self.next()
            except ConnectionClosed as error:
                return (error.rcvd.code, error.rcvd.reason) if error.rcvd else (1006, "")

    @property
    def types(self) -> list[str]:
        return [str(message.get("type", "")) for message in self.messages]

    def finals(self) -> list[str]:
        """Return the texts of the finals that came, including empty ones."""
        return [message["transcript"] for message in self.messages if message.get("type") == "final_transcript"]


@contextlib.asynccontextmanager
async def talking(
    url: str,
    kind: str,
    model: str,
    headers: dict[str, str] | None = None,
    query: str = "",
    subprotocol: str | None = None,
) -> AsyncIterator[Talk]:
    """Open a WebSocket to a gateway or a simulator."""
    address = url.replace("http://", "ws://") + f"/v1/bridges/unmute/{kind}/{model}{query}"
    async with connect(
        address,
        additional_headers=headers or {"Authorization": "Bearer any"},
        subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
        compression=None,
        proxy=None,
    ) as websocket:
        assert websocket.subprotocol == subprotocol
        yield Talk(websocket)


@contextlib.asynccontextmanager
async def gateway_and_simulator(
    simulator_options: SimulatorOptions | None = None, **settings: Any
) -> AsyncIterator[tuple[str, Simulator]]:
    """Serve both, and yield the gateway's address and the simulator."""
    async with (
        running_simulator(simulator_options or SimulatorOptions.fast()) as simulator,
        running_gateway(simulator.url, **settings) as url,
    ):
        yield url, simulator
