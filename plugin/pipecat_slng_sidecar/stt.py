"""Speech to text through a sidecar."""

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
from pipecat_slng_sidecar.failures import failure_of
from pipecat_slng_sidecar.options import (
    DEFAULT_STT_MODEL,
    Address,
    WorldPart,
    check_byok,
    check_encoding,
    language_of_model,
    not_needed,
    request_headers,
)
from pipecat_slng_sidecar.replay_dedup import ReplayDeduplicator
from pipecat_slng_sidecar.stt_replay_queue import SessionInit, SttReplayQueue
from pipecat_slng_sidecar.updates import Updates

# As much as the sidecar keeps by default (SIDECAR_REPLAY_SECONDS), and as long as an outage may last.
_KEEP_SECONDS = 30.0
# The sidecar closes within so many seconds of a ``close`` (contract, section 3).
_LAST_WORDS = 5.0


@dataclass
class SlngSTTSettings(STTSettings):
    """Settings of ``SlngSTTService``, all of which may change while it runs.

    Parameters:
        enable_vad: whether the provider cuts utterances by itself.
        enable_partials: whether interim transcripts come.
    """

    enable_vad: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)
    enable_partials: bool | NotGiven | None = field(default_factory=lambda: NOT_GIVEN)


class SlngSTTService(STTService):
    """Streaming speech to text by SLNG, through a sidecar on this machine.

    Audio is never awaited and never lost: what is not transcribed yet is kept, and goes up again when the sidecar was
    away. Settings change at their place in the audio, without a new connection here.

    Event handlers, besides Pipecat's own:
        on_transcript_dropped: a final was dropped for its low confidence; ``(service, transcript, confidence)``.
            Nothing else will come for that utterance: the bot may ask again at once.
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
        """Build the service; the sidecar is dialled when the pipeline is set up.

        Args:
            api_key: not needed: the key is the sidecar's.
            world_part: the regional gateway, such as ``"in"``; without it the sidecar's own.
            model: the SLNG route.
            base_url: not needed: the address of SLNG is the sidecar's.
            encoding: ``"linear16"``, which is what Pipecat's audio is.
            sample_rate: in Hz; the pipeline's by default.
            region_override: pin requests to a datacenter (global gateway).
            world_part_override: keep requests in a broad zone (global gateway).
            provider_key: your own provider's key, for routes without ``slng/``.
            external_agent_id: for usage events, as ``X-SLNG-Agent-Id``.
            external_session_id: for usage events, as ``X-SLNG-Session-Id``.
            language: of the speech. English by default, unless the model's name ends in another language.
            enable_vad: let the provider cut utterances. On by default.
            enable_partials: interim transcripts. On by default.
            confidence_scope: what the sidecar's confidence filter is for: ``"all"``, ``"partials"`` or ``"off"``; by
                default what the sidecar is set to, which is ``"all"``.
            warm_standby_enabled: let the sidecar keep a spare connection for this session.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, else
                ``http://127.0.0.1:8765``.
            sidecar_token: the sidecar's token, where it wants one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: win over the arguments above.
            **kwargs: for ``STTService``.

        Raises:
            ValueError: something of this cannot work; the text says what and why.
        """
        not_needed(api_key=api_key, base_url=base_url)
        check_encoding(encoding, ("linear16",), "Pipecat's audio is PCM, and would be sent under a wrong name.")
        if confidence_scope not in (None, "all", "partials", "off"):
            raise ValueError(f"confidence_scope={confidence_scope!r} is none of all, partials and off")
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
            all_settings.language = language_of_model(str(all_settings.model))
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
        self._updates = Updates()
        self._repeats = ReplayDeduplicator()

    def can_generate_metrics(self) -> bool:
        """Say that metrics come: TTFB and usage."""
        return True

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat's own
        """Begin to connect; nothing waits for it."""
        await super().setup(setup)
        self._queue = SttReplayQueue(self._session_init(), self.sample_rate, _KEEP_SECONDS)
        self._connection = SidecarConnection(
            self, self._address, "stt", self._headers, self._queue,
            on_message=self._take, on_audio=_ignore,
            on_up=self._came_up, on_lost=self._lost, on_given_up=self._given_up,
        )  # fmt: skip
        self._connection.start()

    async def start(self, frame: StartFrame) -> None:
        """Let transcripts out."""
        await super().start(frame)
        if self._connection:
            self._connection.release()

    async def stop(self, frame: EndFrame) -> None:
        """Wait for the last words, then close."""
        await super().stop(frame)
        if self._connection and self._queue:
            self._updates.forget()
            self._queue.end()
            await self._connection.finish(_LAST_WORDS)

    async def cancel(self, frame: CancelFrame) -> None:
        """Close at once."""
        await super().cancel(frame)
        await self._stop_link()

    async def cleanup(self) -> None:
        """Close, if nothing has before."""
        await super().cleanup()
        await self._stop_link()

    async def _stop_link(self) -> None:
        if self._connection:
            await self._connection.stop()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Ask for the rest of an utterance when the VAD hears its end."""
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame) and self._queue and self._connection and self.is_usable:
            self._finalize_id = f"f{next(self._ids)}"
            self.request_finalize()
            self._queue.finalize(self._finalize_id)
            self._connection.wake()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Put audio into the spool; transcripts come by themselves."""
        if self._queue and self._connection:
            self._queue.append(audio)
            self._connection.wake()
        yield None

    # Settings

    async def _update_settings(self, delta: STTSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat's
        """Change settings at this place in the audio."""
        delta = dataclasses.replace(delta)
        if is_given(delta.language):
            self._language_by_model = False
        elif self._language_by_model and is_given(delta.model) and delta.model:
            delta.language = language_of_model(delta.model)
        changed = await super()._update_settings(delta)
        if changed and self._queue and self._connection:
            after = self._session_init()
            self._queue.update(self._updates.message(changed, after), after)
            self._connection.wake()
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

    # What the sidecar says

    async def _take(self, message: dict[str, Any]) -> None:
        assert self._queue is not None
        if (covered := message.get("covered_ms")) is not None:
            self._queue.covered(covered)
        match message["type"]:
            case "partial_transcript":
                await self._partial(message)
            case "final_transcript":
                await self._final(message)
            case "transcript_dropped" if message.get("final"):
                confidence = message.get("confidence")
                await self._call_event_handler("on_transcript_dropped", message.get("transcript", ""), confidence)
            case "finalized":
                await self._finalized(message)
            case "updated":
                if refusal := self._updates.answered(message, self._settings):
                    await self.push_error(refusal, category=ErrorCategory.APPLICATION)
            case "status":
                logger.info(f"{self}: upstream {message.get('state')} ({_details(message)})")
            case "error":
                failure = failure_of(message)
                await self.push_error(failure.message, category=failure.category)

    async def _partial(self, message: dict[str, Any]) -> None:
        text, language = _heard(message)
        if text:
            await self.push_frame(
                InterimTranscriptionFrame(text, self._user_id, time_now_iso8601(), language, result=message)
            )

    async def _final(self, message: dict[str, Any]) -> None:
        told, language = _heard(message)
        text = self._repeats.new_part(told)
        exact = bool(message.get("words")) or message.get("finalize_id") is not None
        self._repeats.tell(text, done_with=exact)
        if not text:
            return
        if message.get("finalize_id") is not None and message["finalize_id"] == self._finalize_id:
            self.confirm_finalize()
        # Before the frame, so that tracing finds it.
        await self.emit_stt_usage_metrics()
        await self.push_frame(TranscriptionFrame(text, self._user_id, time_now_iso8601(), language, result=message))
        await self._handle_transcription(text, True, language)

    @traced_stt
    async def _handle_transcription(self, transcript: str, is_final: bool, language: Language | None = None) -> None:
        """Be there for tracing."""

    async def _finalized(self, message: dict[str, Any]) -> None:
        """End the wait for an answer that brought no transcript."""
        assert self._queue is not None
        finalize_id, outcome = str(message.get("finalize_id")), message.get("outcome")
        self._queue.answered(finalize_id)
        if finalize_id != self._finalize_id or outcome == "final":
            return
        if outcome == "timeout":
            logger.warning(f"{self}: no transcript came for a finalize")
            await self.cancel_ttfb_metrics()
        else:
            await self.stop_ttfb_metrics()

    # Changes of the link

    async def _came_up(self) -> None:
        assert self._queue is not None
        self._updates.forget()
        lost = self._queue.take_lost_ms()
        if lost:
            await self.push_error(
                f"{lost} ms of audio were not transcribed: the sidecar was away for longer than {_KEEP_SECONDS:.0f} s "
                "of audio are kept.",
                category=ErrorCategory.CONNECTIVITY,
            )

    async def _lost(self) -> None:
        self._repeats.lost()

    async def _given_up(self) -> None:
        assert self._queue is not None
        self._queue.clear()


def _heard(message: dict[str, Any]) -> tuple[str, Language | None]:
    try:
        language = Language(message["language"])
    except (KeyError, ValueError):
        language = None
    return str(message.get("transcript") or "").strip(), language


def _details(message: dict[str, Any]) -> str:
    shown = {name: value for name, value in message.items() if name not in ("type", "state")}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


async def _ignore(_audio: bytes) -> None:
    """Take no audio: an STT connection brings none."""
