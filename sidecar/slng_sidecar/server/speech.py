"""HTTP speech: one text in, its sound out while it is made."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slng_sidecar.audio.wav import wav_header
from slng_sidecar.delivery import deliver
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import parse_object
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.replies import error_response
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.serving import transport_of
from slng_sidecar.sessions.speech import SpeechClient
from slng_sidecar.tasks import Tasks

log = logging.getLogger(__name__)

_BODY_BESIDES_TEXT = 65_536


class SpeechConfig(BaseModel):
    """How it is said. Any other option of the provider's is passed on."""

    model_config = ConfigDict(extra="allow", strict=True)

    sample_rate: int = Field(default=24_000, ge=8000, le=48_000, description="Hz of the sound that comes back")
    encoding: Literal["linear16"] = Field(
        default="linear16", description="HTTP speech is 16-bit PCM, alone or in a WAV"
    )
    language: str | None = None
    speed: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    pronunciation: dict[str, Any] | None = None


class SpeechRequest(BaseModel):
    """SLNG's shape of a text to be said."""

    model_config = ConfigDict(strict=True)

    text: str = Field(min_length=1, description="what to say")
    voice: str | None = Field(default=None, description="one of the model's voices; SLNG_TTS_VOICE if not given")
    config: SpeechConfig = Field(default_factory=SpeechConfig)


class SpeechResponse(Response):
    """Sound as a reply: the first bytes leave with the first sound, and a failure after them breaks the body off.

    The reply starts only once there is sound, so a failure before it has a status and a body of its own.
    """

    def __init__(self, gateway: Gateway, target: Target, request: SpeechRequest, *, wav: bool) -> None:
        super().__init__()
        self._gateway = gateway
        self._target = target
        self._request = request
        self._wav = wav

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        config = self._request.config.model_dump(exclude_none=True)
        voice = self._request.voice or self._gateway.settings.slng_tts_voice
        client = SpeechClient(self._request.text, voice, config)
        try:
            self._gateway.start_session(client, self._target)
        except GatewayError as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            async with Tasks() as tasks:
                reply = tasks.start(self._reply(client, scope, send), "speech reply")
                gone = tasks.start(_disconnected(receive), "speech client")
                await asyncio.wait((reply, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            client.leave()

    async def _reply(self, client: SpeechClient, scope: Scope, send: Send) -> None:
        rate = self._request.config.sample_rate
        transport = transport_of(scope)
        seconds = self._gateway.settings.sidecar_send_timeout

        async def body(data: bytes, *, more: bool = True) -> None:
            message = {"type": "http.response.body", "body": data, "more_body": more}
            await deliver(send(message), len(data), transport, seconds)

        try:
            sound = await client.next()
            if sound is None:
                raise GatewayError("provider_error", f"{self._target.model} gave no sound for that text.")
        except GatewayError as error:
            log.info("speech of %s failed: %s", self._target.model, error.message)
            await error_response(error)(scope, _never, send)
            return
        headers = {
            "Content-Type": "audio/wav" if self._wav else f"audio/pcm;rate={rate}",
            "X-Sample-Rate": str(rate),
            "X-Channels": "1",
            "X-Sample-Format": "s16le",
        }
        raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw_headers})
        if self._wav:
            sound = wav_header(rate) + sound
        try:
            while sound is not None:
                await body(sound)
                sound = await client.next()
        except GatewayError as error:
            # The status has left. Only a body that breaks off can still say that this is not the whole.
            log.warning("speech of %s broke off: %s", self._target.model, error.message)
            transport.close()
            return
        await body(b"", more=False)


def speech_routes(gateway: Gateway) -> APIRouter:
    """Give the route ``POST /v1/bridges/unmute/tts/{model}``."""
    router = APIRouter()

    @router.post(
        "/v1/bridges/unmute/tts/{model:path}",
        summary="Say a text",
        response_class=Response,
        responses={200: {"content": {"audio/wav": {}, "audio/pcm": {}}, "description": "the sound, as it is made"}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SpeechRequest.model_json_schema()}},
            }
        },
    )
    async def speak(request: Request, model: str) -> Response:
        target = resolve_target(request, "tts", model, gateway.settings, gateway.secrets)
        asked = _parse(await _body(request, gateway.settings.sidecar_max_text), gateway.settings.sidecar_max_text)
        return SpeechResponse(gateway, target, asked, wav="audio/pcm" not in request.headers.get("accept", ""))

    return router


def _parse(body: bytes, max_text: int) -> SpeechRequest:
    """Read a request's body.

    Raises:
        GatewayError: with the field that is wrong, and what it takes.
    """
    try:
        value = parse_object(body.decode())
    except UnicodeDecodeError:
        raise GatewayError("bad_request", "The body must be JSON in UTF-8.") from None
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise GatewayError("bad_request", 'There is nothing to say: send {"text": "…"} with at least one letter.')
    if len(text) > max_text:
        raise _too_long(max_text)
    try:
        return SpeechRequest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GatewayError("config_error", f"{where}: {first['msg']}.") from None


async def _body(request: Request, max_text: int) -> bytes:
    """Read the body as far as it may go: a character takes up to twelve bytes in JSON."""
    limit = 12 * max_text + _BODY_BESIDES_TEXT
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_long(max_text)
        parts.append(part)
    return b"".join(parts)


def _too_long(max_text: int) -> GatewayError:
    return GatewayError(
        "payload_too_large", f"{max_text:,} characters is the most for one text (SIDECAR_MAX_TEXT). Send it in parts."
    )


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    await asyncio.Event().wait()
