"""What an STT session tells its client, in either dialect (section 3 of the local contract)."""

from __future__ import annotations

from typing import Any, Protocol

from slng_sidecar.protocol.commands import Command, SendClient, tell
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import Transcript, dump


class SttDialect(Protocol):
    """How each thing that happens is said; an empty list where the dialect has no words for it.

    ``covered_ms`` is the millisecond of the audio up to which all is done with. ``finalize`` is the id that the
    client gave the finalize which a transcript answers, or None; ``answers`` whether it answers one at all.
    """

    takes_updates: bool

    def ready(self, raw: dict[str, Any]) -> list[Command]: ...
    def partial(self, message: Transcript) -> list[Command]: ...
    def final(
        self, message: Transcript, covered_ms: int, *, answers: bool, finalize: str | None, late: bool
    ) -> list[Command]: ...
    def dropped(
        self, message: Transcript, threshold: float, covered_ms: int, *, answers: bool, finalize: str | None
    ) -> list[Command]: ...
    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]: ...
    def updated(
        self, update: str | None, applied: dict[str, Any], unchanged: list[str], rejected: dict[str, str], cut_ms: int
    ) -> list[Command]: ...
    def status(self, state: str, **fields: Any) -> list[Command]: ...
    def error(self, error: GatewayError) -> list[Command]: ...
    def other(self, raw: dict[str, Any]) -> list[Command]: ...


class PlainStt:
    """SLNG's own messages and nothing else."""

    takes_updates = False

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    def partial(self, message: Transcript) -> list[Command]:
        return [SendClient(dump(message.raw))]

    def final(
        self, message: Transcript, covered_ms: int, *, answers: bool, finalize: str | None, late: bool
    ) -> list[Command]:
        return [SendClient(dump({**message.raw, "from_finalize": True} if answers else message.raw))]

    def dropped(
        self, message: Transcript, threshold: float, covered_ms: int, *, answers: bool, finalize: str | None
    ) -> list[Command]:
        if not message.final:
            return []
        # Somebody may wait for this final: its words are dropped, not the answer.
        frame: dict[str, Any] = {"type": "final_transcript", "transcript": "", "confidence": message.confidence}
        return [SendClient(dump({**frame, "from_finalize": True} if answers else frame))]

    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]:
        if outcome in ("final", "dropped"):  # the transcript said so itself
            return []
        return [SendClient(dump({"type": "final_transcript", "transcript": "", "from_finalize": True}))]

    def updated(
        self, update: str | None, applied: dict[str, Any], unchanged: list[str], rejected: dict[str, str], cut_ms: int
    ) -> list[Command]:
        return []

    def status(self, state: str, **fields: Any) -> list[Command]:
        return []

    def error(self, error: GatewayError) -> list[Command]:
        # Clients exist that take every error for the session's end; what may pass by itself, or is followed by a drop
        # that is repaired here, is none.
        return [] if error.retryable else [tell(error)]

    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]


class ExtendedStt:
    """``slng-sidecar.v1``."""

    takes_updates = True

    def __init__(self, version: str, session: str) -> None:
        self._sidecar = {"version": version, "session": session}

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump({**raw, "sidecar": self._sidecar}))]

    def partial(self, message: Transcript) -> list[Command]:
        return [SendClient(dump(message.raw))]

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

    def finalized(self, finalize: str | None, outcome: str, covered_ms: int) -> list[Command]:
        frame = {"type": "finalized", "finalize_id": finalize, "outcome": outcome, "covered_ms": covered_ms}
        return [SendClient(dump(frame))]

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

    def status(self, state: str, **fields: Any) -> list[Command]:
        return [SendClient(dump({"type": "status", "state": state, **fields}))]

    def error(self, error: GatewayError) -> list[Command]:
        return [tell(error)]

    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]
