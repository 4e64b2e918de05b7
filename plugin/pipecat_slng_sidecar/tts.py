"""Streaming text to speech through the sidecar."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.services.settings import TTSSettings
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven

from pipecat_slng_sidecar.connection import SidecarConnection
from pipecat_slng_sidecar.failures import failure_from_error
from pipecat_slng_sidecar.options import DEFAULT_TTS_MODEL, WorldPart, check_encoding
from pipecat_slng_sidecar.stt_replay_queue import SessionInit
from pipecat_slng_sidecar.tts_base import SampleAligner, SlngSpeechService, SlngTTSSettings
from pipecat_slng_sidecar.tts_replay_queue import TtsReplayQueue, WireContext
from pipecat_slng_sidecar.updates import PendingUpdates

_ENCODINGS = ("linear16", "mulaw", "alaw", "mp3", "opus")
# How many characters may wait while the sidecar is away: some hours of speech.
_MOST_CHARACTERS = 200_000
_FINISH_TIMEOUT = 5.0


@dataclass(slots=True)
class _PipecatContext:
    """A Pipecat context that is not finished.

    Attributes:
        wire: the context at the sidecar that carries it now; ``None`` if that ended before all the text was there.
        is_complete: whether Pipecat has flushed it, so that no more text follows.
        held_text: text frames of sentences that wait for the audio after them.
    """

    wire: WireContext | None = None
    is_complete: bool = False
    held_text: list[TTSTextFrame] = field(default_factory=list)


class SlngTTSService(SlngSpeechService):
    """Streaming text to speech by SLNG, through a sidecar on this machine.

    Each Pipecat context is a context at the sidecar, and all audio carries the id of its context. An interruption
    therefore discards only the interrupted contexts, and no audio is played under another context. A settings change
    applies from the next sentence on and cuts nothing.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        world_part: WorldPart | str | None = None,
        model: str = DEFAULT_TTS_MODEL,
        voice: str | None = None,
        base_url: str | None = None,
        encoding: str = "linear16",
        sample_rate: int | None = None,
        region_override: str | None = None,
        world_part_override: str | None = None,
        provider_key: str | None = None,
        external_agent_id: str | None = None,
        external_session_id: str | None = None,
        language: Language | str | NotGiven | None = NOT_GIVEN,
        speed: float | NotGiven | None = NOT_GIVEN,
        pronunciation: dict[str, str] | None = None,
        warm_standby_enabled: bool = False,
        sidecar_url: str | None = None,
        sidecar_token: str | None = None,
        settings: SlngTTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Create the service. It connects to the sidecar when the pipeline is set up.

        Args:
            api_key: not used, because the sidecar has the key.
            world_part: the regional gateway, such as ``"in"``; by default the sidecar's.
            model: the SLNG route.
            voice: the provider's name of the voice.
            base_url: not used, because the sidecar has the address of SLNG.
            encoding: the encoding that the provider sends: ``"linear16"``, ``"mulaw"``, ``"alaw"``, ``"mp3"`` or
                ``"opus"``. The service always outputs PCM. The last two need the extra ``codecs`` of the sidecar.
            sample_rate: samples per second, in Hz; by default the pipeline's.
            region_override: the data centre for requests; works on the global gateway only.
            world_part_override: the broad zone for requests; works on the global gateway only.
            provider_key: your own key with the provider, for routes without ``slng/``.
            external_agent_id: the agent id for SLNG's usage events, sent as ``X-SLNG-Agent-Id``.
            external_session_id: the session id for SLNG's usage events, sent as ``X-SLNG-Session-Id``.
            language: the language of the speech; by default English, or none if the model's name ends in another one.
            speed: a multiplier; by default the provider's own speed.
            pronunciation: a reference to a pronunciation dictionary.
            warm_standby_enabled: whether the sidecar holds a standby connection to SLNG for this session.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, or
                ``http://127.0.0.1:8765`` if that is not set.
            sidecar_token: the sidecar's token, if it requires one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: settings that take precedence over the arguments above.
            **kwargs: further arguments of Pipecat's ``TTSService``.

        Raises:
            ValueError: an argument, or a combination of arguments, is invalid. The message gives the reason.
        """
        check_encoding(encoding, _ENCODINGS, "neither the sidecar nor the plugin can decode it.")
        super().__init__(
            api_key=api_key,
            world_part=world_part,
            model=model,
            voice=voice,
            base_url=base_url,
            sample_rate=sample_rate,
            region_override=region_override,
            world_part_override=world_part_override,
            provider_key=provider_key,
            external_agent_id=external_agent_id,
            external_session_id=external_session_id,
            language=language,
            speed=speed,
            pronunciation=pronunciation,
            sidecar_url=sidecar_url,
            sidecar_token=sidecar_token,
            settings=settings,
            **{"push_stop_frames": False, **kwargs},
        )
        self._encoding = encoding
        self._standby = warm_standby_enabled
        self._queue: TtsReplayQueue | None = None
        self._connection: SidecarConnection | None = None
        self._contexts: dict[str, _PipecatContext] = {}
        # The newest contexts that Pipecat flushes itself. Any other context has a single text.
        self._turns: deque[str] = deque(maxlen=16)
        # The context whose audio is arriving, and the sample rate and channels of that audio.
        self._receiving: WireContext | None = None
        self._format = (0, 1)
        self._stopping = False
        self._aligner = SampleAligner(1)
        self._updates = PendingUpdates()

    @property
    def supports_processing_metrics(self) -> bool:
        """Whether to report processing time. It is False, because ``run_tts`` returns before the text is spoken."""
        return False

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat's own
        """Start to connect to the sidecar without waiting for the connection."""
        await super().setup(setup)
        self._queue = TtsReplayQueue(self._session_init())
        self._connection = SidecarConnection(
            self, self._address, "tts", self._headers, self._queue,
            on_message=self._handle_message, on_audio=self._handle_audio,
            on_ready=self._handle_ready, on_lost=self._handle_lost, on_given_up=self._handle_given_up,
        )  # fmt: skip
        self._connection.start()

    async def start(self, frame: StartFrame) -> None:
        """Start pushing audio."""
        await super().start(frame)
        if self._connection:
            self._connection.allow_frames()

    async def stop(self, frame: EndFrame) -> None:
        """Finish speaking, then close the connection. If the sidecar is away, discard the waiting text."""
        self._stopping = True
        if self._connection and self._connection.is_down:
            await self._handle_given_up()
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

    # Requests of Pipecat

    async def on_turn_context_created(self, context_id: str) -> None:
        """Record that Pipecat will complete this context with ``flush_audio``."""
        self._turns.append(context_id)

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Add text to the replay queue. Its audio is pushed as it arrives."""
        assert self._queue is not None
        assert self._connection is not None
        if self._queue.waiting_characters + len(text) > _MOST_CHARACTERS:
            await self.push_error(
                f"Text was dropped: {self._queue.waiting_characters} characters are waiting to be spoken already. The "
                f"limit is {_MOST_CHARACTERS}.",
                category=ErrorCategory.APPLICATION,
            )
        else:
            context = self._contexts.setdefault(context_id, _PipecatContext())
            if context.wire is None:
                context.wire = self._queue.begin(context_id)
            self._queue.add_text(context.wire, text)
            if context_id not in self._turns:
                await self.flush_audio(context_id)
            self._connection.notify()
            await self.start_tts_usage_metrics(text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """Mark a context as having all its text. Without an id, mark every context."""
        for each in [context_id] if context_id is not None else list(self._contexts):
            context = self._contexts.get(each)
            if context is None or context.wire is None:
                # No audio can follow: the context had no text, or it broke off before its end.
                await self._finish_context(each)
            else:
                context.is_complete = True
                assert self._queue is not None
                self._queue.flush(context.wire)
        if self._connection:
            self._connection.notify()

    async def append_to_audio_context(self, context_id: str | None, frame: Any) -> None:
        """Append a frame. Hold a text frame until audio follows, so that only spoken text enters the conversation."""
        context = self._contexts.get(context_id) if context_id else None
        if context is not None and isinstance(frame, TTSTextFrame):
            context.held_text.append(frame)
        else:
            await super().append_to_audio_context(context_id, frame)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Discard a context after an interruption, without waiting for the sidecar."""
        self._discard(context_id)
        await super().on_audio_context_interrupted(context_id)

    async def on_audio_context_completed(self, context_id: str) -> None:
        """Discard a completed context, which the sidecar may not have ended if Pipecat's timeout came first."""
        self._discard(context_id)
        await super().on_audio_context_completed(context_id)

    def _discard(self, context_id: str) -> None:
        context = self._contexts.pop(context_id, None)
        if context is None or self._queue is None or self._connection is None:
            return
        if context.wire is not None:
            self._queue.clear(context.wire)
            self._connection.notify()
        self._queue.forget_pipecat_context(context_id)

    # Settings

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat's
        """Change settings for the text that follows."""
        changed = await super()._update_settings(delta)
        if changed and self._queue and self._connection:
            after = self._session_init()
            self._queue.update(self._updates.build(changed, after), after)
            self._connection.notify()
            # After a permanent failure, the changed settings may be what the connection needs.
            self._connection.start()
        return changed

    def _session_init(self) -> SessionInit:
        config = {"encoding": self._encoding, "sample_rate": self.sample_rate, **self.asked_config()}
        if self._settings.language:
            config["language"] = str(self._settings.language)
        init: dict[str, Any] = {"type": "init", "config": config}
        if self._settings.voice:
            init["voice"] = str(self._settings.voice)
        if self._standby:
            init["standby"] = True
        return SessionInit(str(self._settings.model), init)

    # Messages of the sidecar

    async def _handle_message(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "audio_start":
                self._receiving = self._context_of(message)
                self._format = (int(message["sample_rate"]), int(message.get("channels", 1)))
                self._aligner = SampleAligner(self._format[1])
            case "audio_end":
                self._receiving = None
                await self._handle_audio_end(message)
            case "updated":
                if refusal := self._updates.resolve(message, self._settings):
                    await self.push_error(refusal, category=ErrorCategory.APPLICATION)
            case "status":
                logger.info(f"{self}: upstream {message.get('state')}, cause: {message.get('cause')}")
            case "error":
                failure = failure_from_error(message)
                wire = self._context_of(message)
                await self.say_why(wire.pipecat_id if wire else None, failure)

    def _context_of(self, message: dict[str, Any]) -> WireContext | None:
        """Return the context that a message is about, or ``None`` if it has none or the context has ended."""
        assert self._queue is not None
        return self._queue.get(str(message.get("context_id")))

    async def _handle_audio(self, data: bytes) -> None:
        wire = self._receiving
        context = self._contexts.get(wire.pipecat_id) if wire else None
        if wire is None or context is None or context.wire is not wire:
            return
        if not wire.has_audio:
            assert self._queue is not None
            self._queue.mark_audio(wire)
            await self.stop_ttfb_metrics()
        await self._release_text(wire.pipecat_id, context)
        if audio := self._aligner.align(data):
            frame = TTSAudioRawFrame(audio, *self._format, context_id=wire.pipecat_id)
            await self.append_to_audio_context(wire.pipecat_id, frame)

    async def _release_text(self, context_id: str, context: _PipecatContext) -> None:
        held_text, context.held_text = context.held_text, []
        for frame in held_text:
            await super().append_to_audio_context(context_id, frame)

    async def _handle_audio_end(self, message: dict[str, Any]) -> None:
        wire = self._context_of(message)
        if wire is None:
            return
        if message.get("reason") == "completed" and (context := self._contexts.get(wire.pipecat_id)):
            await self._release_text(wire.pipecat_id, context)
        await self._end_wire_context(wire)

    async def _end_wire_context(self, wire: WireContext) -> None:
        """End a wire context, and its Pipecat context unless more text may follow."""
        assert self._queue is not None
        self._queue.remove(wire)
        context = self._contexts.get(wire.pipecat_id)
        if context is not None and context.wire is wire:
            context.wire = None
            context.held_text.clear()
            if context.is_complete:
                await self._finish_context(wire.pipecat_id)

    async def _finish_context(self, context_id: str) -> None:
        """Finish a Pipecat context and its audio context."""
        self._contexts.pop(context_id, None)
        if self._queue:
            self._queue.forget_pipecat_context(context_id)
        if self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)

    # Changes of the connection

    async def _handle_ready(self) -> None:
        self._updates.clear()

    async def _handle_lost(self) -> None:
        assert self._queue is not None
        self._receiving = None
        for wire in self._queue.pop_unrepeatable():
            await self._end_wire_context(wire)
        # An EndFrame waits until everything is spoken, so the wait for a sidecar that disappears meanwhile is short.
        if self._stopping and self._connection is not None and self._connection.down_for > _FINISH_TIMEOUT:
            await self._handle_given_up()

    async def _handle_given_up(self) -> None:
        assert self._queue is not None
        self._queue.discard_all()
        for context_id in list(self._contexts):
            await self._finish_context(context_id)
