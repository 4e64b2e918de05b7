"""The messages of an STT session to its client, in either dialect (``docs/reference/websocket.md``)."""

from __future__ import annotations

from typing import Any, Protocol

from typing_extensions import override

from slng_sidecar.protocol.commands import Command, SendClient, send_error
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import Transcript, dump


class SttDialect(Protocol):
    """Turns each event of a session into messages; an empty list if the dialect has no message for it.

    ``covered_ms`` is the millisecond of the session's audio up to which everything is delivered. ``finalize`` is the id
    that the client gave the finalize which a transcript answers, or None; ``answers`` is whether it answers one.
    """

    takes_updates: bool

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        """Return upstream's ``ready`` for the client."""

    def partial(self, message: Transcript) -> list[Command]:
        """Return a partial."""

    def final(
        self, message: Transcript, covered_ms: int, *, answers: bool, finalize: str | None, late: bool
    ) -> list[Command]:
        """Return a final. ``late`` is whether its finalize was already answered by ``timeout``."""

    def dropped(
        self, message: Transcript, threshold: float, covered_ms: int, *, answers: bool, finalize: str | None
    ) -> list[Command]:
        """Return the notice that the confidence filter dropped a transcript."""

    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]:
        """Return the answer to a finalize."""

    def updated(
        self, update: str | None, applied: dict[str, Any], unchanged: list[str], rejected: dict[str, str], cut_ms: int
    ) -> list[Command]:
        """Return the answer to an update, whose settings hold from ``cut_ms`` on."""

    def status(self, state: str, **fields: Any) -> list[Command]:
        """Return a change of the session's state."""

    def error(self, error: GatewayError) -> list[Command]:
        """Return an error of upstream after which the session goes on."""

    def other(self, raw: dict[str, Any]) -> list[Command]:
        """Return a message of upstream that the sidecar does not know."""


class PlainStt(SttDialect):
    """SLNG's own messages and nothing else."""

    takes_updates = False

    @override
    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    @override
    def partial(self, message: Transcript) -> list[Command]:
        return [SendClient(dump(message.raw))]

    @override
    def final(
        self, message: Transcript, covered_ms: int, *, answers: bool, finalize: str | None, late: bool
    ) -> list[Command]:
        return [SendClient(dump({**message.raw, "from_finalize": True} if answers else message.raw))]

    @override
    def dropped(
        self, message: Transcript, threshold: float, covered_ms: int, *, answers: bool, finalize: str | None
    ) -> list[Command]:
        if not message.final:
            return []
        # The client may wait for this final, so its words are dropped but the message is sent.
        frame: dict[str, Any] = {"type": "final_transcript", "transcript": "", "confidence": message.confidence}
        return [SendClient(dump({**frame, "from_finalize": True} if answers else frame))]

    @override
    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]:
        if outcome in ("final", "dropped"):  # the transcript itself carries from_finalize
            return []
        return [SendClient(dump({"type": "final_transcript", "transcript": "", "from_finalize": True}))]

    @override
    def updated(
        self, update: str | None, applied: dict[str, Any], unchanged: list[str], rejected: dict[str, str], cut_ms: int
    ) -> list[Command]:
        return []

    @override
    def status(self, state: str, **fields: Any) -> list[Command]:
        return []

    @override
    def error(self, error: GatewayError) -> list[Command]:
        # Some clients (LiveKit's) take every error for the end of the session, which an error that may pass by itself,
        # or that precedes a drop which the sidecar repairs, is not.
        return [] if error.retryable else [send_error(error)]

    @override
    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]


class ExtendedStt(SttDialect):
    """The messages of ``slng-sidecar.v1``."""

    takes_updates = True

    def __init__(self, version: str, session: str) -> None:
        self._sidecar = {"version": version, "session": session}

    @override
    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump({**raw, "sidecar": self._sidecar}))]

    @override
    def partial(self, message: Transcript) -> list[Command]:
        return [SendClient(dump(message.raw))]

    @override
    def final(
        self, message: Transcript, covered_ms: int, *, answers: bool, finalize: str | None, late: bool
    ) -> list[Command]:
        if not message.text.strip():
            return []
        frame = {**message.raw, "covered_ms": covered_ms}
        if answers:
            frame["finalize_id"] = finalize
        if late:
            frame["late"] = True
        return [SendClient(dump(frame))]

    @override
    def dropped(
        self, message: Transcript, threshold: float, covered_ms: int, *, answers: bool, finalize: str | None
    ) -> list[Command]:
        frame: dict[str, Any] = {
            "type": "transcript_dropped",
            "final": message.final,
            "confidence": message.confidence,
            "threshold": threshold,
            "transcript": message.text,
        }
        if message.final:
            frame["covered_ms"] = covered_ms
        if answers:
            frame["finalize_id"] = finalize
        return [SendClient(dump(frame))]

    @override
    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]:
        frame = {"type": "finalized", "finalize_id": finalize, "outcome": outcome, "covered_ms": covered_ms}
        return [SendClient(dump(frame))]

    @override
    def updated(
        self, update: str | None, applied: dict[str, Any], unchanged: list[str], rejected: dict[str, str], cut_ms: int
    ) -> list[Command]:
        frame: dict[str, Any] = {
            "type": "updated",
            "id": update,
            "applied": applied,
            "unchanged": unchanged,
            "rejected": rejected,
            "cut_ms": cut_ms,
        }
        return [SendClient(dump(frame))]

    @override
    def status(self, state: str, **fields: Any) -> list[Command]:
        return [SendClient(dump({"type": "status", "state": state, **fields}))]

    @override
    def error(self, error: GatewayError) -> list[Command]:
        return [send_error(error)]

    @override
    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]
