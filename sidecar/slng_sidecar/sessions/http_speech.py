"""One text synthesized for a request over HTTP, by either of upstream's bridges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

from slng_sidecar.net.channel import Channel
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of
from slng_sidecar.sessions.runner import ClientGone
from slng_sidecar.sessions.timing import Timing
from slng_sidecar.telemetry.log import SessionLog

# How much audio may wait for the reader before upstream is held back: 5 s at 24 kHz.
_AHEAD_BYTES = 240_000
_DEFAULT_RATE = 24_000


class HttpSpeech:
    """A text to synthesize, and its audio on the way to the HTTP reply.

    Upstream's side calls ``put`` and ``finish``. The reply calls ``next``, and ``leave`` if it reads no more.

    Mutable: ``_audio``, what waits for the reply; ``_error`` and ``is_complete``, once the outcome is known.

    Attributes:
        sample_rate: of the audio, in Hz. Until the first audio comes, it is the rate that was asked for.
        timing: when what happened.
        bridge: which of upstream's bridges is used.
        size: bytes of audio that came so far.
        is_complete: whether all of the text was synthesized.
        on_complete: called once that is so.
        log: the log of its session, once it has started.
        abandoned: set once the reply reads no more.
        over: set once that is so, or the outcome is known.
    """

    def __init__(self, text: str, voice: str | None, config: dict[str, Any]) -> None:
        self.text = text
        self.voice = voice
        self.config = config
        self.sample_rate = int(config.get("sample_rate", _DEFAULT_RATE))
        self.timing = Timing()
        self.bridge: Literal["bridge", "websocket"] = "bridge"
        self.size = 0
        self.is_complete = False
        self.on_complete: Callable[[], None] = lambda: None
        self.log: SessionLog | None = None
        self.abandoned = asyncio.Event()
        self.over = asyncio.Event()
        self._audio: Channel[bytes] = Channel()

    async def next(self) -> bytes | None:
        """Wait for more audio and return all there is; None after the last.

        Raises:
            GatewayError: the text could not be synthesized, or not to its end.
        """
        first = await self._audio.take()
        return None if first is None else b"".join((first, *self._audio.take_waiting()))

    def leave(self) -> None:
        """Stop upstream, unless it is done anyway: the reply reads no more."""
        if not self.is_complete:
            self.abandoned.set()
            self.over.set()
            self._audio.discard()

    def set_rate(self, sample_rate: int) -> None:
        """Set the sample rate of the audio that follows."""
        self.sample_rate = sample_rate

    async def put(self, audio: bytes) -> None:
        """Add audio, and wait while enough of it waits for the reply."""
        if audio:
            self.timing.has_result()
            self.size += len(audio)
            self._audio.put(audio)
        await self._audio.room(_AHEAD_BYTES)

    def finish(self, error: GatewayError | None = None) -> None:
        """Record the outcome: complete, or an error. Only the first call counts."""
        if not self._audio.is_finished:
            self._audio.finish(error)
            if error is None:
                self.is_complete = True
                self.on_complete()
        self.over.set()


class SpeechClient:
    """A client that says one text over the WebSocket bridge.

    It uses the messages of a WebSocket client, so that HTTP and WebSocket speech share one path.

    Mutable: ``_unread``, the messages that the session has not read yet; ``_closed``, once ``close`` was sent.
    """

    def __init__(self, speech: HttpSpeech) -> None:
        init: dict[str, Any] = {"type": "init", "config": speech.config}
        if speech.voice:
            init["voice"] = speech.voice
        self._speech = speech
        self._unread = [dump(init), dump({"type": "text", "text": speech.text}), dump({"type": "flush"})]
        self._closed = False

    async def receive(self) -> str | bytes:
        """Return the next message; after the last, wait for the outcome and close."""
        if self._unread:
            return self._unread.pop(0)
        await self._speech.over.wait()
        if not self._speech.is_complete:
            raise ClientGone
        if self._closed:
            # The session is about to end, and this wait ends with it.
            await asyncio.Event().wait()
        self._closed = True
        return dump({"type": "close"})

    async def send(self, data: str | bytes) -> None:
        """Pass audio on to the reply, and handle a message."""
        if isinstance(data, bytes):
            await self._speech.put(data)
        else:
            self._handle(parse_object(data))

    async def close(self, code: int, reason: str) -> None:
        """End the speech, which has failed unless it was complete."""
        self._speech.finish(GatewayError(ErrorCode.UPSTREAM_CLOSED, reason or "The session ended early."))

    def _handle(self, message: dict[str, Any]) -> None:
        match type_of(message):
            case "ready":
                self._speech.timing.answered()
            case "error":
                self._speech.finish(error_of(message))
            case "audio_end" | "flushed":
                self._speech.finish()


async def pour(audio: AsyncGenerator[bytes, None], speech: HttpSpeech) -> None:
    """Pass upstream's audio on until it ends or the reply reads no more.

    Raises:
        Exception: whatever ``audio`` raises.
    """

    async def pouring() -> None:
        async with aclosing(audio):
            async for piece in audio:
                await speech.put(piece)

    async with Tasks() as tasks:
        work = tasks.start(pouring(), "speech over the bridge")
        left = tasks.start(speech.abandoned.wait(), "speech reader leaves")
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)


def error_of(message: dict[str, Any]) -> GatewayError:
    """Return the error in a message. If upstream refused with a 4xx, the error keeps that status."""
    status = (message.get("upstream") or {}).get("status")
    return GatewayError(
        str(message.get("code")),
        str(message.get("message")),
        status=status if isinstance(status, int) and 400 <= status < 500 else None,
        upstream=message.get("upstream"),
    )
