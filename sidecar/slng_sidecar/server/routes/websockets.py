"""The WebSocket routes: SLNG's own paths and messages."""

from __future__ import annotations

from typing import cast

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from slng_sidecar.net.serving import transport_of
from slng_sidecar.net.timed_send import deliver
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.route import Kind
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.guard import peer_of
from slng_sidecar.server.replies import refuse
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.sessions.runner import ClientGone

EXTENDED = "slng-sidecar.v1"
"""The WebSocket subprotocol of the extended dialect; who does not ask for it gets SLNG's own messages only."""


class WebSocketClient:
    """A local client on a WebSocket."""

    def __init__(self, websocket: WebSocket, send_timeout: float) -> None:
        self._websocket = websocket
        self._transport = transport_of(websocket.scope)
        self._send_timeout = send_timeout

    async def receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        data: str | bytes | None = message.get("bytes")
        return data if data is not None else cast("str", message["text"])

    async def send(self, data: str | bytes) -> None:
        sending = self._websocket.send_bytes(data) if isinstance(data, bytes) else self._websocket.send_text(data)
        try:
            await deliver(sending, len(data), self._transport, self._send_timeout)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ClientGone from error

    async def close(self, code: int, reason: str) -> None:
        try:
            await deliver(self._websocket.close(code, reason), 0, self._transport, self._send_timeout)
        except (WebSocketDisconnect, RuntimeError):
            return


def websocket_routes(gateway: Gateway, sessions: SessionFactory) -> APIRouter:
    """Give the routes ``WS /v1/bridges/unmute/{stt,tts}/{model}``; every other upgrade is refused by name."""
    router, services = APIRouter(), gateway.services

    async def serve(websocket: WebSocket, kind: Kind, model: str) -> None:
        peer = peer_of(websocket.scope)
        try:
            target = resolve_target(websocket, kind, model, services.settings, services.secrets)
            live = gateway.take_place(target, peer)
        except GatewayError as error:
            gateway.refused(error, peer)
            await refuse(error, websocket.scope, websocket.receive, websocket.send)
            return
        live.drains = True
        extended = EXTENDED in websocket.scope["subprotocols"]
        try:
            await websocket.accept(EXTENDED if extended else None)
            client = WebSocketClient(websocket, services.settings.sidecar_send_timeout)
            await sessions.run(client, live, extended=extended)
        finally:
            gateway.free_place(live)

    @router.websocket("/v1/bridges/unmute/stt/{model:path}")
    async def stt(websocket: WebSocket, model: str) -> None:
        await serve(websocket, "stt", model)

    @router.websocket("/v1/bridges/unmute/tts/{model:path}")
    async def tts(websocket: WebSocket, model: str) -> None:
        await serve(websocket, "tts", model)

    @router.websocket("/{path:path}")
    async def unknown(websocket: WebSocket) -> None:
        error = GatewayError(
            ErrorCode.NOT_FOUND,
            "No WebSocket here. The paths are /v1/bridges/unmute/stt/{model} and /v1/bridges/unmute/tts/{model}.",
        )
        await refuse(error, websocket.scope, websocket.receive, websocket.send)

    return router
