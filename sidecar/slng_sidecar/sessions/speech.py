"""One text spoken: a session of its own, whose client is a request over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import dump, parse_object, type_of
from slng_sidecar.sessions.session import ClientGone

# How much sound may wait for the reader before the session, and with it upstream, is held back: 5 s at 24 kHz.
_AHEAD_BYTES = 240_000


class SpeechClient:
    """A client that says one text and collects its sound.

    It speaks the same messages as a WebSocket client, so HTTP speech and WebSocket speech share one path. ``next``
    gives the sound; whoever reads no more calls ``leave``.

    Mutable: ``_to_say``, what the session has not read yet; ``_sound`` and its size; ``_left``, once nobody listens;
    ``_outcome``, once it is known.
    """

    def __init__(self, text: str, voice: str | None, config: dict[str, Any]) -> None:
        init: dict[str, Any] = {"type": "init", "config": config}
        if voice:
            init["voice"] = voice
        self._to_say = [dump(init), dump({"type": "text", "text": text}), dump({"type": "flush"})]
        self._sound: list[bytes] = []
        self._waiting = 0
        self._outcome: GatewayError | bool | None = None  # True: said whole
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._left = False
        self._wanted = asyncio.Event()

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
        """End the session, if it is not over anyway: nobody listens any more."""
        if self._outcome is not True:
            self._left = True
            self._room.set()
            self._wanted.set()

    # The client that the session sees

    async def receive(self) -> str | bytes:
        while not self._to_say and not self._left:
            self._wanted.clear()
            await self._wanted.wait()
        if self._left:
            raise ClientGone
        return self._to_say.pop(0)

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            self._sound.append(data)
            self._waiting += len(data)
        else:
            self._hear(parse_object(data))
        self._changed.set()
        while self._waiting >= _AHEAD_BYTES and not self._left:
            self._room.clear()
            await self._room.wait()

    async def close(self, code: int, reason: str) -> None:
        self._finish(GatewayError("upstream_closed", reason or "The session ended early."))

    def _hear(self, message: dict[str, Any]) -> None:
        match type_of(message):
            case "error":
                status = (message.get("upstream") or {}).get("status")
                self._finish(
                    GatewayError(
                        str(message.get("code")),
                        str(message.get("message")),
                        status=status if status in (401, 403) else None,
                        upstream=message.get("upstream"),
                    )
                )
            case "audio_end" | "flushed":
                self._to_say.append(dump({"type": "close"}))
                self._wanted.set()
                self._finish(True)

    def _finish(self, outcome: GatewayError | bool) -> None:
        if self._outcome is None:
            self._outcome = outcome
        self._changed.set()
