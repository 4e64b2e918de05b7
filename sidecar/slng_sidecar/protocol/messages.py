"""The messages of SLNG's bridge: their spellings on the wire, and the meanings that the session machines work with.

Providers' own frames leak through the bridge on some routes, so one meaning has several spellings. ``parse_stt`` and
``parse_tts`` turn upstream's messages into the meanings below. The spellings are those that the official clients accept
(LiveKit 1.8.9's parser, ``pipecat-slng`` 0.7.0). Types are compared without regard to case.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from slng_sidecar.protocol.errors import STATUS_OF_CODE, ErrorCode, GatewayError


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is open upstream."""

    raw: dict[str, Any]

    @property
    def session_id(self) -> str | None:
        """SLNG's id of the session, if it sent one."""
        return _text_or_none(self.raw.get("session_id"))

    @property
    def slng_request_id(self) -> str | None:
        """SLNG's id of the request, if it sent one."""
        return _text_or_none(self.raw.get("slng_request_id"))


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A recognized word. Its times are seconds of the upstream connection's audio."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """Recognized speech.

    Attributes:
        final: whether it will not change any more.
        text: what was said, which may be empty.
        confidence: from 0 to 1; None if upstream sent no usable number.
        words: with times; empty if upstream sends none.
        from_finalize: whether upstream says that it answers a finalize; None if upstream says nothing about it.
        raw: the bridge's message, with ``transcript`` always filled.
    """

    final: bool
    text: str
    confidence: float | None
    words: tuple[TimedWord, ...]
    from_finalize: bool | None
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Audio:
    """Synthesized audio, in the encoding that ``init`` asked for."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Terminal:
    """The end of a turn, or of a sentence if it comes before the flush. ``form`` is upstream's type for it."""

    form: str
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The acknowledgement of a ``clear``."""

    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """An error that upstream reports. The connection may go on.

    Attributes:
        is_stream_gone: whether it is Soniox's error for a session that has had its one turn ("Stream … not found").
    """

    error: GatewayError
    is_stream_gone: bool = False


@dataclass(frozen=True, slots=True)
class Other:
    """Any other message, which is passed on unchanged or ignored."""

    raw: dict[str, Any]


SttMessage = Ready | Transcript | UpstreamError | Other
TtsMessage = Ready | Audio | Terminal | Cleared | UpstreamError | Other

# Python's JSON encoder raises at a smaller depth than its decoder, and what is read must be writable again.
_MAX_DEPTH = 100
_EVENT_ENDS = frozenset({"complete", "completed", "done", "end", "final"})
_EVENT_FAILS = frozenset({"error", "failed"})
_CODE_OF_BARE_STATUS = {
    400: ErrorCode.CONFIG_ERROR,
    401: ErrorCode.AUTH_ERROR,
    403: ErrorCode.AUTH_ERROR,
    408: ErrorCode.IDLE_TIMEOUT_EXCEEDED,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    429: ErrorCode.RATE_LIMIT,
    500: ErrorCode.TRANSLATION_ERROR,
    503: ErrorCode.NOT_READY,
}


def dump(message: dict[str, Any]) -> str:
    """Encode a message for the wire."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: valid in JSON, not in UTF-8
            return json.dumps(message, separators=(",", ":"))
    return text


def parse_object(text: str) -> dict[str, Any]:
    """Decode one JSON object.

    Raises:
        GatewayError: ``bad_request``, not fatal. Its message says what came instead.
    """
    try:
        value = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise GatewayError(
            ErrorCode.BAD_REQUEST, f"That text message is not JSON ({error.msg}).", fatal=False
        ) from None
    except ValueError:
        raise GatewayError(
            ErrorCode.BAD_REQUEST, "That message contains a number with too many digits.", fatal=False
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if _depth_exceeds(value, _MAX_DEPTH):
        raise _too_deep()
    if not isinstance(value, dict):
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"A message must be a JSON object with a 'type', not {_json_kind(value)}.",
            fatal=False,
        )
    return value


def type_of(message: dict[str, Any]) -> str:
    """Return a message's type in lower case, or an empty string if it has none."""
    kind = message.get("type")
    return kind.lower() if isinstance(kind, str) else ""


def parse_stt(text: str) -> SttMessage:
    """Parse a text message of the STT bridge.

    Raises:
        GatewayError: ``bad_request``, if it is not a JSON object.
    """
    raw = parse_object(text)
    kind = type_of(raw)
    if kind == "ready":
        return Ready(raw)
    if kind in ("partial_transcript", "final_transcript"):
        return _transcript(raw, final=kind == "final_transcript")
    if kind == "results":
        return _deepgram_results(raw)
    if _is_failure(kind, raw):
        return _failure(raw)
    return Other(raw)


def parse_tts(text: str) -> tuple[TtsMessage, ...]:
    """Parse a text message of the TTS bridge. One message can carry both audio and the end of the turn.

    Raises:
        GatewayError: ``bad_request``, if it is not a JSON object; ``unsupported_audio_format``, if its base64 audio is
            broken.
    """
    raw = parse_object(text)
    kind = type_of(raw)
    if kind == "ready":
        return (Ready(raw),)
    if kind in ("audio_end", "flushed", "done"):
        return (Terminal(kind, raw),)
    if kind == "cleared":
        return (Cleared(raw),)
    if kind == "event":
        return (_event(raw),)
    if _is_failure(kind, raw):
        return (_failure(raw),)
    found: list[TtsMessage] = []
    if kind in ("", "audio", "chunk", "audio_chunk") and (audio := _base64_audio(raw)) is not None:
        found.append(Audio(audio))
    if kind == "" and raw.get("isFinal") in (True, 1, "true"):
        found.append(Terminal("audio_end", {name: value for name, value in raw.items() if name != "audio"}))
    return tuple(found) or (Other(raw),)


def parse_error(raw: dict[str, Any]) -> GatewayError:
    """Parse an error of upstream: with a text or a numeric code, in ``data`` or at the top level."""
    nested = raw.get("data")
    places = (nested, raw) if isinstance(nested, dict) else (raw,)
    status = next((s for place in places if (s := _numeric_status(place)) is not None), None)
    code = next((c for place in places if (c := _text_code(place)) is not None), None)
    message = next((m for place in places if (m := _error_text(place)) is not None), None)
    if code is not None:
        meant = STATUS_OF_CODE.get(code, status)
    else:
        code, meant = _CODE_OF_BARE_STATUS.get(status or 0, ErrorCode.PROVIDER_ERROR), status
    return GatewayError(
        code,
        message or code,
        status=meant,
        fatal=False,
        upstream={"status": status} if status is not None else None,
    )


def usable_confidence(raw: dict[str, Any]) -> float | None:
    """Return the confidence of a transcript: at the top level, otherwise in ``channel.alternatives[0]``.

    A missing, boolean, non-numeric or NaN confidence counts as none.
    """
    for place in (raw, _first_alternative(raw)):
        score = place.get("confidence")
        if _is_number(score):
            return float(score)
    return None


def _transcript(raw: dict[str, Any], *, final: bool) -> Transcript:
    alternative = _first_alternative(raw)
    text = raw.get("transcript")
    if not isinstance(text, str) or not text.strip():
        inner = alternative.get("transcript")
        text = inner if isinstance(inner, str) else (text if isinstance(text, str) else "")
    answers = raw.get("from_finalize")
    return Transcript(
        final=final,
        text=text,
        confidence=usable_confidence(raw),
        words=_words(raw.get("words") or alternative.get("words")),
        from_finalize=answers if isinstance(answers, bool) else None,
        raw={**raw, "transcript": text},
    )


def _deepgram_results(raw: dict[str, Any]) -> Transcript:
    """Turn one of Deepgram's ``Results``, passed through by the bridge, into the bridge's own message."""
    final = raw.get("is_final") is True
    alternative = _first_alternative(raw)
    frame: dict[str, Any] = {"type": "final_transcript" if final else "partial_transcript"}
    frame["transcript"] = alternative.get("transcript", "")
    for name in ("confidence", "words"):
        if name in alternative:
            frame[name] = alternative[name]
    for name in ("from_finalize", "language", "start", "duration"):
        if name in raw:
            frame[name] = raw[name]
    return _transcript(frame, final=final)


def _words(value: Any) -> tuple[TimedWord, ...]:
    if not isinstance(value, list):
        return ()
    words = []
    for item in value:
        if not isinstance(item, dict):
            return ()
        start, end = item.get("start"), item.get("end")
        if not _is_number(start) or not _is_number(end):
            return ()
        text = item.get("word", item.get("text", ""))
        words.append(TimedWord(text if isinstance(text, str) else "", float(start), float(end)))
    return tuple(words)


def _event(raw: dict[str, Any]) -> TtsMessage:
    data = raw.get("data")
    inner = data if isinstance(data, dict) else {}
    name = str(inner.get("event") or inner.get("event_type") or raw.get("event_type") or "").lower()
    if name in _EVENT_ENDS:
        return Terminal("audio_end", raw)
    if name in _EVENT_FAILS:
        return _failure(raw)
    return Other(raw)


def _failure(raw: dict[str, Any]) -> UpstreamError:
    error = parse_error(raw)
    return UpstreamError(error, error.code == ErrorCode.PROVIDER_ERROR and "not found" in error.message)


def _is_failure(kind: str, raw: dict[str, Any]) -> bool:
    return kind == "error" or (kind == "" and bool(raw.get("error")))


def _base64_audio(raw: dict[str, Any]) -> bytes | None:
    data = raw.get("data")
    encoded = raw.get("audio")
    if encoded is None:
        encoded = data.get("audio") if isinstance(data, dict) else data
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        raise GatewayError(
            ErrorCode.UNSUPPORTED_AUDIO_FORMAT, "Upstream sent audio that is not valid base64."
        ) from None


def _error_text(place: dict[str, Any]) -> str | None:
    for name in ("message", "description", "error"):
        value = place.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, dict) and (inner := _error_text(value)):
            return inner
    return None


def _text_code(place: dict[str, Any]) -> str | None:
    value = place.get("code")
    return value if isinstance(value, str) and value and not value.lstrip("-").isdigit() else None


def _numeric_status(place: dict[str, Any]) -> int | None:
    for name in ("status_code", "code", "err_code"):
        value = place.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:6])
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return value
    return None


def _first_alternative(raw: dict[str, Any]) -> dict[str, Any]:
    channel = raw.get("channel")
    alternatives = channel.get("alternatives") if isinstance(channel, dict) else None
    first = alternatives[0] if isinstance(alternatives, list) and alternatives else None
    return first if isinstance(first, dict) else {}


def _not_a_number(_name: str) -> None:
    """Read NaN and Infinity, which are not JSON, as null."""


def _finite(text: str) -> float | None:
    """Read a number that no float can hold, such as 1e999, as null."""
    value = float(text)
    return value if math.isfinite(value) else None


def _depth_exceeds(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def _too_deep() -> GatewayError:
    return GatewayError(
        ErrorCode.BAD_REQUEST, f"That message is nested more than {_MAX_DEPTH} levels deep.", fatal=False
    )


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _json_kind(value: object) -> str:
    match value:
        case list():
            return "a list"
        case str():
            return "a string"
        case bool() | None:
            return "true, false or null"
        case _:
            return "a number"


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
