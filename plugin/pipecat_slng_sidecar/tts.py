"""Text to speech through a sidecar, streaming."""

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
from pipecat_slng_sidecar.failures import failure_of
from pipecat_slng_sidecar.options import DEFAULT_TTS_MODEL, WorldPart, check_encoding
from pipecat_slng_sidecar.stt_replay_queue import SessionInit
from pipecat_slng_sidecar.tts_base import SlngSpeechService, SlngTTSSettings, WholeSamples
from pipecat_slng_sidecar.tts_replay_queue import TtsReplayQueue, Utterance
from pipecat_slng_sidecar.updates import Updates

_ENCODINGS = ("linear16", "mulaw", "alaw", "mp3", "opus")
# Text that waits for a sidecar that is away, in characters: some hours of speech.
_MOST_TEXT = 200_000
_LAST_WORDS = 5.0


@dataclass(slots=True)
class _Speech:
    """A Pipecat context that is being spoken.

    Attributes:
        utterance: what the sidecar says for it now; ``None`` where that ended before the context had all its text.
        complete: whether the context has all its text.
        unheard: text frames of sentences after which no sound has come yet.
    """

    utterance: Utterance | None = None
    complete: bool = False
    unheard: list[TTSTextFrame] = field(default_factory=list)


class SlngTTSService(SlngSpeechService):
    """Streaming text to speech by SLNG, through a sidecar on this machine.

    A Pipecat context is a context on the wire, and its sound bears its name: an interruption takes back what it
    interrupts and nothing else, at once, and no sound is ever heard under another context. Settings hold from the next
    sentence on, with nothing cut.
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
        """Build the service; the sidecar is dialled when the pipeline is set up.

        Args:
            api_key: not needed: the key is the sidecar's.
            world_part: the regional gateway, such as ``"in"``; without it the sidecar's own.
            model: the SLNG route.
            voice: as the provider names it.
            base_url: not needed: the address of SLNG is the sidecar's.
            encoding: what the provider sends: ``"linear16"``, ``"mulaw"``, ``"alaw"``, ``"mp3"`` or ``"opus"``. PCM
                comes out in any case; the last two need the sidecar's decoders.
            sample_rate: in Hz; the pipeline's by default.
            region_override: pin requests to a datacenter (global gateway).
            world_part_override: keep requests in a broad zone (global gateway).
            provider_key: your own provider's key, for routes without ``slng/``.
            external_agent_id: for usage events, as ``X-SLNG-Agent-Id``.
            external_session_id: for usage events, as ``X-SLNG-Session-Id``.
            language: of the speech. English by default, unless the model's name ends in another language.
            speed: a multiplier; the provider's own by default.
            pronunciation: a reference to a pronunciation dictionary.
            warm_standby_enabled: let the sidecar keep a spare connection for this session.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, else
                ``http://127.0.0.1:8765``.
            sidecar_token: the sidecar's token, where it wants one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: win over the arguments above.
            **kwargs: for ``TTSService``.

        Raises:
            ValueError: something of this cannot work; the text says what and why.
        """
        check_encoding(encoding, _ENCODINGS, "nobody on the way can decode it.")
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
        self._speeches: dict[str, _Speech] = {}
        # Contexts that Pipecat itself completes, the newest last; others have one text each.
        self._turns: deque[str] = deque(maxlen=16)
        self._sounding: Utterance | None = None
        self._format = (0, 1)
        self._stopping = False
        self._whole = WholeSamples(1)
        self._updates = Updates()

    @property
    def supports_processing_metrics(self) -> bool:
        """Say that there is no processing time: ``run_tts`` hands the text on and returns."""
        return False

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat's own
        """Begin to connect; nothing waits for it."""
        await super().setup(setup)
        self._queue = TtsReplayQueue(self._session_init())
        self._connection = SidecarConnection(
            self, self._address, "tts", self._headers, self._queue,
            on_message=self._take, on_audio=self._sound,
            on_up=self._came_up, on_lost=self._lost, on_given_up=self._given_up,
        )  # fmt: skip
        self._connection.start()

    async def start(self, frame: StartFrame) -> None:
        """Let audio out."""
        await super().start(frame)
        if self._connection:
            self._connection.release()

    async def stop(self, frame: EndFrame) -> None:
        """Let what is being said be said, then close. What waits for a sidecar that is away is given up."""
        self._stopping = True
        if self._connection and self._connection.is_down:
            await self._given_up()
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

    # What Pipecat wants said

    async def on_turn_context_created(self, context_id: str) -> None:
        """Note that this context will be completed by ``flush_audio``."""
        self._turns.append(context_id)

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Hand text on; its audio comes by itself."""
        assert self._queue is not None
        assert self._connection is not None
        if self._queue.waiting + len(text) > _MOST_TEXT:
            await self.push_error(
                f"Text is dropped: {self._queue.waiting} characters wait to be said already.",
                category=ErrorCategory.APPLICATION,
            )
        else:
            speech = self._speeches.setdefault(context_id, _Speech())
            if speech.utterance is None:
                speech.utterance = self._queue.begin(context_id)
            self._queue.say(speech.utterance, text)
            if context_id not in self._turns:
                await self.flush_audio(context_id)
            self._connection.wake()
            await self.start_tts_usage_metrics(text)
        yield None

    async def flush_audio(self, context_id: str | None = None) -> None:
        """Say that a context has all its text; without an id, that all have."""
        for each in [context_id] if context_id is not None else list(self._speeches):
            speech = self._speeches.get(each)
            if speech is None or speech.utterance is None:
                # Nothing is under way for it: it was not said at all, or broke off before its end.
                await self._finish(each)
            else:
                speech.complete = True
                assert self._queue is not None
                self._queue.flush(speech.utterance)
        if self._connection:
            self._connection.wake()

    async def append_to_audio_context(self, context_id: str | None, frame: Any) -> None:
        """Keep the text of a sentence back until sound follows it: what was never heard was not said."""
        speech = self._speeches.get(context_id) if context_id else None
        if speech is not None and isinstance(frame, TTSTextFrame):
            speech.unheard.append(frame)
        else:
            await super().append_to_audio_context(context_id, frame)

    async def on_audio_context_interrupted(self, context_id: str) -> None:
        """Take a context back, without waiting for anything."""
        self._forget(context_id)
        await super().on_audio_context_interrupted(context_id)

    async def on_audio_context_completed(self, context_id: str) -> None:
        """Take a context back that ended without its end: Pipecat's own timeout came first."""
        self._forget(context_id)
        await super().on_audio_context_completed(context_id)

    def _forget(self, context_id: str) -> None:
        speech = self._speeches.pop(context_id, None)
        if speech is None or self._queue is None or self._connection is None:
            return
        if speech.utterance is not None:
            self._queue.clear(speech.utterance)
            self._connection.wake()
        self._queue.forget(context_id)

    # Settings

    async def _update_settings(self, delta: TTSSettings) -> dict[str, Any]:  # type: ignore[override] # as Pipecat's
        """Change settings for what is said from here on."""
        changed = await super()._update_settings(delta)
        if changed and self._queue and self._connection:
            after = self._session_init()
            self._queue.update(self._updates.message(changed, after), after)
            self._connection.wake()
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

    # What the sidecar says

    async def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "audio_start":
                self._sounding = self._live(message)
                self._format = (int(message["sample_rate"]), int(message.get("channels", 1)))
                self._whole = WholeSamples(self._format[1])
            case "audio_end":
                self._sounding = None
                await self._ended(message)
            case "updated":
                if refusal := self._updates.answered(message, self._settings):
                    await self.push_error(refusal, category=ErrorCategory.APPLICATION)
            case "status":
                logger.info(f"{self}: upstream {message.get('state')}, cause: {message.get('cause')}")
            case "error":
                failure = failure_of(message)
                utterance = self._live(message)
                await self.say_why(utterance.context_id if utterance else None, failure)

    def _live(self, message: dict[str, Any]) -> Utterance | None:
        assert self._queue is not None
        return self._queue.live(str(message.get("context_id")))

    async def _sound(self, data: bytes) -> None:
        utterance = self._sounding
        speech = self._speeches.get(utterance.context_id) if utterance else None
        if utterance is None or speech is None or speech.utterance is not utterance:
            return
        if not utterance.voiced:
            assert self._queue is not None
            self._queue.sounds(utterance)
            await self.stop_ttfb_metrics()
        await self._tell(utterance.context_id, speech)
        if audio := self._whole.take(data):
            frame = TTSAudioRawFrame(audio, *self._format, context_id=utterance.context_id)
            await self.append_to_audio_context(utterance.context_id, frame)

    async def _tell(self, context_id: str, speech: _Speech) -> None:
        unheard, speech.unheard = speech.unheard, []
        for frame in unheard:
            await super().append_to_audio_context(context_id, frame)

    async def _ended(self, message: dict[str, Any]) -> None:
        utterance = self._live(message)
        if utterance is None:
            return
        if message.get("reason") == "completed" and (speech := self._speeches.get(utterance.context_id)):
            await self._tell(utterance.context_id, speech)
        await self._over(utterance)

    async def _over(self, utterance: Utterance) -> None:
        """End what an utterance spoke for, unless more text is to come for it."""
        assert self._queue is not None
        self._queue.ended(utterance)
        speech = self._speeches.get(utterance.context_id)
        if speech is not None and speech.utterance is utterance:
            speech.utterance = None
            speech.unheard.clear()
            if speech.complete:
                await self._finish(utterance.context_id)

    async def _finish(self, context_id: str) -> None:
        self._speeches.pop(context_id, None)
        if self._queue:
            self._queue.forget(context_id)
        if self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)

    # Changes of the link

    async def _came_up(self) -> None:
        self._updates.forget()

    async def _lost(self) -> None:
        assert self._queue is not None
        self._sounding = None
        for utterance in self._queue.take_broken():
            await self._over(utterance)
        # The pipeline is held up until all is said, so a sidecar that goes away meanwhile is not waited for as long.
        if self._stopping and self._connection is not None and self._connection.down_for > _LAST_WORDS:
            await self._given_up()

    async def _given_up(self) -> None:
        assert self._queue is not None
        self._queue.take_all()
        for context_id in list(self._speeches):
            await self._finish(context_id)
