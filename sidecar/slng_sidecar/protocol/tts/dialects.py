"""What a TTS session tells its client, in either dialect (section 3 of the local contract)."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from slng_sidecar.audio.codecs import is_installed
from slng_sidecar.audio.companding import expand
from slng_sidecar.audio.stream_decoder import DECODABLE, StreamDecoder
from slng_sidecar.protocol.commands import Command, SendClient, tell
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.lifecycle import check_init
from slng_sidecar.protocol.messages import Terminal, dump
from slng_sidecar.protocol.tts.contexts import Context
from slng_sidecar.protocol.tts.settings import Answer

Reason = Literal["completed", "cleared", "failed"]
TerminalForm = Literal["upstream", "audio_end", "flushed"]

_DEFAULT_RATE = 24_000
_DELIVERIES = ("linear16", "as-is")
_SAMPLE_BYTES = {"linear16": 2, "mulaw": 1, "alaw": 1}
# Fields of an extended ``init`` that are the sidecar's own.
_OURS = ("deliver", "standby")


class TtsDialect(Protocol):
    """How each thing that happens is said; an empty list where the dialect has no words for it.

    Attributes:
        named: whether contexts have names, and end as soon as they have failed.
    """

    named: bool

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        """Read the client's ``init``; give what goes upstream.

        Raises:
            GatewayError: it cannot be had.
        """

    def ready(self, raw: dict[str, Any]) -> list[Command]: ...

    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        """Deliver sound of a context, and count it."""

    def other(self, raw: dict[str, Any]) -> list[Command]:
        """Pass on what upstream says within a turn besides sound and ends."""

    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        """End a context; ``terminal`` is what upstream ended it with, if it did."""

    def blank(self, context: Context) -> list[Command]:
        """End a context in which there was nothing to say."""

    def nothing_flushed(self) -> list[Command]:
        """Answer a flush that ends no context."""

    def cleared(self, name: str | None) -> list[Command]: ...
    def updated(self, answers: list[Answer]) -> list[Command]: ...
    def status(self, state: str, **fields: Any) -> list[Command]: ...


def bytes_per_second(encoding: str | None, sample_rate: int | None) -> int:
    """Give how much sound makes a second; 0 where that cannot be told."""
    return _SAMPLE_BYTES.get(encoding or "linear16", 0) * (sample_rate or _DEFAULT_RATE)


class PlainTts:
    """SLNG's own messages and nothing else."""

    named = False

    def __init__(self, terminal_form: TerminalForm) -> None:
        self._form = terminal_form

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        check_init(message)
        return message

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        if context.first_sound is None:
            context.first_sound = now
        context.received += len(data)
        context.delivered += len(data)
        return [SendClient(data)]

    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        if reason == "cleared":  # SLNG's ``cleared`` is all there is
            return []
        form = terminal.form if terminal else "audio_end"
        told = self._form if self._form != "upstream" else form if form in ("audio_end", "flushed") else "audio_end"
        frame = {**terminal.raw, "type": told} if terminal and told == form else {"type": told}
        return [SendClient(dump(frame))]

    def blank(self, context: Context) -> list[Command]:
        if context.failed:  # it was told why
            return self.ended(context, "failed")
        error = GatewayError("bad_request", "There was nothing to say: that turn had only spaces.", fatal=False)
        return [tell(error), *self.ended(context, "completed")]

    def nothing_flushed(self) -> list[Command]:
        return [SendClient(dump({"type": "audio_end" if self._form == "upstream" else self._form}))]

    def cleared(self, name: str | None) -> list[Command]:
        return [SendClient(dump({"type": "cleared"}))]

    def updated(self, answers: list[Answer]) -> list[Command]:
        return []

    def status(self, state: str, **fields: Any) -> list[Command]:
        return []


class ExtendedTts:
    """``slng-sidecar.v1``.

    Mutable, and fixed from ``init`` on: ``_rate``, ``_encoding``, upstream's, and ``_delivered``, the client's; and
    ``_decoder``, of the context that sounds, where its sound is MP3 or Opus.
    """

    named = True

    def __init__(self, version: str, session: str) -> None:
        self._sidecar = {"version": version, "session": session}
        self._rate = _DEFAULT_RATE
        self._encoding = self._delivered = "linear16"
        self._decoder: StreamDecoder | None = None

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        config = {name: value for name, value in check_init(message).items() if value is not None}
        # Said always, as some models give mp3 where nothing is said.
        self._encoding = self._delivered = config.setdefault("encoding", "linear16")
        self._rate = config.setdefault("sample_rate", _DEFAULT_RATE)
        deliver = message.get("deliver")
        if deliver is None:
            deliver = "linear16"
        if deliver not in _DELIVERIES:
            raise GatewayError("config_error", f"In init, deliver is one of {' and '.join(_DELIVERIES)}.")
        if deliver == "linear16":
            if self._encoding not in _SAMPLE_BYTES and not (self._encoding in DECODABLE and is_installed()):
                missing = " without its codecs (slng-sidecar[codecs])" if self._encoding in DECODABLE else ""
                raise GatewayError(
                    "unsupported_audio_format",
                    f"This sidecar cannot decode {self._encoding[:40]!r}{missing}. Ask for config.encoding linear16, "
                    'mulaw or alaw, or for "deliver": "as-is" to get the bytes as upstream sends them.',
                    status=400,
                )
            self._delivered = "linear16"
        return {**{name: value for name, value in message.items() if name not in _OURS}, "config": config}

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump({**raw, "sidecar": self._sidecar}))]

    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        commands: list[Command] = []
        if context.first_sound is None:
            context.first_sound = now
            start = {"type": "audio_start", "context_id": context.name, "sample_rate": self._rate}
            commands.append(SendClient(dump({**start, "encoding": self._delivered, "channels": 1})))
            if self._delivered != self._encoding and self._encoding in DECODABLE:
                self._decoder = StreamDecoder(self._encoding, self._rate)
        context.received += len(data)
        if self._decoder is not None:
            data = self._decoder.feed(data)
        elif self._delivered != self._encoding:
            data = expand(data, self._encoding)
        context.delivered += len(data)
        return [*commands, SendClient(data)] if data or self._decoder is None else commands

    def other(self, raw: dict[str, Any]) -> list[Command]:
        return []

    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        commands: list[Command] = []
        if self._decoder is not None and context.first_sound is not None:
            if reason == "completed" and (rest := self._decoder.end()):
                context.delivered += len(rest)
                commands.append(SendClient(rest))
            self._decoder = None
            if reason == "completed" and not context.delivered:
                said = f"What upstream sent as {self._encoding} could not be decoded."
                error = GatewayError("unsupported_audio_format", said, fatal=False, context_id=context.name)
                commands, reason = [tell(error)], "failed"
        frame: dict[str, Any] = {"type": "audio_end", "context_id": context.name, "reason": reason}
        width = _SAMPLE_BYTES.get(self._delivered)
        if width is not None or not context.delivered:
            frame["duration_ms"] = round(context.delivered * 1000 / ((width or 1) * self._rate))
        if context.first_sound is not None:
            frame["first_audio_ms"] = round((context.first_sound - context.began) * 1000)
        return [*commands, SendClient(dump(frame))]

    def blank(self, context: Context) -> list[Command]:
        return self.ended(context, "completed")

    def nothing_flushed(self) -> list[Command]:
        return []

    def cleared(self, name: str | None) -> list[Command]:
        return [SendClient(dump({"type": "cleared"} if name is None else {"type": "cleared", "context_id": name}))]

    def updated(self, answers: list[Answer]) -> list[Command]:
        return [
            SendClient(
                dump(
                    {
                        "type": "updated",
                        "id": answer.id,
                        "applied": answer.applied,
                        "unchanged": answer.unchanged,
                        "rejected": answer.rejected,
                    }
                )
            )
            for answer in answers
        ]

    def status(self, state: str, **fields: Any) -> list[Command]:
        return [SendClient(dump({"type": "status", "state": state, **fields}))]
