"""HTTP speech in SLNG's shape: one text in, its sound out while it is made."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from slng_sidecar.audio.encoding import Pcm, Wav
from slng_sidecar.server.bodies import ERRORS, config_of, form_of, json_body, validated
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.server.speech_reply import AudioFormat, SpeechResponse
from slng_sidecar.server.synthesis import Synthesis
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.server.transcription import TranscriptionResponse
from slng_sidecar.server.transcripts import SlngOptions
from slng_sidecar.sessions.http_speech import HttpSpeech


class SpeechConfig(BaseModel):
    """How it is said. Any other option of the provider's is passed on."""

    model_config = ConfigDict(extra="allow", strict=True)

    sample_rate: int | None = Field(
        default=None, ge=8000, le=48_000, description="Hz of the sound that comes back; 24000 where upstream can choose"
    )
    encoding: Literal["linear16"] | None = Field(
        default=None, description="HTTP speech is 16-bit PCM, alone or in a WAV"
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


def bridge_routes(gateway: Gateway, sessions: SessionFactory, synthesis: Synthesis) -> APIRouter:
    """Give the route ``POST /v1/bridges/unmute/tts/{model}``."""
    router, services = APIRouter(), gateway.services

    @router.post(
        "/v1/bridges/unmute/tts/{model:path}",
        summary="Say a text",
        response_class=Response,
        responses={
            200: {"content": {"audio/wav": {}, "audio/pcm": {}}, "description": "the sound, as it is made"},
            **ERRORS,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SpeechRequest.model_json_schema()}},
            }
        },
    )
    async def speak(request: Request, model: str) -> Response:
        target = resolve_target(request, "tts", model, services.settings, services.secrets)
        body = await json_body(request, "text", services.settings)
        asked = validated(SpeechRequest, body)
        rate = asked.config.sample_rate
        speech = HttpSpeech(
            asked.text,
            asked.voice or services.settings.slng_tts_voice,
            config_of(asked.config.model_dump(exclude_none=True)),
        )
        encoder = Pcm() if "audio/pcm" in request.headers.get("accept", "") else Wav()
        return SpeechResponse(synthesis, target, speech, AudioFormat(encoder, rate))

    @router.post(
        "/v1/bridges/unmute/stt/{model:path}",
        summary="Write down what a file says",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "the words"}, **ERRORS},
        openapi_extra=form_of(
            "audio",
            raw=True,
            language="such as en",
            encoding="of headerless samples: linear16, mulaw or alaw",
            sample_rate="of headerless samples, in Hz",
        ),
    )
    async def transcribe_slng(request: Request, model: str) -> Response:
        target = resolve_target(request, "stt", model, services.settings, services.secrets)
        options = SlngOptions()
        for name in ("language", "encoding", "sample_rate"):
            if value := request.query_params.get(name):
                options.take(name, value)
        return TranscriptionResponse(gateway, sessions, "audio", options, target)

    return router
