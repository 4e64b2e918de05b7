"""What a session machine asks its shell to do.

A machine is fed events by method calls, each with the time; every call returns the commands that follow from it, in
order. The shell (``sessions.session``) carries them out and never decides anything itself. Upstream connections are
known by numbers that the machine gives out, so that news of one that it has given up is not taken for the next one's.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

from slng_sidecar.protocol.errors import GatewayError, close_reason
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.reports import TurnReport


@dataclass(frozen=True, slots=True)
class Dial:
    """Open upstream connection ``connection`` and send ``init`` on it; its ``ready`` or its loss will be reported.

    ``model`` is None for the one that the session began with.
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
    """Close an upstream connection once what was sent has left; nothing more will be heard of it."""

    connection: int


@dataclass(frozen=True, slots=True)
class SendClient:
    """Send a text or binary message to the local client."""

    data: str | bytes


@dataclass(frozen=True, slots=True)
class CloseClient:
    """Close the local connection after what was sent before; the session is over."""

    code: int
    reason: str


Command = Dial | SendUpstream | Retire | SendClient | CloseClient


class SessionMachine(Protocol):
    """What the shell needs of a machine; times are seconds of one monotonic clock."""

    @property
    def deadline(self) -> float | None:
        """When ``wake`` wants to be called; None for never."""

    @property
    def reads_client(self) -> bool:
        """Whether the client should be read on; False holds it back until the next event."""

    @property
    def ahead_bytes(self) -> int:
        """How many bytes may wait for upstream before the client is held back."""

    @property
    def counts(self) -> Counter[str]:
        """What was dropped or ignored, by reason."""

    def is_busy(self, now: float) -> bool:
        """Tell whether something is being said or heard that an end now would cut."""

    @property
    def wants_standby(self) -> bool:
        """Whether the client asked for a spare connection."""

    @property
    def reports(self) -> deque[TurnReport]:
        """Reports of turns that have ended; whoever takes one removes it."""

    @property
    def audio_seconds(self) -> float:
        """How much of the client's sound came so far, in seconds."""

    def started(self, now: float) -> list[Command]: ...
    def client_text(self, text: str, now: float) -> list[Command]: ...
    def client_binary(self, data: bytes, now: float) -> list[Command]: ...
    def client_gone(self, now: float) -> list[Command]: ...
    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        """Use a connection that is ready, ``since`` when where it waited for somebody before."""

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]: ...
    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]: ...
    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]: ...
    def wake(self, now: float) -> list[Command]: ...

    def drain(self, by: float, now: float) -> list[Command]:
        """End at the next moment at which nothing is cut, and at ``by`` in any case."""


DRAIN_GRACE = 1.0
"""How many seconds a session that was opened while draining, or had not begun, gets to ask for something."""

SHUTDOWN = CloseClient(1012, "draining: the sidecar is shutting down")
"""How a session ends that was drained."""


def cut_off() -> GatewayError:
    """Give the error for what was not finished when the time for draining ran out."""
    return GatewayError("draining", "The sidecar is shutting down, and the time to finish has run out.")


def tell(error: GatewayError) -> SendClient:
    """Tell the client of an error."""
    return SendClient(dump(error.as_message()))


def end_with(error: GatewayError) -> list[Command]:
    """Tell the client of a fatal error and close."""
    return [tell(error), CloseClient(error.close_code, close_reason(f"{error.code}: {error.message}"))]
