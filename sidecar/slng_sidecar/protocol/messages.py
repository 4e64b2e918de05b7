"""The messages of SLNG's bridge, as they are spoken and as they mean.

Providers' own frames leak through the bridge on some routes, so one meaning has several spellings. ``parse_stt`` and
``parse_tts`` turn what upstream sends into the few meanings below; the spellings are those that the official clients
accept (LiveKit 1.8.9's parser, ``pipecat-slng`` 0.7.0). Types are compared without regard to case.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any, TypeGuard

from slng_sidecar.protocol.errors import STATUS_OF_CODE, GatewayError


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is open upstream."""

    raw: dict[str, Any]

    @property
    def session_id(self) -> str | None:
        return _text_or_none(self.raw.get("session_id"))

    @property
    def slng_request_id(self) -> str | None:
        return _text_or_none(self.raw.get("slng_request_id"))


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A recognised word; times are seconds of the upstream connection's audio."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """Recognised speech.

    Attributes:
        final: whether it will not change any more.
        text: what was said; may be empty.
        confidence: 0 to 1, where a usable number came.
        words: with times, where upstream gives them.
        from_finalize: what upstream says of it; None where it says nothing.
        raw: the bridge's message, ``transcript`` always filled.
    """

    final: bool
    text: str
    confidence: float | None
    words: tuple[TimedWord, ...]
    from_finalize: bool | None
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Audio:
    """Synthesised sound, in the encoding that ``init`` asked for."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Terminal:
    """A turn's end, or a segment's where it comes before the flush. ``form`` is upstream's type for it."""

    form: str
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The acknowledgement of a ``clear``."""

    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """Upstream reports an error; the connection may well go on."""

    error: GatewayError


@dataclass(frozen=True, slots=True)
class Other:
    """Anything else: passed on unchanged or ignored."""

    raw: dict[str, Any]


SttMessage = Ready | Transcript | UpstreamError | Other
TtsMessage = Ready | Audio | Terminal | Cleared | UpstreamError | Other

# What can be read must also be writable again, and Python's encoder gives up before its decoder does.
_MAX_DEPTH = 100
_EVENT_ENDS = frozenset({"complete", "completed", "done", "end", "final"})
_EVENT_FAILS = frozenset({"error", "failed"})
_CODE_OF_BARE_STATUS = {
    400: "config_error",
    401: "auth_error",
    403: "auth_error",
    408: "idle_timeout_exceeded",
    413: "payload_too_large",
    429: "rate_limit",
    500: "translation_error",
    503: "not_ready",
}


def dump(message: dict[str, Any]) -> str:
    """Encode a message for the wire."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, UTF-8 cannot
            return json.dumps(message, separators=(",", ":"))
    return text


def parse_object(text: str) -> dict[str, Any]:
    """Decode one JSON object.

    Raises:
        GatewayError: ``bad_request``, not fatal, saying what came instead.
    """
    try:
        value = json.loads(text, parse_constant=_not_a_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise GatewayError("bad_request", f"That text message is not JSON ({error.msg}).", fatal=False) from None
    except ValueError:
        raise GatewayError("bad_request", "That message holds a number of too many digits.", fatal=False) from None
    except RecursionError:
        raise _too_deep() from None
    if _depth_exceeds(value, _MAX_DEPTH):
        raise _too_deep()
    if not isinstance(value, dict):
        raise GatewayError(
            "bad_request", f"A message is a JSON object with a 'type', not {_json_kind(value)}.", fatal=False
        )
    return value


def type_of(message: dict[str, Any]) -> str:
    """Give a message's type in lower case; empty where it has none."""
    kind = message.get("type")
    return kind.lower() if isinstance(kind, str) else ""


def parse_stt(text: str) -> SttMessage:
    """Read a text message of the STT bridge.

    Raises:
        GatewayError: ``bad_request``, where it is no JSON object.
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
        return UpstreamError(parse_error(raw))
    return Other(raw)


def parse_tts(text: str) -> tuple[TtsMessage, ...]:
    """Read a text message of the TTS bridge; one can carry both sound and the end of the turn.

    Raises:
        GatewayError: ``bad_request``, where it is no JSON object, or its base64 sound is broken.
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
        return (UpstreamError(parse_error(raw)),)
    found: list[TtsMessage] = []
    if kind in ("", "audio", "chunk", "audio_chunk") and (sound := _base64_sound(raw)) is not None:
        found.append(Audio(sound))
    if kind == "" and raw.get("isFinal") in (True, 1, "true"):
        found.append(Terminal("audio_end", {name: value for name, value in raw.items() if name != "audio"}))
    return tuple(found) or (Other(raw),)


def parse_error(raw: dict[str, Any]) -> GatewayError:
    """Read an error of upstream's in any of its shapes: ``data`` first, then the top level; text or numeric codes."""
    nested = raw.get("data")
    places = (nested, raw) if isinstance(nested, dict) else (raw,)
    status = next((s for place in places if (s := _numeric_status(place)) is not None), None)
    code = next((c for place in places if (c := _text_code(place)) is not None), None)
    message = next((m for place in places if (m := _error_text(place)) is not None), None)
    if code is not None:
        told = STATUS_OF_CODE.get(code, status)
    else:
        code, told = _CODE_OF_BARE_STATUS.get(status or 0, "provider_error"), status
    return GatewayError(
        code,
        message or code,
        status=told,
        fatal=False,
        upstream={"status": status} if status is not None else None,
    )


def usable_confidence(raw: dict[str, Any]) -> float | None:
    """Give the score of a transcript: at the top level, else in ``channel.alternatives[0]``.

    A missing, boolean, non-numeric or NaN score is no score.
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
    """Turn a passed-through ``Results`` into the bridge's own message."""
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
        return UpstreamError(parse_error(raw))
    return Other(raw)


def _is_failure(kind: str, raw: dict[str, Any]) -> bool:
    return kind == "error" or (kind == "" and bool(raw.get("error")))


def _base64_sound(raw: dict[str, Any]) -> bytes | None:
    data = raw.get("data")
    encoded = raw.get("audio")
    if encoded is None:
        encoded = data.get("audio") if isinstance(data, dict) else data
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:  # binascii.Error is one, and so is what is not ASCII
        raise GatewayError("unsupported_audio_format", "Upstream sent sound that is not valid base64.") from None


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
    """NaN and Infinity are not JSON, and no reader of ours should be handed them."""


def _finite(text: str) -> float | None:
    """1e999 is JSON, but no float; like NaN it counts as not given."""
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
    return GatewayError("bad_request", f"That message is nested more than {_MAX_DEPTH} deep.", fatal=False)


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
