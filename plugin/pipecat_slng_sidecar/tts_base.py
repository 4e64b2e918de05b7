"""The base of both TTS services: their common arguments, settings and error reports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from pipecat_slng_sidecar.failures import Failure
from pipecat_slng_sidecar.options import (
    DEFAULT_TTS_MODEL,
    Address,
    check_byok,
    default_language,
    log_unused,
    request_headers,
)

# After this many seconds without audio, Pipecat treats a context as finished. The sidecar ends each context itself
# within its own deadlines, so this only has to be longer than those.
_CONTEXT_TIMEOUT = 120.0


@dataclass
class SlngTTSSettings(TTSSettings):
    """Runtime settings shared by the TTS services. Every field can be updated while a service runs.

    Attributes:
        speed: a multiplier; ``None`` for the provider's own speed.
        pronunciation: a reference to a pronunciation dictionary, such as ``{"mode": "rewrite", "name": "support"}``.
    """

    speed: float | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    pronunciation: dict[str, str] | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)


class SampleAligner:
    """Splits a stream of 16-bit PCM at sample boundaries only, because Pipecat before 1.13 fails on half samples.

    Mutable: ``_rest``, the bytes of a sample that is not complete yet.
    """

    def __init__(self, channels: int) -> None:
        """Create an aligner without data.

        Args:
            channels: the number of channels. A sample of all channels stays together.
        """
        self._size = 2 * channels
        self._rest = b""

    def align(self, data: bytes) -> bytes:
        """Add data and return all complete samples. The rest is returned with the next data."""
        audio = self._rest + data if self._rest else data
        cut = len(audio) - len(audio) % self._size
        self._rest = audio[cut:]
        return audio[:cut]


class SlngSpeechService(TTSService):
    """The base class of ``SlngTTSService`` and ``SlngHttpTTSService``."""

    Settings = SlngTTSSettings
    _settings: SlngTTSSettings

    def __init__(
        self,
        *,
        api_key: str | None,
        base_url: str | None,
        model: str,
        voice: str | None,
        sample_rate: int | None,
        provider_key: str | None,
        language: Language | str | NotGiven | None,
        speed: float | NotGiven | None,
        pronunciation: dict[str, str] | None,
        sidecar_url: str | None,
        sidecar_token: str | None,
        settings: SlngTTSSettings | None,
        world_part: str | None,
        region_override: str | None,
        world_part_override: str | None,
        external_agent_id: str | None,
        external_session_id: str | None,
        **kwargs: Any,
    ) -> None:
        log_unused(api_key=api_key, base_url=base_url)
        self._address = Address.of(sidecar_url)
        self._headers = request_headers(
            sidecar_token=sidecar_token,
            provider_key=provider_key,
            world_part=world_part,
            region_override=region_override,
            world_part_override=world_part_override,
            external_agent_id=external_agent_id,
            external_session_id=external_session_id,
        )
        all_settings = SlngTTSSettings(
            model=model,
            voice=voice,
            language=language,
            speed=speed if is_given(speed) else None,
            pronunciation=pronunciation,
        )
        if settings is not None:
            all_settings.apply_update(settings)
        all_settings.model = all_settings.model or DEFAULT_TTS_MODEL
        check_byok(str(all_settings.model), provider_key)
        self._language_by_model = not is_given(all_settings.language)
        if self._language_by_model:
            all_settings.language = default_language(str(all_settings.model))
        arguments = {"push_start_frame": True, "stop_frame_timeout_s": _CONTEXT_TIMEOUT, **kwargs}
        super().__init__(sample_rate=sample_rate, settings=all_settings, **arguments)
        # Contexts whose failure was reported, so that Pipecat's report of their silence can be suppressed.
        self._reported: set[str] = set()

    def can_generate_metrics(self) -> bool:
        """Return True, because the service reports TTFB and usage."""
        return True

    def asked_config(self) -> dict[str, Any]:
        """Return the configuration that the caller set, without Pipecat's defaults."""
        config: dict[str, Any] = {}
        if self._settings.language and not self._language_by_model:
            config["language"] = str(self._settings.language)
        if self._settings.speed is not None:
            config["speed"] = self._settings.speed
        if self._settings.pronunciation is not None:
            config["pronunciation"] = self._settings.pronunciation
        config.update(self._settings.extra)
        return config

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat's
        delta = dataclasses.replace(delta)
        if is_given(delta.language):
            self._language_by_model = False
        elif self._language_by_model and is_given(delta.model) and delta.model:
            delta.language = default_language(delta.model)
        return await super()._update_settings(delta)

    async def push_error(
        self,
        error_msg: str,
        exception: Exception | None = None,
        fatal: bool = False,
        category: ErrorCategory | None = None,
        force_treat_as_permanent: bool = False,
    ) -> None:
        """Push an error. Suppress Pipecat's report of a silent context if its failure was reported already."""
        if not force_treat_as_permanent and any(context_id in error_msg for context_id in self._reported):
            return
        await super().push_error(error_msg, exception, fatal, category, force_treat_as_permanent)

    async def on_audio_context_completed(self, context_id: str) -> None:
        """Forget whether the failure of a completed context was reported."""
        self._reported.discard(context_id)
        await super().on_audio_context_completed(context_id)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Forget whether the failure of an interrupted context was reported."""
        self._reported.discard(context_id)
        await super().on_audio_context_interrupted(context_id)

    async def say_why(self, context_id: str | None, failure: Failure) -> None:
        """Report a failure once, and suppress Pipecat's report that its context ended without audio.

        Args:
            context_id: the Pipecat context that failed; ``None`` if the failure concerns no context.
            failure: the failure to report.
        """
        await super().push_error(failure.message, category=failure.category)
        if context_id is not None and self.audio_context_available(context_id):
            self._reported.add(context_id)
