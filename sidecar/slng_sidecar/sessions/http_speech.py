"""One text spoken for a request over HTTP, by either of the ways that upstream has for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

from slng_sidecar.net.tasks import Tasks
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of
from slng_sidecar.sessions.runner import ClientGone
from slng_sidecar.sessions.timing import Timing
from slng_sidecar.telemetry.log import SessionLog

# How much sound may wait for the reader before upstream is held back: 5 s at 24 kHz.
_AHEAD_BYTES = 240_000
_DEFAULT_RATE = 24_000


class HttpSpeech:
    """A text to be said, and its sound on the way to whoever asked for it.

    Upstream's side calls ``put`` and ``finish``; the reader calls ``next``, and ``leave`` where it reads no more.

    Mutable: ``_sound`` and its size; ``_outcome``, once it is known.

    Attributes:
        sample_rate: of the sound, in Hz; what was asked for until the first sound came.
        timing: when what happened.
        way: how it goes upstream.
        size: bytes of sound that came so far.
        said: called once all was said.
        log: of the session that it is, once it has begun.
        left: set once nobody listens any more.
        over: set once that is so, or all is said, or could not be said.
    """

    def __init__(self, text: str, voice: str | None, config: dict[str, Any]) -> None:
        self.text = text
        self.voice = voice
        self.config = config
        self.sample_rate = int(config.get("sample_rate", _DEFAULT_RATE))
        self.timing = Timing()
        self.way: Literal["bridge", "websocket"] = "bridge"
        self.size = 0
        self.said: Callable[[], None] = lambda: None
        self.log: SessionLog | None = None
        self.left = asyncio.Event()
        self.over = asyncio.Event()
        self._sound: list[bytes] = []
        self._waiting = 0
        self._outcome: GatewayError | bool | None = None  # True: said whole
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def said_whole(self) -> bool:
        """Whether all of it was said."""
        return self._outcome is True

    async def next(self) -> bytes | None:
        """Wait for more sound; None once all was given.

        Raises:
            GatewayError: the text could not be said, or not to its end.
        """
        while not self._sound:
            if isinstance(self._outcome, GatewayError):
                raise self._outcome
            if self._outcome:
                return None
            self._changed.clear()
            await self._changed.wait()
        data = b"".join(self._sound)
        self._sound.clear()
        self._waiting = 0
        self._room.set()
        return data

    def leave(self) -> None:
        """Have upstream stopped, if it is not done anyway: nobody listens any more."""
        if self._outcome is not True:
            self.left.set()
            self.over.set()
            self._room.set()

    def sounds_at(self, sample_rate: int) -> None:
        """Note the sample rate of the sound that follows."""
        self.sample_rate = sample_rate

    async def put(self, sound: bytes) -> None:
        """Add sound, and wait while the reader has enough of it."""
        if sound:
            self.timing.sounded()
            self._sound.append(sound)
            self._waiting += len(sound)
            self.size += len(sound)
            self._changed.set()
        while self._waiting >= _AHEAD_BYTES and not self.left.is_set():
            self._room.clear()
            await self._room.wait()

    def finish(self, error: GatewayError | None = None) -> None:
        """Note that all was said, or why not; only the first end counts."""
        if self._outcome is None:
            self._outcome = error or True
            if error is None:
                self.said()
        self._changed.set()
        self.over.set()


class SpeechClient:
    """A client that says one text over the WebSocket way.

    It speaks the same messages as a WebSocket client, so HTTP speech and WebSocket speech share one path.

    Mutable: ``_to_say``, what the session has not read yet.
    """

    def __init__(self, speech: HttpSpeech) -> None:
        init: dict[str, Any] = {"type": "init", "config": speech.config}
        if speech.voice:
            init["voice"] = speech.voice
        self._speech = speech
        self._to_say = [dump(init), dump({"type": "text", "text": speech.text}), dump({"type": "flush"})]
        self._closed = False

    async def receive(self) -> str | bytes:
        if self._to_say:
            return self._to_say.pop(0)
        await self._speech.over.wait()
        if not self._speech.said_whole:
            raise ClientGone
        if self._closed:
            # The session is about to end, and this wait with it.
            await asyncio.Event().wait()
        self._closed = True
        return dump({"type": "close"})

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            await self._speech.put(data)
        else:
            self._hear(parse_object(data))

    async def close(self, code: int, reason: str) -> None:
        self._speech.finish(GatewayError("upstream_closed", reason or "The session ended early."))

    def _hear(self, message: dict[str, Any]) -> None:
        match type_of(message):
            case "ready":
                self._speech.timing.ready()
            case "error":
                self._speech.finish(error_of(message))
            case "audio_end" | "flushed":
                self._speech.finish()


async def pour(sound: AsyncGenerator[bytes, None], speech: HttpSpeech) -> None:
    """Give an utterance the sound that upstream sends, until that ends or nobody listens any more.

    Raises:
        Exception: as ``sound`` does.
    """

    async def pouring() -> None:
        async with aclosing(sound):
            async for piece in sound:
                await speech.put(piece)

    async with Tasks() as tasks:
        work = tasks.start(pouring(), "speech over the bridge")
        left = tasks.start(speech.left.wait(), "speech reader leaves")
        await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)


def error_of(message: dict[str, Any]) -> GatewayError:
    """Give the error that a message tells of; what upstream refused by a 4xx keeps its status."""
    status = (message.get("upstream") or {}).get("status")
    return GatewayError(
        str(message.get("code")),
        str(message.get("message")),
        status=status if isinstance(status, int) and 400 <= status < 500 else None,
        upstream=message.get("upstream"),
    )
