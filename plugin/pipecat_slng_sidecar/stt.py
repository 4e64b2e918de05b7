"""Streaming speech to text through the sidecar."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    StartFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessorSetup
from pipecat.services.settings import STTSettings
from pipecat.services.stt_latency import DEFAULT_TTFS_P99
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt
from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from pipecat_slng_sidecar.connection import SidecarConnection
from pipecat_slng_sidecar.failures import failure_from_error
from pipecat_slng_sidecar.options import (
    DEFAULT_STT_MODEL,
    Address,
    WorldPart,
    check_byok,
    check_encoding,
    default_language,
    log_unused,
    request_headers,
)
from pipecat_slng_sidecar.replay_dedup import ReplayDeduplicator
from pipecat_slng_sidecar.stt_replay_queue import SessionInit, SttReplayQueue
from pipecat_slng_sidecar.updates import PendingUpdates

# The sidecar keeps as much audio by default (``SIDECAR_REPLAY_SECONDS``). An outage of this length is permanent.
_REPLAY_SECONDS = 30.0
# The sidecar answers a ``close`` by closing within this many seconds, after the last finals.
_FINISH_TIMEOUT = 5.0


@dataclass
class SlngSTTSettings(STTSettings):
    """Runtime settings of ``SlngSTTService``. Every field can be updated while the service runs.

    Attributes:
        enable_vad: whether the provider detects the ends of utterances itself.
        enable_partials: whether to receive interim transcripts.
    """

    enable_vad: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    enable_partials: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)


class SlngSTTService(STTService):
    """Streaming speech to text by SLNG, through a sidecar on this machine.

    Audio that is not transcribed yet is kept. If the sidecar was away, the service sends that audio again once the
    sidecar is back. No frame waits for the network. A settings change applies from its position in the audio on and
    opens no connection in the bot.

    Besides Pipecat's own events, the service emits ``on_transcript_dropped`` with ``(service, transcript, confidence)``
    if a final was dropped for its low confidence. No other final follows for that utterance, so the bot can ask again
    at once.
    """

    Settings = SlngSTTSettings
    _settings: SlngSTTSettings

    def __init__(
        self,
        *,
        api_key: str | None = None,
        world_part: WorldPart | str | None = None,
        model: str = DEFAULT_STT_MODEL,
        base_url: str | None = None,
        encoding: str = "linear16",
        sample_rate: int | None = None,
        region_override: str | None = None,
        world_part_override: str | None = None,
        provider_key: str | None = None,
        external_agent_id: str | None = None,
        external_session_id: str | None = None,
        language: Language | str | NotGiven | None = NOT_GIVEN,
        enable_vad: bool | NotGiven = NOT_GIVEN,
        enable_partials: bool | NotGiven = NOT_GIVEN,
        confidence_scope: str | None = None,
        warm_standby_enabled: bool = False,
        sidecar_url: str | None = None,
        sidecar_token: str | None = None,
        settings: SlngSTTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Create the service. It connects to the sidecar when the pipeline is set up.

        Args:
            api_key: not used, because the sidecar has the key.
            world_part: the regional gateway, such as ``"in"``; by default the sidecar's.
            model: the SLNG route.
            base_url: not used, because the sidecar has the address of SLNG.
            encoding: only ``"linear16"``, because that is the format of Pipecat's audio.
            sample_rate: samples per second, in Hz; by default the pipeline's.
            region_override: the data centre for requests; works on the global gateway only.
            world_part_override: the broad zone for requests; works on the global gateway only.
            provider_key: your own key with the provider, for routes without ``slng/``.
            external_agent_id: the agent id for SLNG's usage events, sent as ``X-SLNG-Agent-Id``.
            external_session_id: the session id for SLNG's usage events, sent as ``X-SLNG-Session-Id``.
            language: the language of the speech; by default English, or none if the model's name ends in another one.
            enable_vad: whether the provider detects the ends of utterances itself; by default it does.
            enable_partials: whether to receive interim transcripts; by default yes.
            confidence_scope: what the sidecar's confidence filter drops: ``"all"``, ``"partials"`` or ``"off"``. The
                default is the sidecar's setting, which is ``"all"`` unless its operator changed it.
            warm_standby_enabled: whether the sidecar holds a standby connection to SLNG for this session.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, or
                ``http://127.0.0.1:8765`` if that is not set.
            sidecar_token: the sidecar's token, if it requires one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: settings that take precedence over the arguments above.
            **kwargs: further arguments of Pipecat's ``STTService``.

        Raises:
            ValueError: an argument, or a combination of arguments, is invalid. The message gives the reason.
        """
        log_unused(api_key=api_key, base_url=base_url)
        check_encoding(encoding, ("linear16",), "Pipecat's audio is PCM and would be sent under a wrong name.")
        if confidence_scope not in (None, "all", "partials", "off"):
            raise ValueError(f"confidence_scope must be 'all', 'partials' or 'off', not {confidence_scope!r}.")
        address = Address.of(sidecar_url)
        headers = request_headers(
            sidecar_token=sidecar_token,
            provider_key=provider_key,
            world_part=world_part,
            region_override=region_override,
            world_part_override=world_part_override,
            external_agent_id=external_agent_id,
            external_session_id=external_session_id,
        )
        all_settings = SlngSTTSettings(
            model=model,
            language=language,
            enable_vad=enable_vad if is_given(enable_vad) else True,
            enable_partials=enable_partials if is_given(enable_partials) else True,
        )
        if settings is not None:
            all_settings.apply_update(settings)
        all_settings.model = all_settings.model or DEFAULT_STT_MODEL
        check_byok(str(all_settings.model), provider_key)
        self._language_by_model = not is_given(all_settings.language)
        if self._language_by_model:
            all_settings.language = default_language(str(all_settings.model))
        kwargs.setdefault("ttfs_p99_latency", DEFAULT_TTFS_P99)
        super().__init__(sample_rate=sample_rate, settings=all_settings, **kwargs)
        self._register_event_handler("on_transcript_dropped")

        self._encoding = encoding
        self._confidence_scope = confidence_scope
        self._standby = warm_standby_enabled
        self._address = address
        self._headers = headers
        self._queue: SttReplayQueue | None = None
        self._connection: SidecarConnection | None = None
        self._ids = itertools.count(1)
        self._finalize_id: str | None = None
        self._updates = PendingUpdates()
        self._deduplicator = ReplayDeduplicator()

    def can_generate_metrics(self) -> bool:
        """Return True, because the service reports TTFB and usage."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat's own
        """Start to connect to the sidecar without waiting for the connection."""
        await super().setup(setup)
        self._queue = SttReplayQueue(self._session_init(), self.sample_rate, _REPLAY_SECONDS)
        self._connection = SidecarConnection(
            self, self._address, "stt", self._headers, self._queue,
            on_message=self._handle_message, on_audio=_ignore_audio,
            on_ready=self._handle_ready, on_lost=self._handle_lost, on_given_up=self._handle_given_up,
        )  # fmt: skip
        self._connection.start()

    async def start(self, frame: StartFrame) -> None:
        """Start pushing transcripts."""
        await super().start(frame)
        if self._connection:
            self._connection.allow_frames()

    async def stop(self, frame: EndFrame) -> None:
        """Wait for the last finals, then close the connection."""
        await super().stop(frame)
        if self._connection and self._queue:
            self._updates.clear()
            self._queue.request_close()
            await self._connection.finish(_FINISH_TIMEOUT)

    async def cancel(self, frame: CancelFrame) -> None:
        """Close the connection at once."""
        await super().cancel(frame)
        await self._stop_connection()

    async def cleanup(self) -> None:
        """Close the connection if it is still open."""
        await super().cleanup()
        await self._stop_connection()

    async def _stop_connection(self) -> None:
        if self._connection:
            await self._connection.stop()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Send a finalize when the VAD detects the end of the user's speech."""
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and self._queue and self._connection and self.is_usable:
            self._finalize_id = f"f{next(self._ids)}"
            self.request_finalize()
            self._queue.finalize(self._finalize_id)
            self._connection.notify()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Add audio to the replay queue. Its transcripts are pushed as they arrive."""
        if self._queue and self._connection:
            self._queue.append(audio)
            self._connection.notify()
        yield None

    # Settings

    async def _update_settings(self, delta: STTSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat's
        """Change settings from this position in the audio on."""
        delta = dataclasses.replace(delta)
        if is_given(delta.language):
            self._language_by_model = False
        elif self._language_by_model and is_given(delta.model) and delta.model:
            delta.language = default_language(delta.model)
        changed = await super()._update_settings(delta)
        if changed and self._queue and self._connection:
            after = self._session_init()
            self._queue.update(self._updates.build(changed, after), after)
            self._connection.notify()
            # After a permanent failure, the changed settings may be what the connection needs.
            self._connection.start()
        return changed

    def _session_init(self) -> SessionInit:
        settings = self._settings
        config: dict[str, Any] = {"sample_rate": self.sample_rate, "encoding": self._encoding}
        if settings.language:
            config["language"] = str(settings.language)
        for name in ("enable_vad", "enable_partials"):
            if getattr(settings, name) is not None:
                config[name] = bool(getattr(settings, name))
        config.update(settings.extra)
        init: dict[str, Any] = {"type": "init", "config": config}
        if self._confidence_scope is not None:
            init["confidence_scope"] = self._confidence_scope
        if self._standby:
            init["standby"] = True
        return SessionInit(str(settings.model), init)

    # Messages of the sidecar

    async def _handle_message(self, message: dict[str, Any]) -> None:
        assert self._queue is not None
        if (covered := message.get("covered_ms")) is not None:
            self._queue.mark_covered(covered)
        match message["type"]:
            case "partial_transcript":
                await self._push_partial(message)
            case "final_transcript":
                await self._push_final(message)
            case "transcript_dropped" if message.get("final"):
                confidence = message.get("confidence")
                await self._call_event_handler("on_transcript_dropped", message.get("transcript", ""), confidence)
            case "finalized":
                await self._handle_finalized(message)
            case "updated":
                if refusal := self._updates.resolve(message, self._settings):
                    await self.push_error(refusal, category=ErrorCategory.APPLICATION)
            case "status":
                logger.info(f"{self}: upstream {message.get('state')} ({_details(message)})")
            case "error":
                failure = failure_from_error(message)
                await self.push_error(failure.message, category=failure.category)

    async def _push_partial(self, message: dict[str, Any]) -> None:
        text, language = _text_and_language(message)
        if text:
            await self.push_frame(
                InterimTranscriptionFrame(text, self._user_id, time_now_iso8601(), language, result=message)
            )

    async def _push_final(self, message: dict[str, Any]) -> None:
        text, language = _text_and_language(message)
        text = self._deduplicator.remove_repeats(text)
        is_exact = bool(message.get("words")) or message.get("finalize_id") is not None
        self._deduplicator.record(text, is_exact=is_exact)
        if not text:
            return
        if message.get("finalize_id") is not None and message["finalize_id"] == self._finalize_id:
            self.confirm_finalize()
        # Usage must be reported before the frame, so that the tracing span includes it.
        await self.emit_stt_usage_metrics()
        await self.push_frame(TranscriptionFrame(text, self._user_id, time_now_iso8601(), language, result=message))
        await self._handle_transcription(text, True, language)

    @traced_stt
    async def _handle_transcription(self, transcript: str, is_final: bool, language: Language | None = None) -> None:
        """Do nothing. The decorator records the transcript as a tracing span."""

    async def _handle_finalized(self, message: dict[str, Any]) -> None:
        """Settle a finalize. If it brought no transcript, end the TTFB measurement."""
        assert self._queue is not None
        finalize_id, outcome = str(message.get("finalize_id")), message.get("outcome")
        self._queue.mark_answered(finalize_id)
        if finalize_id != self._finalize_id or outcome == "final":
            return
        if outcome == "timeout":
            logger.warning(f"{self}: no transcript arrived before the finalize timed out")
            await self.cancel_ttfb_metrics()
        else:
            await self.stop_ttfb_metrics()

    # Changes of the connection

    async def _handle_ready(self) -> None:
        assert self._queue is not None
        self._updates.clear()
        lost = self._queue.pop_lost_ms()
        if lost:
            await self.push_error(
                f"{lost} ms of audio were not transcribed: while the sidecar was away, only the last "
                f"{_REPLAY_SECONDS:.0f} s of audio were kept.",
                category=ErrorCategory.CONNECTIVITY,
            )

    async def _handle_lost(self) -> None:
        self._deduplicator.restart()

    async def _handle_given_up(self) -> None:
        assert self._queue is not None
        self._queue.discard_all()


def _text_and_language(message: dict[str, Any]) -> tuple[str, Language | None]:
    try:
        language = Language(message["language"])
    except (KeyError, ValueError):
        language = None
    return str(message.get("transcript") or "").strip(), language


def _details(message: dict[str, Any]) -> str:
    shown = {name: value for name, value in message.items() if name not in ("type", "state")}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


async def _ignore_audio(_audio: bytes) -> None:
    """Do nothing, because an STT connection receives no audio."""
