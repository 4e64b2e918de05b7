"""SLNG's HTTP bridges: speech for a text, and the transcript of a file."""

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
    """How to say the text. Other fields are passed on to the provider."""

    model_config = ConfigDict(extra="allow", strict=True)

    sample_rate: int | None = Field(
        default=None, ge=8000, le=48_000, description="the sample rate of the audio in Hz; 24000 if upstream can choose"
    )
    encoding: Literal["linear16"] | None = Field(
        default=None, description="HTTP speech is 16-bit PCM, plain or in a WAV"
    )
    language: str | None = None
    speed: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    pronunciation: dict[str, Any] | None = None


class SpeechRequest(BaseModel):
    """A text to say, in SLNG's form."""

    model_config = ConfigDict(strict=True)

    text: str = Field(min_length=1, description="the text to say")
    voice: str | None = Field(default=None, description="one of the model's voices; default: SLNG_TTS_VOICE")
    config: SpeechConfig = Field(default_factory=SpeechConfig)


def bridge_routes(gateway: Gateway, sessions: SessionFactory, synthesis: Synthesis) -> APIRouter:
    """Return the routes ``POST /v1/bridges/unmute/tts/{model}`` and ``POST /v1/bridges/unmute/stt/{model}``."""
    router, services = APIRouter(), gateway.services

    @router.post(
        "/v1/bridges/unmute/tts/{model:path}",
        summary="Say a text",
        response_class=Response,
        responses={
            200: {"content": {"audio/wav": {}, "audio/pcm": {}}, "description": "the audio, while it is synthesized"},
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
        summary="Transcribe a file",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "the transcript"}, **ERRORS},
        openapi_extra=form_of(
            "audio",
            raw=True,
            language="such as en",
            encoding="of samples without a header: linear16, mulaw or alaw",
            sample_rate="of samples without a header, in Hz",
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
