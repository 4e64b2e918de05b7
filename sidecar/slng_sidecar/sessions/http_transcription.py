"""One file transcribed for a request over HTTP: a session of its own, whose client is the request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from slng_sidecar.net.channel import Channel
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of
from slng_sidecar.sessions.http_speech import error_of
from slng_sidecar.sessions.runner import ClientGone
from slng_sidecar.sessions.timing import Timing

# Half a second in a message: a long file needs few messages, and upstream starts early.
_MESSAGES_PER_SECOND = 2
# How many finals the reply may leave unread before upstream is held back.
_UNREAD_FINALS = 200


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """One final transcript of a file.

    Attributes:
        start: seconds from the file's beginning; None without word times.
        end: likewise.
        words: upstream's words, with such times.
        is_dropped: whether the confidence filter leaves the segment out.
    """

    text: str
    confidence: float | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None
    words: tuple[dict[str, Any], ...] = ()
    is_dropped: bool = False


class HttpTranscription:
    """A file's audio on its way to upstream, and its transcripts on their way back.

    The session calls ``add`` and ``finish``. The reply calls ``next``, and ``leave`` if it reads no more.

    Mutable: ``_finals``, those that wait for the reply.

    Attributes:
        config: the session's config, without the fields that describe the audio.
        next_audio: waits for more 16-bit mono PCM; returns None after the last. It may raise ``GatewayError``.
        timing: when what happened.
        over: set once the reply reads no more, or the transcription has failed. ``on_over`` is called then.
    """

    def __init__(
        self, config: dict[str, Any], next_audio: Callable[[], Awaitable[bytes | None]], timing: Timing
    ) -> None:
        self.config = config
        self.next_audio = next_audio
        self.timing = timing
        self.over = asyncio.Event()
        self.on_over: Callable[[], None] = lambda: None
        self._finals: Channel[TranscriptSegment] = Channel(lambda _: 1)

    async def next(self) -> TranscriptSegment | None:
        """Wait for the next final; None after the last.

        Raises:
            GatewayError: the file could not be transcribed, or not to its end.
        """
        return await self._finals.take()

    def leave(self) -> None:
        """Stop upstream: the reply reads no more."""
        self._finals.discard()
        self._end()

    async def add(self, segment: TranscriptSegment) -> None:
        """Add a final, and wait while the reply leaves many of them unread."""
        self.timing.has_result()
        self._finals.put(segment)
        await self._finals.room(_UNREAD_FINALS)

    def finish(self, error: GatewayError | None = None) -> None:
        """Record the outcome: complete, or an error. Only the first call counts."""
        self._finals.finish(error)
        if error is not None:
            self._end()

    def _end(self) -> None:
        self.over.set()
        self.on_over()


class TranscriptionClient:
    """A client of the extended dialect that sends a file as fast as upstream accepts it.

    It sends no finalize. Without word times, the first final after a finalize would count as its answer, although
    upstream may still be transcribing audio from minutes before. ``close`` makes upstream send all that is left.

    Mutable: ``_waiting``, audio that is not sent yet; ``_audio_ended``, once there is no more of it; ``_init_sent`` and
    ``_close_sent``; ``_connected``, set while upstream accepts audio; ``_watchdog``, while the last words are awaited.
    """

    def __init__(self, transcription: HttpTranscription, sample_rate: Callable[[], int], patience: float) -> None:
        """Create the client.

        Args:
            sample_rate: returns the rate of the audio in Hz, which is known once there is some.
            patience: seconds without any message, after the last audio, after which upstream counts as stuck.
        """
        self._transcription = transcription
        self._sample_rate = sample_rate
        self._patience = patience
        self._waiting = bytearray()
        self._message_bytes = 0
        self._init_sent = self._audio_ended = self._close_sent = False
        self._connected = asyncio.Event()
        transcription.on_over = self._connected.set
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None

    async def begin(self) -> bool:
        """Wait for the first audio.

        Returns:
            Whether there is any, and the reply still waits for its transcription.
        """
        try:
            self._waiting += await self._more()
        except ClientGone:
            return False
        return True

    async def receive(self) -> str | bytes:
        """Return the next message: ``init``, then audio, then ``close``."""
        if not self._init_sent:
            self._init_sent = True
            rate = self._sample_rate()
            self._message_bytes = 2 * (rate // _MESSAGES_PER_SECOND)
            config = {**self._transcription.config, "sample_rate": rate, "encoding": "linear16"}
            return dump({"type": "init", "config": config})
        # A session keeps a bounded amount of audio while upstream is away, but a file can wait.
        await self._connected.wait()
        while len(self._waiting) < self._message_bytes and not self._audio_ended:
            self._waiting += await self._more()
        if self._transcription.over.is_set():
            raise ClientGone
        if self._waiting:
            data = bytes(self._waiting[: self._message_bytes])
            del self._waiting[: self._message_bytes]
            return data
        if not self._close_sent:
            self._close_sent = True
            self._watch()
            return dump({"type": "close"})
        await self._transcription.over.wait()
        raise ClientGone

    async def send(self, data: str | bytes) -> None:
        """Handle a message of the session."""
        if isinstance(data, str):
            await self._handle(parse_object(data))
        if self._close_sent:
            self._watch()

    async def close(self, code: int, reason: str) -> None:
        """End the transcription, which is complete if this answers its ``close``."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if code == 1000 and self._close_sent:
            self._transcription.finish()
        else:
            error = GatewayError(ErrorCode.UPSTREAM_CLOSED, reason or "The session ended early.")
            self._transcription.finish(error)

    async def _more(self) -> bytes:
        """Wait for more audio; empty after the last."""
        try:
            data = await self._transcription.next_audio()
        except GatewayError as error:
            self._transcription.finish(error)
            raise ClientGone from None
        if self._transcription.over.is_set():
            raise ClientGone
        if data is None:
            self._audio_ended = True
        return data or b""

    def _watch(self) -> None:
        """Restart the time after which a silent upstream counts as stuck."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        text = f"Upstream sent nothing for {self._patience:g} s after the last audio (SIDECAR_TRANSCRIPT_TIMEOUT)."
        error = GatewayError(ErrorCode.UPSTREAM_TIMEOUT, text)
        self._watchdog = self._loop.call_later(self._patience, self._transcription.finish, error)

    async def _handle(self, message: dict[str, Any]) -> None:
        match type_of(message):
            case "ready":
                self._transcription.timing.answered()
                self._connected.set()
            case "final_transcript":
                await self._transcription.add(_segment(message))
            case "transcript_dropped" if message.get("final"):
                segment = TranscriptSegment(str(message["transcript"]), message.get("confidence"), is_dropped=True)
                await self._transcription.add(segment)
            case "error":
                self._transcription.finish(error_of(message))
            case "status" if message.get("state") == "reconnecting":
                self._connected.clear()
            case "status" if message.get("state") == "connected" and not message.get("dropped_ms"):
                self._connected.set()
            case "status" if message.get("dropped_ms"):
                text = (
                    f"Upstream was lost and {message['dropped_ms']} ms of the file could not be sent again. Send the "
                    "file once more, or in parts. SIDECAR_REPLAY_SECONDS sets how much audio is kept."
                )
                self._transcription.finish(GatewayError(ErrorCode.UPSTREAM_CLOSED, text))


def _segment(message: dict[str, Any]) -> TranscriptSegment:
    words = [word for word in message.get("words") or () if isinstance(word, dict) and _is_timed(word)]
    confidence = message.get("confidence")
    language = message.get("language")
    segment = TranscriptSegment(
        str(message.get("transcript", "")).strip(),
        float(confidence) if isinstance(confidence, (int, float)) else None,
        language if isinstance(language, str) else None,
    )
    if not words:
        return segment
    # Word times count from the start of their connection's audio, and ``covered_ms`` is where the last word ends.
    offset = max(0.0, message.get("covered_ms", 0) / 1000 - words[-1]["end"])
    timed = tuple({**word, "start": word["start"] + offset, "end": word["end"] + offset} for word in words)
    return TranscriptSegment(
        segment.text, segment.confidence, segment.language, timed[0]["start"], timed[-1]["end"], timed
    )


def _is_timed(word: dict[str, Any]) -> bool:
    return all(isinstance(word.get(name), (int, float)) for name in ("start", "end"))
