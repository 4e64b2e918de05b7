"""Route profiles: what is recorded of the live routes, and a switch wherever that is unknown or disputed.

The facts come from SLNG's own clients (``pipecat-slng`` 0.5.0 to 0.7.0 with their changelogs, ``livekit-plugins-slng``
up to 1.8.9) and from notes of third parties on the live service. "Unknown" marks what nobody has recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args, get_type_hints

Terminal = Literal["audio_end", "flushed", "both", "flushed_first", "twice", "none", "done", "event", "is_final"]
AudioForm = Literal["binary", "audio_chunk", "Audio", "chunk", "data.audio", "typeless"]
ErrorShape = Literal["data", "top", "status_int", "status_str", "message", "capitalised", "typeless", "data_text"]


class BadProfile(ValueError):
    """Raised for an unknown field or a value that it cannot have. The text names what is possible."""


@dataclass(frozen=True, slots=True)
class RouteProfile:
    """The behaviour of one connection. Times are milliseconds, or seconds if the name ends in ``_s``. 0 is at once."""

    # Both kinds
    upgrade_ms: float = 0
    """The time from the request to the 101."""
    ready_ms: float = 0
    """The time from ``init`` to ``ready``."""
    ready: Literal["once", "twice", "never", "silent", "error"] = "once"
    """What answers ``init``. ``never``: nothing, and the session never works; ``silent``: nothing, but it works;
    ``error``: a ``backend_connection_failed`` instead of ``ready``."""
    error_shape: ErrorShape = "data"
    """Where an error carries its code and message."""
    error_closes: bool = False
    """Whether an error is followed by close 1011 (unknown for most codes)."""
    type_case: Literal["lower", "upper", "title"] = "lower"
    """The spelling of every message's type."""
    idle_s: float = 0
    """Seconds without a text or binary frame from the client until it is closed. Pings do not count. 0 is never."""
    idle_code: int = 1008
    """The close code of the idle timeout (1008, 1011 and 1012 were seen). No error message is sent."""
    idle_reason: str = "idle timeout"
    """The close reason of the idle timeout."""
    max_s: float = 0
    """Seconds until a connection is closed, even in the middle of a reply. 0 is never."""
    max_code: int = 1011
    """The close code at the longest duration. No error message is sent."""
    max_reason: str = "max connection duration"
    """The close reason at the longest duration."""
    over_limit: Literal["429", "rate_limit"] = "429"
    """How a connection over the limit is refused: at the upgrade, or by an error instead of ``ready`` (unknown)."""
    close_answer: Literal["close", "ignore"] = "close"
    """Whether the client's ``close`` is answered."""
    close_code: int = 1000
    """The close code that answers the client's ``close`` (unknown)."""

    # TTS
    first_audio_ms: float = 0
    """The time from a turn's first text to its first audio."""
    pace: float = 0
    """How many times faster than real time audio is sent; 0 is all at once."""
    chunk_ms: float = 100
    """How much audio one message has."""
    audio_form: AudioForm = "binary"
    """Audio as binary frames, or as base64 in one of the five places where clients look."""
    zero_length: bool = False
    """Whether an empty binary frame precedes a turn's audio."""
    segments: bool = False
    """Whether ``segment_start`` and ``segment_end`` enclose the audio of each text."""
    segment_terminal: bool = False
    """Whether each text ends with the route's terminal, even before the turn's flush."""
    silent: bool = False
    """Whether turns have a terminal but no audio (Cartesia, one afternoon)."""
    terminal: Terminal = "audio_end"
    """What ends a turn: one message, both in either order, one twice, none, or a provider's own."""
    terminal_ms: float = 0
    """The time from the last audio to the terminal."""
    stray_terminal_ms: float = 0
    """The time from the terminal to a second one; 0 for no second one."""
    after_turn: Literal["open", "close", "spent"] = "open"
    """What follows a turn. ``close``: close 1000 (Rime); ``spent``: a session that accepts no second turn (Soniox)."""
    after_turn_ms: float = 20
    """The time from the terminal to that close (Rime: about 20)."""
    spent_ms: float = 44
    """The time from a text for a spent session to its error (Soniox: 44)."""
    flush: Literal["standalone", "inline", "both"] = "both"
    """What ends a turn: a ``flush`` message, ``"flush": true`` in a text, or either (disputed)."""
    empty_flush: Literal["terminal", "ignore", "error"] = "ignore"
    """The answer to a flush without text (unknown)."""
    letterless: Literal["speak", "refuse", "hang"] = "speak"
    """The answer to a text without a letter or digit: no audio, an error (Sarvam), or a turn that never ends."""
    clear_ms: float = 0
    """The time from ``clear`` to its answer (300 to 500 recorded)."""
    clear_answer: Literal["cleared", "audio_end", "none"] = "cleared"
    """What answers ``clear``."""
    clear_drains: bool = True
    """Whether audio that exists already is sent until ``cleared``, as recorded."""
    late_audio_ms: float = 0
    """How much cleared audio still comes after ``cleared``; 0 for none (some routes send some)."""
    clear_spends: bool = False
    """Whether an interruption consumes the session (Soniox)."""
    binary: Literal["ignore", "error", "close"] = "ignore"
    """The answer to a binary frame from a TTS client (unknown)."""
    expiry_s: float = 0
    """Seconds without output until an error with only a message comes (Gradium: 120). 0 is never."""
    default_encoding: str = "linear16"
    """The encoding if ``init`` names none. Some models send MP3, which the simulator cannot encode."""
    partial_text: bool = False
    """Whether ``ready`` has ``accepts_partial_text``."""

    # STT
    partials: bool = True
    """Whether partials come when ``enable_partials`` asks for them."""
    partial_every_ms: float = 200
    """How much audio lies between two partials."""
    final_ms: float = 0
    """The time from a finalize, or an endpoint, to its final."""
    endpoint_ms: float = 300
    """The silence that ends an utterance; 0 leaves that to ``finalize`` and ``close``."""
    finalize_answer: Literal["final", "empty", "none"] = "final"
    """The answer to a finalize. ``empty``: an empty final, and the words with the next one; ``none``: nothing."""
    empty_finalize: Literal["empty", "ignore"] = "empty"
    """The answer to a finalize without speech since the last one: an empty final, or nothing (unknown)."""
    finals: int = 1
    """The most finals that one utterance is split into (Gradium: nine)."""
    stray_final: str = ""
    """The text of a final that follows a finalize at once, before the answer."""
    words: bool = True
    """Whether finals have word times."""
    confidence: float | None = 0.95
    """The confidence of transcripts; null leaves it out. A recognizer's own confidence replaces it."""
    from_finalize: bool = False
    """Whether finals have ``from_finalize``, true or false."""
    results: bool = False
    """Whether Deepgram's own ``Results``, ``SpeechStarted`` and ``Metadata`` replace the bridge's messages."""
    utterance_end: bool = False
    """Whether ``utterance_end`` follows an utterance's last final (models with a token stream, such as Soniox)."""
    numerals: bool = False
    """Whether "ten" is written "10" (Sarvam)."""
    languages: str = ""
    """The languages of a strict route, such as ``en,hi``. Another language is closed with 1008. Empty accepts all."""
    bad_encoding: Literal["error", "close"] = "error"
    """The answer to an encoding other than linear16, mp3 and opus."""

    # HTTP speech
    http_format: Literal["wav", "wav_exact", "pcm", "mp3", "ogg"] = "wav"
    """``wav`` has the streaming sizes 2147418148 and 2147418112, ``wav_exact`` true ones. mp3 and ogg are silence."""
    http_type: str = ""
    """The Content-Type; empty for the usual one."""
    http_rate: int = 24_000
    """The sample rate of HTTP speech."""
    truncate_bytes: int = 0
    """Bytes after which a body ends as if it were whole; 0 is never."""
    break_bytes: int = 0
    """Bytes after which the connection is dropped in the middle of a body; 0 is never."""


REALISTIC: dict[str, Any] = {
    "upgrade_ms": 600,
    "ready_ms": 100,
    "first_audio_ms": 250,
    "pace": 4,
    "clear_ms": 400,
    "final_ms": 200,
    "idle_s": 180,
    "max_s": 1800,
}
"""The latencies of a live gateway: the middle of what was recorded. SLNG's idle timeout is unknown, but longer than the
150 s that ``pipecat-slng`` 0.7.0 may leave between two messages."""

FAST: dict[str, Any] = {"partial_every_ms": 100, "chunk_ms": 40}
"""No latency, for tests."""

# The first entry that matches the route, without a leading "slng/", applies.
_ROUTES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("tts", "deepgram/aura:*", {}),
    ("tts", "gradium/tts:*", {"expiry_s": 120}),
    ("tts", "cartesia/sonic:*", {}),
    ("tts", "rime/*", {"after_turn": "close"}),
    ("tts", "soniox/tts-rt:*", {"after_turn": "spent", "clear_spends": True}),
    ("tts", "sarvam/bulbul:*", {"letterless": "refuse"}),
    ("tts", "elevenlabs/*", {"terminal": "is_final"}),
    ("tts", "fish/tts:*", {}),
    ("tts", "kugelaudio/*", {}),
    ("tts", "murf/*", {}),
    ("tts", "inworld/*", {}),
    ("tts", "canopylabs/*", {}),
    ("stt", "deepgram/nova:3-en", {"final_ms": 400}),
    ("stt", "deepgram/nova:*", {}),
    ("stt", "soniox/speech-ai:*", {"utterance_end": True}),
    ("stt", "gradium/stt:*", {"partials": False, "finals": 9, "final_ms": 400}),
    ("stt", "sarvam/saaras:*", {"partials": False, "numerals": True, "confidence": None}),
    ("stt", "speechmatics/*", {}),
    ("stt", "reson8/*", {}),
    ("stt", "openai/whisper:*", {"partials": False}),
    ("stt", "amazon/*", {}),
    ("stt", "fish/asr:*", {"partials": False}),
    ("*", "simulator/*", {}),
)
_LATENCIES = frozenset(REALISTIC)

# In the catalogue without a deployment: 502 at the upgrade (recorded in August 2026).
UNDEPLOYED = frozenset({"slng/deepgram/nova:3-multi", "slng/deepgram/nova:3-es"})


def route_profile(kind: str, model: str) -> Mapping[str, Any] | None:
    """Return the fields of a route's own profile; None for an unknown route."""
    name = model.removeprefix("slng/")
    return next((own for k, glob, own in _ROUTES if k in (kind, "*") and fnmatchcase(name, glob)), None)


def profile_of(kind: str, model: str, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> RouteProfile:
    """Return the profile of a connection: ``base``, overridden by its route's own fields, overridden by ``overrides``.

    A route's own latency applies only if ``base`` has that latency, so that tests can have none.
    """
    own = dict(route_profile(kind, model) or {})
    for name in _LATENCIES & own.keys():
        if name not in base:
            del own[name]
    return RouteProfile(**{**base, **own, **overrides})


def check_profile(fields: object) -> dict[str, Any]:
    """Check fields of ``RouteProfile`` that came from outside, and return them.

    Raises:
        BadProfile: a field does not exist, or cannot have its value.
    """
    if not isinstance(fields, Mapping):
        raise BadProfile('a profile is an object of fields, such as {"terminal": "flushed"}')
    hints = get_type_hints(RouteProfile)
    checked: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in hints:
            raise BadProfile(f"a profile has no field {name!r}; its fields are {', '.join(sorted(hints))}")
        checked[name] = _check(name, value, hints[name])
    return checked


def parse_profile(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse fields of ``RouteProfile`` written as ``name=value``. A value is JSON, or plain text.

    Raises:
        BadProfile: an assignment has another form, or its field does not exist or cannot have the value.
    """
    fields: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise BadProfile(f"a profile field is set with name=value, not {assignment!r}")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return check_profile(fields)


def _check(name: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match hint:
        case _ if hint is bool:
            good, wanted = isinstance(value, bool), "true or false"
        case _ if hint is int:
            good, wanted = number and value == int(value) and value >= 0, "a whole number of 0 or more"
        case _ if hint is float:
            good, wanted = number and 0 <= value < 1e9, "a number of 0 or more"
        case _ if hint is str:
            good, wanted = isinstance(value, str), "a text"
        case _ if type(None) in choices:
            good, wanted = value is None or (number and 0 <= value <= 1), "a number of 0 to 1, or null"
        case _:
            good, wanted = value in choices, "one of " + ", ".join(map(str, choices))
    if not good:
        raise BadProfile(f"{name} takes {wanted}, not {value!r}")
    return value
