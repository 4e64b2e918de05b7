"""How each route behaves: what is recorded of the live routes, and a switch wherever that is unknown or disputed.

What a route is known for comes from the recordings of SLNG's own clients: ``pipecat-slng`` 0.5.0 to 0.7.0 and their
changelogs, ``livekit-plugins-slng`` up to 1.8.9, and notes of third parties on the live service. A field's comment says
"unknown" where nobody recorded what SLNG does.
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
    """Raised for a field that does not exist or a value it cannot have; the text names what there is."""


@dataclass(frozen=True, slots=True)
class RouteProfile:
    """The behaviour of one connection. Times are milliseconds unless the name ends in ``_s``; 0 is at once."""

    # Both kinds
    upgrade_ms: float = 0
    """From the request to the 101."""
    ready_ms: float = 0
    """From ``init`` to ``ready``."""
    ready: Literal["once", "twice", "never", "silent", "error"] = "once"
    """What answers ``init``. ``never``: nothing, and the session never works; ``silent``: nothing, but it works;
    ``error``: a ``backend_connection_failed`` in ``ready``'s place."""
    error_shape: ErrorShape = "data"
    """Where an error's code and message stand."""
    error_closes: bool = False
    """Whether an error is followed by close 1011 (unknown for most codes)."""
    type_case: Literal["lower", "upper", "title"] = "lower"
    """How every message's type is spelt."""
    idle_s: float = 0
    """Seconds without a text or binary frame from the client until it is closed; pings do not count. 0 is never."""
    idle_code: int = 1008
    """The close code of that: 1008, 1011 or 1012 were seen; there is no error message."""
    idle_reason: str = "idle timeout"
    """The close reason of that."""
    max_s: float = 0
    """Seconds until a connection is closed, even in the middle of a reply. 0 is never."""
    max_code: int = 1011
    """The close code of that; there is no error message."""
    max_reason: str = "max connection duration"
    """The close reason of that."""
    over_limit: Literal["429", "rate_limit"] = "429"
    """How one connection too many is refused: at the upgrade, or by an error in ``ready``'s place (unknown)."""
    close_answer: Literal["close", "ignore"] = "close"
    """Whether the client's ``close`` is answered."""
    close_code: int = 1000
    """The close code that answers the client's ``close`` (unknown)."""

    # TTS
    first_audio_ms: float = 0
    """From a turn's first text to its first sound."""
    pace: float = 0
    """How many times faster than real time sound is sent; 0 is all at once."""
    chunk_ms: float = 100
    """How much sound is in one message."""
    audio_form: AudioForm = "binary"
    """Sound as binary frames, or as base64 in one of the five places where clients look."""
    zero_length: bool = False
    """Whether an empty binary frame goes before a turn's sound."""
    segments: bool = False
    """Whether ``segment_start`` and ``segment_end`` stand around the sound of each text."""
    segment_terminal: bool = False
    """Whether each text ends with the route's terminal, before the turn's flush already."""
    silent: bool = False
    """Whether turns have a terminal but no sound (Cartesia, one afternoon)."""
    terminal: Terminal = "audio_end"
    """What ends a turn: one message, both in either order, one twice, none, or a provider's own."""
    terminal_ms: float = 0
    """From the last sound to the terminal."""
    stray_terminal_ms: float = 0
    """A second terminal, so long after the first; 0 is none."""
    after_turn: Literal["open", "close", "spent"] = "open"
    """``close`` is Rime's close 1000 after each terminal; ``spent`` is Soniox's session that takes no second turn."""
    after_turn_ms: float = 20
    """From the terminal to that close (Rime: about 20)."""
    spent_ms: float = 44
    """From a text for a spent session to its error (Soniox: 44)."""
    flush: Literal["standalone", "inline", "both"] = "both"
    """What ends a turn: a ``flush`` message, ``"flush": true`` in a text, or either (disputed)."""
    empty_flush: Literal["terminal", "ignore", "error"] = "ignore"
    """What a flush without a text before it draws (unknown)."""
    letterless: Literal["speak", "refuse", "hang"] = "speak"
    """What a text without a letter or digit draws: nothing to hear, an error (Sarvam), or a turn that never ends."""
    clear_ms: float = 0
    """From ``clear`` to its answer (300 to 500 recorded)."""
    clear_answer: Literal["cleared", "audio_end", "none"] = "cleared"
    """What answers ``clear``."""
    clear_drains: bool = True
    """Whether sound already made goes on until ``cleared``, as recorded."""
    late_audio_ms: float = 0
    """How much of the cleared sound still comes after ``cleared``; 0 is none (some routes: some)."""
    clear_spends: bool = False
    """Whether an interruption consumes the session (Soniox)."""
    binary: Literal["ignore", "error", "close"] = "ignore"
    """What a binary frame from a TTS client draws (unknown)."""
    expiry_s: float = 0
    """Seconds without output after which an error with only a message comes (Gradium: 120). 0 is never."""
    default_encoding: str = "linear16"
    """What is sent where ``init`` names no encoding; some models give mp3, which the simulator cannot make."""
    partial_text: bool = False
    """Whether ``ready`` says ``accepts_partial_text``."""

    # STT
    partials: bool = True
    """Whether partials come when ``enable_partials`` asks for them."""
    partial_every_ms: float = 200
    """How much audio lies between two partials."""
    final_ms: float = 0
    """From a finalize, or an endpoint, to its final."""
    endpoint_ms: float = 300
    """The silence that ends an utterance; 0 leaves that to ``finalize`` and ``close``."""
    finalize_answer: Literal["final", "empty", "none"] = "final"
    """``empty`` gives an empty final first, and what was heard with the next one; ``none`` answers nothing."""
    empty_finalize: Literal["empty", "ignore"] = "empty"
    """What a finalize with nothing heard since the last one draws: an empty final, or nothing (unknown)."""
    finals: int = 1
    """How many finals one utterance is split into at most (Gradium: nine)."""
    stray_final: str = ""
    """A final that comes at once on a finalize, before its answer."""
    words: bool = True
    """Whether finals have word times."""
    confidence: float | None = 0.95
    """The score of what is heard; null leaves it out. A recogniser's own score takes its place where there is one."""
    from_finalize: bool = False
    """Whether finals say ``from_finalize``, true or false."""
    results: bool = False
    """Whether Deepgram's own ``Results``, ``SpeechStarted`` and ``Metadata`` come in place of the bridge's messages."""
    utterance_end: bool = False
    """Whether ``utterance_end`` follows an utterance's last final (models with a token stream, such as Soniox)."""
    numerals: bool = False
    """Whether "ten" comes as "10" (Sarvam)."""
    languages: str = ""
    """What a strict route takes, such as ``en,hi``; another language closes with 1008. Empty takes all."""
    bad_encoding: Literal["error", "close"] = "error"
    """What an encoding other than linear16, mp3 and opus draws."""

    # HTTP speech
    http_format: Literal["wav", "wav_exact", "pcm", "mp3", "ogg"] = "wav"
    """``wav`` has the streaming sizes 2147418148 and 2147418112, ``wav_exact`` true ones. mp3 and ogg are silence."""
    http_type: str = ""
    """The Content-Type in place of the usual one."""
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
"""The latencies of a live gateway: the middle of what was recorded. How long SLNG lets a connection idle is unknown; it
is longer than the 150 s that ``pipecat-slng`` 0.7.0 may leave between two messages."""

FAST: dict[str, Any] = {"partial_every_ms": 100, "chunk_ms": 40}
"""Everything at once, for tests."""

# The first that matches the route, without a leading "slng/", counts.
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
    """Give what is particular to a route; None where no such route is known."""
    name = model.removeprefix("slng/")
    return next((own for k, glob, own in _ROUTES if k in (kind, "*") and fnmatchcase(name, glob)), None)


def profile_of(kind: str, model: str, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> RouteProfile:
    """Put together how a connection behaves: ``base``, then what is particular to its route, then ``overrides``.

    A latency of the route counts only where ``base`` has latencies at all, so that tests can have none.
    """
    own = dict(route_profile(kind, model) or {})
    for name in _LATENCIES & own.keys():
        if name not in base:
            del own[name]
    return RouteProfile(**{**base, **own, **overrides})


def check_profile(fields: object) -> dict[str, Any]:
    """Return fields of ``RouteProfile`` that came from outside.

    Raises:
        BadManners: one does not exist, or cannot have that value.
    """
    if not isinstance(fields, Mapping):
        raise BadProfile('manners are an object of fields, such as {"terminal": "flushed"}')
    hints = get_type_hints(RouteProfile)
    checked: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in hints:
            raise BadProfile(f"there is no manner {name!r}; there are {', '.join(sorted(hints))}")
        checked[name] = _check(name, value, hints[name])
    return checked


def parse_profile(assignments: Iterable[str]) -> dict[str, Any]:
    """Read fields of ``RouteProfile`` written as ``name=value``; a value is JSON, or a text as it stands.

    Raises:
        BadManners: one is not of that form, does not exist, or cannot have that value.
    """
    fields: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise BadProfile(f"a manner is set by name=value, not {assignment!r}")
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
