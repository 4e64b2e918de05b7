"""What a session machine asks its shell to do.

A machine receives events as method calls, each with the time. Every call returns the commands that follow from it, in
order. The shell (``sessions.runner``) carries them out and decides nothing itself. The machine numbers its upstream
connections, so that news of a connection that it has given up is not taken for news of the next one.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Protocol

from slng_sidecar.protocol.errors import Close, GatewayError, close_reason
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.reports import TurnReport


@dataclass(frozen=True, slots=True)
class Dial:
    """Open the upstream connection ``connection`` and send ``init`` on it. Report its ``ready`` or its loss.

    ``model`` is None for the model that the session began with.
    """

    connection: int
    init: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SendUpstream:
    """Send a text or binary message on an open connection."""

    connection: int
    data: str | bytes


@dataclass(frozen=True, slots=True)
class Retire:
    """Close an upstream connection after pending writes are flushed, and report nothing more of it."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendClient:
    """Send a text or binary message to the local client."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class StartDecoding:
    """Decode the audio of the ``DecodeAudio`` commands that follow: one stream of its own.

    Attributes:
        encoding: ``mp3`` or ``opus``.
        sample_rate: Hz of the 16-bit mono PCM that the client gets.
    """

    encoding: str
    sample_rate: int


@dataclass(frozen=True, slots=True)
class DecodeAudio:
    """Decode compressed audio and send the client what it yields."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndDecoding:
    """End the stream of decoded audio and send the client its ``audio_end``.

    Attributes:
        message: the ``audio_end``, to which the shell adds ``duration_ms``.
        completed: whether the stream is whole. Then what is left in the decoder is sent first, and a stream that
            yielded no audio at all is reported as failed.
    """

    message: dict[str, Any]
    completed: bool


@dataclass(frozen=True, slots=True)
class CloseClient:
    """Close the local connection after what was sent before. The session is over."""

    code: int
    reason: str


Command = Dial | SendUpstream | Retire | SendClient | StartDecoding | DecodeAudio | EndDecoding | CloseClient


class SessionMachine(Protocol):
    """What the shell needs of a machine. Times are seconds of one monotonic clock."""

    @property
    def deadline(self) -> float | None:
        """The time at which to call ``wake``; None for never."""

    @property
    def reads_client(self) -> bool:
        """Whether to go on reading the client. False holds the client back until the next event."""

    @property
    def ahead_bytes(self) -> int:
        """How many bytes may wait for upstream before the client is held back."""

    @property
    def counts(self) -> Counter[str]:
        """What was dropped or ignored, by reason."""

    def is_busy(self, now: float) -> bool:
        """Return whether an end now would cut something that is being said or transcribed."""

    @property
    def wants_standby(self) -> bool:
        """Whether the client asked for a standby connection."""

    @property
    def reports(self) -> deque[TurnReport]:
        """Reports of contexts and finalizes that have ended. The shell removes those that it has read."""

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that the client has sent."""

    def started(self, now: float) -> list[Command]:
        """Start the session: the client is connected."""

    def client_text(self, text: str, now: float) -> list[Command]:
        """Handle a text message of the client."""

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        """Handle a binary message of the client."""

    def client_gone(self, now: float) -> list[Command]:
        """Handle the loss of the client, after which it is sent nothing more."""

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        """Handle a connection's ``ready``, which came at ``since`` if the connection waited in standby."""

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        """Handle a text message of upstream."""

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        """Handle a binary message of upstream."""

    def upstream_lost(self, connection: int, close: Close, now: float) -> list[Command]:
        """Handle the end of a connection that was not retired."""

    def wake(self, now: float) -> list[Command]:
        """Do what is due at ``deadline``."""

    def drain(self, by: float, now: float) -> list[Command]:
        """End at the next moment that cuts nothing, and at ``by`` in any case."""


def send_error(error: GatewayError) -> SendClient:
    """Return the command that sends an error to the client."""
    return SendClient(dump(error.as_message()))


def close_with(error: GatewayError) -> list[Command]:
    """Return the commands that send a fatal error to the client and close its connection."""
    return [send_error(error), CloseClient(error.close_code, close_reason(f"{error.code}: {error.message}"))]
