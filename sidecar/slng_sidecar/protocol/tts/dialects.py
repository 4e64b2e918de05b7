"""The messages of a TTS session to its client, in either dialect (``docs/reference/websocket.md``)."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from typing_extensions import override

from slng_sidecar.audio.companding import expand
from slng_sidecar.protocol.commands import Command, DecodeAudio, EndDecoding, SendClient, StartDecoding, send_error
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.lifecycle import check_init
from slng_sidecar.protocol.messages import Terminal, dump
from slng_sidecar.protocol.tts.contexts import Context
from slng_sidecar.protocol.tts.settings import UpdateAnswer

Reason = Literal["completed", "cleared", "failed"]
TerminalForm = Literal["upstream", "audio_end", "flushed"]

_DEFAULT_RATE = 24_000
_DELIVERIES = ("linear16", "as-is")
_SAMPLE_BYTES = {"linear16": 2, "mulaw": 1, "alaw": 1}
_COMPRESSED = ("mp3", "opus")
# Fields of an extended ``init`` that are for the sidecar only.
_SIDECAR_FIELDS = ("deliver", "standby")


class TtsDialect(Protocol):
    """Turns each event of a session into messages; an empty list if the dialect has no message for it.

    Attributes:
        names_contexts: whether contexts have ids, and end as soon as they have failed.
    """

    names_contexts: bool

    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        """Read the client's ``init`` and return what goes upstream.

        Raises:
            GatewayError: it asks for something that is not possible.
        """

    def ready(self, raw: dict[str, Any]) -> list[Command]:
        """Return upstream's ``ready`` for the client."""

    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        """Deliver audio of a context, and count it."""

    def other(self, raw: dict[str, Any]) -> list[Command]:
        """Return a message of upstream within a turn that is neither audio nor an end."""

    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        """End a context. ``terminal`` is the one that upstream sent, if it did."""

    def blank(self, context: Context) -> list[Command]:
        """End a context that had nothing to say."""

    def nothing_flushed(self) -> list[Command]:
        """Answer a flush that ends no context."""

    def cleared(self, context_id: str | None) -> list[Command]:
        """Answer a clear."""

    def updated(self, answers: list[UpdateAnswer]) -> list[Command]:
        """Answer updates."""

    def status(self, state: str, **fields: Any) -> list[Command]:
        """Return a change of the session's state."""


def bytes_per_second(encoding: str | None, sample_rate: int | None) -> int:
    """Return how many bytes a second of audio has; 0 if it is compressed."""
    return _SAMPLE_BYTES.get(encoding or "linear16", 0) * (sample_rate or _DEFAULT_RATE)


class PlainTts(TtsDialect):
    """SLNG's own messages and nothing else."""

    names_contexts = False

    def __init__(self, terminal_form: TerminalForm) -> None:
        self._form = terminal_form

    @override
    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        check_init(message)
        return message

    @override
    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    @override
    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        context.add_audio(len(data), now)
        context.delivered += len(data)
        return [SendClient(data)]

    @override
    def other(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump(raw))]

    @override
    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        if reason == "cleared":  # SLNG answers a clear by ``cleared`` only
            return []
        upstream_form = terminal.form if terminal and terminal.form in ("audio_end", "flushed") else "audio_end"
        form = upstream_form if self._form == "upstream" else self._form
        frame = {**terminal.raw, "type": form} if terminal and form == terminal.form else {"type": form}
        return [SendClient(dump(frame))]

    @override
    def blank(self, context: Context) -> list[Command]:
        if context.failed:  # the client already has the error
            return self.ended(context, "failed")
        text = "There was nothing to say: that turn had only spaces."
        error = GatewayError(ErrorCode.BAD_REQUEST, text, fatal=False)
        return [send_error(error), *self.ended(context, "completed")]

    @override
    def nothing_flushed(self) -> list[Command]:
        return [SendClient(dump({"type": "audio_end" if self._form == "upstream" else self._form}))]

    @override
    def cleared(self, context_id: str | None) -> list[Command]:
        return [SendClient(dump({"type": "cleared"}))]

    @override
    def updated(self, answers: list[UpdateAnswer]) -> list[Command]:
        return []

    @override
    def status(self, state: str, **fields: Any) -> list[Command]:
        return []


class ExtendedTts(TtsDialect):
    """The messages of ``slng-sidecar.v1``.

    Mutable, and fixed once the ``init`` is read: ``_rate`` and ``_encoding``, which are upstream's; ``_delivered``, the
    encoding that the client gets.
    """

    names_contexts = True

    def __init__(self, version: str, session: str, decodable: frozenset[str] = frozenset()) -> None:
        """Create the dialect of one session.

        Args:
            version: the sidecar's.
            session: the id that the client gets for it.
            decodable: the compressed encodings that the shell can decode.
        """
        self._sidecar = {"version": version, "session": session}
        self._decodable = decodable
        self._rate = _DEFAULT_RATE
        self._encoding = self._delivered = "linear16"

    @override
    def open(self, message: dict[str, Any]) -> dict[str, Any]:
        config = {name: value for name, value in check_init(message).items() if value is not None}
        # Always sent upstream, since some models send MP3 if the encoding is missing.
        self._encoding = self._delivered = config.setdefault("encoding", "linear16")
        self._rate = config.setdefault("sample_rate", _DEFAULT_RATE)
        deliver = message.get("deliver")
        if deliver is None:
            deliver = "linear16"
        if deliver not in _DELIVERIES:
            text = f"In init, deliver must be one of {' and '.join(_DELIVERIES)}."
            raise GatewayError(ErrorCode.CONFIG_ERROR, text)
        if deliver == "linear16":
            if self._encoding not in _SAMPLE_BYTES and self._encoding not in self._decodable:
                missing = " without its codecs (slng-sidecar[codecs])" if self._encoding in _COMPRESSED else ""
                raise GatewayError(
                    ErrorCode.UNSUPPORTED_AUDIO_FORMAT,
                    f"This sidecar cannot decode {self._encoding[:40]!r}{missing}. Ask for config.encoding linear16, "
                    'mulaw or alaw, or for "deliver": "as-is" to get the bytes as upstream sends them.',
                    status=400,
                )
            self._delivered = "linear16"
        return {**{name: value for name, value in message.items() if name not in _SIDECAR_FIELDS}, "config": config}

    @override
    def ready(self, raw: dict[str, Any]) -> list[Command]:
        return [SendClient(dump({**raw, "sidecar": self._sidecar}))]

    @override
    def audio(self, context: Context, data: bytes, now: float) -> list[Command]:
        commands: list[Command] = []
        if context.add_audio(len(data), now):
            start = {"type": "audio_start", "context_id": context.id, "sample_rate": self._rate}
            commands.append(SendClient(dump({**start, "encoding": self._delivered, "channels": 1})))
            if self._decodes:
                commands.append(StartDecoding(self._encoding, self._rate))
        if self._decodes:
            return [*commands, DecodeAudio(data)]
        if self._delivered != self._encoding:
            data = expand(data, self._encoding)
        context.delivered += len(data)
        return [*commands, SendClient(data)]

    @override
    def other(self, raw: dict[str, Any]) -> list[Command]:
        return []

    @override
    def ended(self, context: Context, reason: Reason, terminal: Terminal | None = None) -> list[Command]:
        frame: dict[str, Any] = {"type": "audio_end", "context_id": context.id, "reason": reason}
        if context.first_audio is not None:
            frame["first_audio_ms"] = round((context.first_audio - context.began) * 1000)
            if self._decodes:
                return [EndDecoding(frame, completed=reason == "completed")]
        width = _SAMPLE_BYTES.get(self._delivered)
        if width is not None or not context.delivered:
            frame["duration_ms"] = round(context.delivered * 1000 / ((width or 1) * self._rate))
        return [SendClient(dump(frame))]

    @override
    def blank(self, context: Context) -> list[Command]:
        return self.ended(context, "completed")

    @override
    def nothing_flushed(self) -> list[Command]:
        return []

    @override
    def cleared(self, context_id: str | None) -> list[Command]:
        frame = {"type": "cleared"} if context_id is None else {"type": "cleared", "context_id": context_id}
        return [SendClient(dump(frame))]

    @override
    def updated(self, answers: list[UpdateAnswer]) -> list[Command]:
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

    @override
    def status(self, state: str, **fields: Any) -> list[Command]:
        return [SendClient(dump({"type": "status", "state": state, **fields}))]

    @property
    def _decodes(self) -> bool:
        """Whether the shell decodes upstream's audio for the client."""
        return self._delivered != self._encoding and self._encoding not in _SAMPLE_BYTES
