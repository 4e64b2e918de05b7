"""OpenAI's routes: ``/v1/audio/speech`` and ``/v1/audio/transcriptions``."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from slng_sidecar.audio.codecs import CodecEncoder, CodecsMissing
from slng_sidecar.audio.encoding import Encoder, Pcm, Wav
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.server.bodies import ERRORS, config_of, form_of, json_body, validated
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.names import ignored_header, model_of, voice_of
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.server.speech_reply import AudioFormat, SpeechResponse
from slng_sidecar.server.synthesis import Synthesis
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.server.transcription import TranscriptionResponse
from slng_sidecar.server.transcripts import OpenAIOptions
from slng_sidecar.sessions.http_speech import HttpSpeech

_PCM_RATE = 24_000
"""The sample rate of OpenAI's ``pcm``, which its clients rely on."""


_SPEECH_TYPES = (
    "audio/wav", "audio/pcm", "audio/mpeg", "audio/ogg", "audio/flac", "audio/aac", "text/event-stream",
)  # fmt: skip


class VoiceById(BaseModel):
    """A voice in the form of OpenAI's newer clients."""

    id: str


class OpenAISpeechRequest(BaseModel):
    """A text to say, in OpenAI's form, with two more fields. Unknown fields are ignored and listed in ``X-Ignored``."""

    model_config = ConfigDict(strict=True, extra="allow")

    input: str = Field(min_length=1, description="the text to say")
    model: str | None = Field(default=None, description="a route; a name without '/' is an alias or the default")
    voice: str | VoiceById | None = Field(
        default=None, description="one of the model's voices; OpenAI's voices stand for the default"
    )
    response_format: Literal["wav", "pcm", "mp3", "opus", "flac", "aac"] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    speed: float | None = Field(default=None, ge=0.25, le=4, allow_inf_nan=False)
    language: str | None = None
    sample_rate: int | None = Field(default=None, ge=8000, le=48_000, description="Hz")


def openai_routes(gateway: Gateway, sessions: SessionFactory, synthesis: Synthesis) -> APIRouter:
    """Return the routes."""
    router, services = APIRouter(), gateway.services

    @router.post(
        "/v1/audio/speech",
        summary="Say a text, for OpenAI's clients",
        response_class=Response,
        responses={
            200: {
                "content": {kind: {} for kind in _SPEECH_TYPES},
                "description": "the audio, while it is synthesized",
            },
            **ERRORS,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": _schema(OpenAISpeechRequest)}},
            }
        },
    )
    async def speak(request: Request) -> Response:
        settings = services.settings
        body = await json_body(request, "input", settings)
        asked = validated(OpenAISpeechRequest, body)
        model = model_of(asked.model, "tts", settings)
        target = resolve_target(request, "tts", model, settings, services.secrets)
        # In a thread, because the codecs are slow to load at their first use.
        audio_format = await asyncio.to_thread(_format, request, asked)
        given: dict[str, Any] = {"sample_rate": asked.sample_rate, "language": asked.language}
        if asked.speed != 1:
            given["speed"] = asked.speed
        voice = asked.voice.id if isinstance(asked.voice, VoiceById) else asked.voice
        config = config_of({name: value for name, value in given.items() if value is not None})
        speech = HttpSpeech(asked.input, voice_of(voice, settings), config)
        ignored = ignored_header(list(asked.model_extra or ()))
        headers = {"X-Model": model, **ignored}
        return SpeechResponse(
            synthesis,
            target,
            speech,
            AudioFormat(audio_format.encoder, audio_format.sample_rate, audio_format.events, headers),
        )

    @router.post(
        "/v1/audio/transcriptions",
        summary="Transcribe a file, for OpenAI's clients",
        response_class=Response,
        responses={
            200: {
                "content": {"application/json": {}, "text/plain": {}, "text/event-stream": {}},
                "description": "the transcript",
            },
            **ERRORS,
        },
        openapi_extra=form_of(
            "file",
            model="a route; a name without '/' is an alias or the default",
            language="such as en",
            response_format="json, text or verbose_json",
            stream="true to get the transcript as it comes, as server-sent events",
        ),
    )
    async def transcribe(request: Request) -> Response:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise GatewayError(
                ErrorCode.BAD_REQUEST,
                "This route takes a form (multipart/form-data) with the audio in 'file': curl -F file=@hello.wav …",
                status=415,
            )
        return TranscriptionResponse(gateway, sessions, "file", OpenAIOptions(), None)

    return router


def _format(request: Request, asked: OpenAISpeechRequest) -> AudioFormat:
    """Return the form of the reply.

    Raises:
        GatewayError: the format needs codecs that are not installed.
    """
    kind = asked.response_format or ("pcm" if "audio/pcm" in request.headers.get("accept", "") else "wav")
    rate = asked.sample_rate or (_PCM_RATE if kind == "pcm" else None)
    encoder: Encoder
    match kind:
        case "wav":
            encoder = Wav()
        case "pcm":
            encoder = Pcm()
        case _:
            try:
                encoder = CodecEncoder(kind)
            except CodecsMissing:
                raise GatewayError(
                    ErrorCode.UNSUPPORTED_AUDIO_FORMAT,
                    f"response_format {kind} needs the sidecar's codecs (pip install 'slng-sidecar[codecs]'); wav and "
                    "pcm do not.",
                    status=400,
                ) from None
    return AudioFormat(encoder, rate, asked.stream_format == "sse")


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model without references to other schemas."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return definitions[value["$ref"].rpartition("/")[2]]
            return {name: resolved(part) for name, part in value.items()}
        return [resolved(part) for part in value] if isinstance(value, list) else value

    result: dict[str, Any] = resolved(schema)
    return result
