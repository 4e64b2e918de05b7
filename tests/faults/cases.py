"""What can go wrong: SLNG's thirty peculiarities, and the faults of networks and servers that affect any connection."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

FACTOR = float(os.environ.get("MATRIX_FACTOR", "1"))
"""The factor by which all deadlines are extended on a slow machine."""
MOMENTS = (
    "dialling",
    "before ready",
    "mid utterance",
    "after flush or finalize",
    "during an update",
    "during a clear",
    "during drain",
)
BOTH = ("stt", "tts")
_OWN = ("ends", "silent", "may_fail", "unreported", "apart", "between", "pause", "not_at")
DIAL, STREAM, PROFILE, READY = "dial", "stream", "profile", "ready"
_HAPPENS: dict[str, dict[str, str]] = {
    # The moments at which each kind of fault cannot occur, and why.
    DIAL: dict.fromkeys(
        ("before ready", "mid utterance", "after flush or finalize", "during a clear", "during drain"),
        "it happens only while a connection opens",
    ),
    STREAM: {"dialling": "there is no WebSocket connection yet"},
    PROFILE: dict.fromkeys(("dialling", "before ready"), "it shows only after ready"),
    READY: dict.fromkeys(
        ("dialling", "mid utterance", "after flush or finalize", "during a clear", "during drain"),
        "it happens only before ready",
    ),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A fault, and what it may cause.

    Attributes:
        number: in the list of the thirty; ``+`` for its further switches, ``tcp`` for faults of the network.
        happens: to a dial, to an open connection, to an opening session, or during the whole life of a connection.
        ends: the codes with which it may end the session because a retry cannot help; empty if the session must
            continue.
        silent: whether upstream may send no transcript for audio that it received.
        unreported: whether words may be missing without a report; docs/explain/guarantees.md lists what cannot be
            promised.
        may_fail: whether a context may fail although none of its audio was delivered.
        apart: whether a context has two texts and is flushed only after both were spoken.
        between: the text of a separate context, which alone may fail.
        pause: seconds in the middle in which the client sends nothing and its connections must stay open.
        not_at: further moments at which it cannot occur, and why, in addition to those of ``happens``.
    """

    number: str
    name: str
    kinds: tuple[str, ...]
    happens: str
    fault: dict[str, Any]
    ends: tuple[str, ...] = ()
    silent: bool = False
    may_fail: bool = False
    unreported: bool = False
    apart: bool = False
    between: str = ""
    pause: float = 0
    not_at: dict[str, str] = field(default_factory=dict)

    def reason_not_at(self, moment: str, kind: str) -> str | None:
        """Return why the fault cannot occur at a moment, or None if it can."""
        if kind not in self.kinds:
            return f"it is of {' and '.join(self.kinds).upper()} only"
        if moment == "during a clear" and kind == "stt":
            return "STT has no clear"
        return self.not_at.get(moment) or _HAPPENS[self.happens].get(moment)


def _dial(number: str, name: str, ends: tuple[str, ...] = (), **fault: Any) -> Case:
    return Case(number, name, BOTH, DIAL, {"when": "upgrade", **fault}, ends)


def _stream(number: str, name: str, kinds: tuple[str, ...] = BOTH, **fields: Any) -> Case:
    own = {field: fields.pop(field) for field in _OWN if field in fields}
    return Case(number, name, kinds, STREAM, fields, **own)


def _profile(number: str, name: str, kind: str, **profile: Any) -> Case:
    own = {field: profile.pop(field) for field in _OWN if field in profile}
    return Case(number, name, (kind,), PROFILE, {"do": "profile", "when": "upgrade", "times": 0, "set": profile}, **own)


def _ready(number: str, name: str, ends: tuple[str, ...] = (), **profile: Any) -> Case:
    return Case(number, name, BOTH, READY, {"do": "profile", "when": "upgrade", "set": profile}, ends)


def _tcp(name: str, **fields: Any) -> Case:
    return _stream("tcp", name, do="tcp", **fields)


# Longer than every deadline in the settings of the matrix.
TOO_LATE = round(2500 * FACTOR)
BYOK = "BYOK is only supported for external STT/TTS routes"
AT_A_TEXT = dict.fromkeys(("before ready", "mid utterance", "during a clear", "during drain"), "it happens at a text")
AT_CLOSE = dict.fromkeys(
    ("before ready", "mid utterance", "after flush or finalize", "during drain"),
    "a close is sent only at an update or at the end",
)

CASES = (
    _dial("1", "401 at the upgrade", ("auth_error",), do="refuse", status=401, body={"error": "Unauthorized"}),
    _dial("2", "400 for a provider key on slng/", ("config_error",), do="refuse", status=400, body={"error": BYOK}),
    _ready("3", "backend_connection_failed instead of ready", ("backend_connection_failed",), ready="error"),
    _dial("4", "404, unknown model", ("config_error",), do="refuse", status=404, body={"error": "no such model"}),
    _dial("4", "502, model not deployed", ("backend_connection_failed",), do="refuse", status=502, body={"error": ""}),
    _stream("9", "close 1008: the language is not supported", ("stt",), do="close", code=1008, reason="language"),
    _profile("10", "no partials", "stt", partials=False),
    _profile("11", "a final 400 ms after its finalize", "stt", final_ms=400),
    # The sidecar may take it for the last answer, and the end of the session does not wait for another one.
    _profile("11", "another final before the answer", "stt", stray_final="frag:0", silent=True, unreported=True),
    _profile("11", "an empty final first", "stt", finalize_answer="empty"),
    _profile("11", "no answer to a finalize", "stt", finalize_answer="none", silent=True),
    _profile("12", "nine finals for a sentence", "stt", finals=9),
    _profile("13", "Deepgram's Results instead of the bridge's", "stt", results=True, from_finalize=True),
    _profile("14", "utterance_end", "stt", utterance_end=True),
    _stream("15", "dropped at once on close", ("stt",), do="drop", when="close",
            not_at=AT_CLOSE),
    *(_profile("17", f"terminal: {terminal}", "tts", terminal=terminal)
      for terminal in ("flushed", "both", "flushed_first", "twice", "done", "event", "is_final")),
    _profile("17", "a terminal before the flush", "tts", segment_terminal=True, apart=True),
    _profile("17", "no terminal", "tts", terminal="none", may_fail=True),
    _profile("18", "a stray terminal after 60 ms", "tts", stray_terminal_ms=60),
    _profile("19", "close 1000 after each turn", "tts", after_turn="close"),
    _stream("19", "close 1011 before the audio", ("tts",), do="close", code=1011, when="text",
            not_at=AT_A_TEXT),
    _profile("20", "a session that takes one turn", "tts", after_turn="spent", clear_spends=True),
    _stream("21", "an error with a message only", do="error", message="expired", shape="message", may_fail=True),
    _profile("22", "cleared after 400 ms, audio after it", "tts", clear_ms=400, late_audio_ms=100),
    _profile("22", "no cleared", "tts", clear_answer="none"),
    _profile("22", "a terminal instead of cleared", "tts", clear_answer="audio_end"),
    *(_stream("24", f"close {code}", do="close", code=code) for code in (1001, 1011, 1012, 1013)),
    _stream("+", "close 1009, a message larger than upstream takes", do="close", code=1009),
    _stream("24", "close 1008", do="close", code=1008, reason="max connection duration"),
    *(_profile("24", "an idle timer that counts messages only", kind, idle_s=FACTOR, pause=1.6 * FACTOR)
      for kind in BOTH),
    *(_stream("25", f"an error in shape {shape}", do="error", code="backend_error", message="failed", shape=shape)
      for shape in ("data", "top", "status_int", "status_str", "capitalised", "typeless", "data_text")),
    *(_profile("26", f"audio as base64: {form}", "tts", audio_form=form)
      for form in ("audio_chunk", "Audio", "chunk", "data.audio", "typeless")),
    _dial("27", "429, too many connections", ("rate_limit",), do="refuse", status=429, body={"error": "busy"}),
    _stream("27", "rate_limit", do="error", code="rate_limit", message="busy", then_close=1013),
    # Like ``over_limit``, but without a limit that would apply to all cells.
    Case("27", "rate_limit instead of ready", BOTH, READY,
         {"do": "error", "when": "init", "code": "rate_limit", "message": "busy"}, ("rate_limit",)),
    _ready("28", "ready after 600 ms", ready_ms=600),
    _ready("28", "upgrade after 600 ms", upgrade_ms=600),
    _profile("28", "late first audio, then 4 times real time", "tts", first_audio_ms=400, pace=4),
    _ready("28", "ready after the deadline", ("upstream_timeout",), ready_ms=TOO_LATE),
    _ready("28", "upgrade after the deadline", ("upstream_timeout",), upgrade_ms=TOO_LATE),
    _profile("28", "the first audio after the deadline", "tts", first_audio_ms=TOO_LATE, may_fail=True),
    _profile("28", "the terminal after the deadline", "tts", terminal_ms=TOO_LATE),
    # So late that the first half's words come before the end of the session and the second half's after it.
    _profile("28", "a final after its finalize's deadline", "stt", final_ms=TOO_LATE, silent=True, pause=1.6 * FACTOR),
    _profile("29", "a text without a letter: no audio", "tts", letterless="speak", between="…"),
    _profile("29", "a text without a letter: refused", "tts", letterless="refuse", between="…", may_fail=True),
    _profile("29", "a text without a letter: never ends", "tts", letterless="hang", between="…", may_fail=True),
    _profile("29", "an error for a flush without a text", "tts", empty_flush="error"),
    _dial("+", "503 at the upgrade", ("not_ready",), do="refuse", status=503, body={"error": "busy"}),
    _dial("+", "the upgrade is never answered", ("upstream_timeout",), do="hang"),
    _dial("+", "dropped at the upgrade", ("upstream_unreachable", "upstream_closed"), do="drop"),
    _ready("+", "ready never comes", ("upstream_timeout",), ready="never"),
    _stream("+", "dropped without a close frame", do="drop"),
    _stream("+", "a message larger than the sidecar accepts", do="oversized", bytes=2 << 20),
    _stream("+", "an error without a close", do="error", code="provider_error", message="failed", may_fail=True),
    _stream("+", "pronunciation_not_found", ("tts",), do="error", code="pronunciation_not_found", may_fail=True),
    _stream("+", "backpressure", do="error", code="backpressure", message="slow down", may_fail=True),
    _stream("+", "a message that is not JSON", do="send", message="not json {"),
    _stream("+", "a message of an unknown type", do="send", message={"type": "Warning", "description": "odd"}),
    # Upstream closes cleanly when asked to close, which means that nothing was left.
    _stream("+", "upstream sends nothing more", do="mute", silent=True, may_fail=True, unreported=True),
    _stream("+", "upstream reads nothing more", do="stop_reading", silent=True, may_fail=True),
    _stream("+", "sending stalls for 300 ms", do="stall", ms=300),
    _tcp("reset", then="reset"),
    _tcp("half close", then="half_close"),
    _tcp("nothing reaches the sidecar", then="stop_writing", silent=True, may_fail=True),
    _tcp("nothing is accepted from the sidecar", then="stop_reading", silent=True, may_fail=True),
    _tcp("100 ms later", latency_ms=100),
    _tcp("100 kB/s", bytes_per_s=100_000),
    _tcp("slices of 100 bytes", slice_bytes=100),
)  # fmt: skip

ELSEWHERE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("5", "405 for HTTP speech on a regional gateway", ("test_a_regional_gateway_is_used_over_websockets",)),
    ("6", "this is no fault of upstream; every cell here sends audio or text before ready", ()),
    ("7", "the sidecar never sends it, and tells clients that do", ("test_audio_as_base64_is_refused_by_name",)),
    ("8", "settings that upstream does not accept cause an error or a close before ready, as in 3, 24 and 25", ()),
    ("12", "words that change: a numbered word has one spelling, and the sidecar passes on what upstream writes",
     ("test_words_that_upstream_writes_as_a_number_are_delivered_as_a_number",)),
    ("16", "this is no fault of upstream; every cell here sends texts before ready", ()),
    ("17", "a terminal without audio for a text that should have some ends the turn; over HTTP it is an error",
     ("test_a_turn_without_audio_still_ends", "test_a_turn_without_audio_is_an_error_and_no_empty_file")),
    ("23", "this is no fault of upstream; in the cells of a clear the next text follows at once", ()),
    ("24", "pings: it is the simulator's part not to count them",
     ("test_pings_do_not_put_off_the_idle_close_and_keepalives_do",)),
    ("27", "a limit that leaves a session only its own connection",
     ("test_stt_settings_change_if_upstream_has_no_second_slot",
      "test_a_voice_changes_if_upstream_has_no_second_slot")),
    ("30", "sizes of 2 GB, fields that are refused, and other statuses; a file always uses the WebSocket bridge",
     ("test_text_and_voice_go_over_the_bridge_and_its_reply_is_decoded",
      "test_settings_that_the_bridge_lacks_go_over_websockets_or_are_refused_by_name",
      "test_refusals_keep_their_status_and_are_not_retried_over_websockets")),
    ("+", "permessage-deflate declined: the sidecar never offers it, as the headers show",
     ("test_the_upgrade_upstream_has_the_sidecar_s_key_and_never_the_client_s",)),
)  # fmt: skip
"""Cases of the thirty without a cell, in whole or in part: the reason, and the tests that cover them."""


def elsewhere() -> list[str]:
    """Return ``ELSEWHERE`` as lines of the page."""
    return [
        f"* {number}: {why}" + (": " + ", ".join(f"`{test}`" for test in tests) if tests else "")
        for number, why, tests in ELSEWHERE
    ]
