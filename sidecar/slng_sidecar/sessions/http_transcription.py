"""One file transcribed for a request over HTTP: a session of its own, whose client is the request."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of
from slng_sidecar.sessions.http_speech import error_of
from slng_sidecar.sessions.runner import ClientGone
from slng_sidecar.sessions.timing import Timing

# Half a second in a message: a long file has few of them, and upstream begins early.
_MESSAGES_A_SECOND = 2
# What a reader that is slow, or gone, may leave unread before upstream is held back.
_UNREAD = 200


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """One final transcript.

    Attributes:
        start, end: seconds from the file's beginning, where upstream gave word times.
        words: upstream's, with such times.
        dropped: whether the confidence filter leaves it out.
    """

    text: str
    confidence: float | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None
    words: tuple[dict[str, Any], ...] = ()
    dropped: bool = False


class HttpTranscription:
    """A file's sound on its way to upstream, and the transcripts on their way back.

    The session calls ``heard`` and ``finish``; the reader calls ``next``, and ``leave`` where it reads no more.

    Mutable: ``_segments``, what is not read yet; ``_outcome``, once it is known.

    Attributes:
        config: of the session, without what describes the sound.
        timing: when what happened.
        over: set once nobody listens any more, or it has failed; ``wake`` is called then.
    """

    def __init__(self, config: dict[str, Any], sound: Callable[[], Awaitable[bytes | None]], timing: Timing) -> None:
        """Prepare.

        Args:
            sound: waits for more 16-bit mono PCM; None once that was all. It may raise ``GatewayError``.
        """
        self.config = config
        self.sound = sound
        self.timing = timing
        self.over = asyncio.Event()
        self.wake: Callable[[], None] = lambda: None
        self._segments: deque[TranscriptSegment] = deque()
        self._outcome: GatewayError | bool | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def next(self) -> TranscriptSegment | None:
        """Wait for the next final; None once all was transcribed.

        Raises:
            GatewayError: it could not be transcribed, or not to its end.
        """
        while not self._segments:
            if isinstance(self._outcome, GatewayError):
                raise self._outcome
            if self._outcome:
                return None
            self._changed.clear()
            await self._changed.wait()
        self._room.set()
        return self._segments.popleft()

    def leave(self) -> None:
        """Have upstream stopped: nobody listens any more."""
        self.over.set()
        self._room.set()
        self.wake()

    async def heard(self, segment: TranscriptSegment) -> None:
        """Add a final, and wait while the reader has many of them."""
        self.timing.sounded()
        self._segments.append(segment)
        self._changed.set()
        while len(self._segments) >= _UNREAD and not self.over.is_set():
            self._room.clear()
            await self._room.wait()

    def finish(self, error: GatewayError | None = None) -> None:
        """Note that all was transcribed, or why not; only the first end counts."""
        if self._outcome is None:
            self._outcome = error or True
        self._changed.set()
        if error is not None:
            self.over.set()
            self.wake()


class TranscriptionClient:
    """A client of the extended dialect that sends a file as fast as it is taken.

    It asks for no finalize: without word times the first final after one would count as its answer, although upstream
    may still be hearing what is minutes before it. ``close`` makes upstream say all that is left and close by itself.

    Mutable: ``_waiting``, sound that is not sent yet, and ``_ended``, once there is no more; ``_begun`` and
    ``_closed``, how far the dialogue is; ``_listening``, set while upstream can hear; ``_watchdog``, while the last
    words are awaited.
    """

    def __init__(self, transcription: HttpTranscription, sample_rate: Callable[[], int], patience: float) -> None:
        """Prepare.

        Args:
            sample_rate: of the sound, in Hz, known once there is some.
            patience: seconds without any word, after the last sound, until upstream counts as stuck.
        """
        self._transcription = transcription
        self._sample_rate = sample_rate
        self._patience = patience
        self._waiting = bytearray()
        self._message = 0
        self._begun = self._ended = self._closed = False
        self._listening = asyncio.Event()
        transcription.wake = self._listening.set
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None

    async def begin(self) -> bool:
        """Wait for the first sound; tell whether there is any, and somebody who wants it transcribed."""
        try:
            self._waiting += await self._more()
        except ClientGone:
            return False
        return True

    async def receive(self) -> str | bytes:
        if not self._begun:
            self._begun = True
            rate = self._sample_rate()
            self._message = 2 * (rate // _MESSAGES_A_SECOND)
            config = {**self._transcription.config, "sample_rate": rate, "encoding": "linear16"}
            return dump({"type": "init", "config": config})
        # A session keeps only so much for an upstream that is not there; the file can wait.
        await self._listening.wait()
        while len(self._waiting) < self._message and not self._ended:
            self._waiting += await self._more()
        if self._transcription.over.is_set():
            raise ClientGone
        if self._waiting:
            data = bytes(self._waiting[: self._message])
            del self._waiting[: self._message]
            return data
        if not self._closed:
            self._closed = True
            self._watch()
            return dump({"type": "close"})
        await self._transcription.over.wait()
        raise ClientGone

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            await self._hear(parse_object(data))
        if self._closed:
            self._watch()

    async def close(self, code: int, reason: str) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        if code == 1000 and self._closed:
            self._transcription.finish()
        else:
            self._transcription.finish(GatewayError("upstream_closed", reason or "The session ended early."))

    async def _more(self) -> bytes:
        """Wait for more sound; none once that was all."""
        try:
            data = await self._transcription.sound()
        except GatewayError as error:
            self._transcription.finish(error)
            raise ClientGone from None
        if self._transcription.over.is_set():
            raise ClientGone
        if data is None:
            self._ended = True
        return data or b""

    def _watch(self) -> None:
        """Give up on upstream if it says nothing for long, from now on."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        text = f"Upstream said nothing for {self._patience:g} s after the last sound (SIDECAR_TRANSCRIPT_TIMEOUT)."
        self._watchdog = self._loop.call_later(
            self._patience, self._transcription.finish, GatewayError("upstream_timeout", text)
        )

    async def _hear(self, message: dict[str, Any]) -> None:
        match type_of(message):
            case "ready":
                self._transcription.timing.ready()
                self._listening.set()
            case "final_transcript":
                await self._transcription.heard(_segment(message))
            case "transcript_dropped" if message.get("final"):
                await self._transcription.heard(
                    TranscriptSegment(str(message["transcript"]), message.get("confidence"), dropped=True)
                )
            case "error":
                self._transcription.finish(error_of(message))
            case "status" if message.get("state") == "reconnecting":
                self._listening.clear()
            case "status" if message.get("state") == "connected" and not message.get("dropped_ms"):
                self._listening.set()
            case "status" if message.get("dropped_ms"):
                text = (
                    f"Upstream was lost and {message['dropped_ms']} ms of the file could not be sent again. Send it "
                    "once more, or in parts; SIDECAR_REPLAY_SECONDS keeps more."
                )
                self._transcription.finish(GatewayError("upstream_closed", text))


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
    # Words are timed from the beginning of their connection's audio; ``covered_ms`` is where the last one ends.
    later = max(0.0, message.get("covered_ms", 0) / 1000 - words[-1]["end"])
    timed = tuple({**word, "start": word["start"] + later, "end": word["end"] + later} for word in words)
    return TranscriptSegment(
        segment.text, segment.confidence, segment.language, timed[0]["start"], timed[-1]["end"], timed
    )  # fmt: skip


def _is_timed(word: dict[str, Any]) -> bool:
    return all(isinstance(word.get(name), (int, float)) for name in ("start", "end"))
