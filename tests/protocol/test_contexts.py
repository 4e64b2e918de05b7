from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from conversation import (
    READY,
    Conversation,
    Said,
    dial,
    down,
    fatal,
    goodbye,
    hung_up,
    odd_client_messages,
    odd_upstream_messages,
    refusal,
    retire,
    up,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from slng_sidecar.protocol.contexts import TtsMachine
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.tts_dialects import PlainTts, TerminalForm
from slng_sidecar.protocol.tts_options import TtsOptions

INIT = {"type": "init", "voice": "v", "config": {"encoding": "linear16", "sample_rate": 24_000}}
FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
AUDIO_END = {"type": "audio_end"}
FLUSHED = {"type": "flushed"}
CLEARED = {"type": "cleared"}
QUIET = 0.1


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def new(terminal_form: TerminalForm = "upstream", **options: Any) -> Conversation:
    return Conversation(TtsMachine(TtsOptions(**options), PlainTts(terminal_form)))


def opening(**options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(INIT) == [dial(0)]
    return talk


def live(**options: Any) -> Conversation:
    talk = opening(**options)
    assert talk.ready() == [down(READY)]
    return talk


def speaking(words: str = "one", **options: Any) -> Conversation:
    """A session whose first turn is upstream as a whole, and sounds."""
    talk = live(**options)
    assert talk.client(text(words), FLUSH) == [up(text(words)), up(FLUSH)]
    assert talk.upstream(b"sound") == [down(b"sound")]
    return talk


# Opening


def test_init_goes_up_as_it_is() -> None:
    talk = opening()

    assert talk.inits == [INIT]


def test_text_before_ready_is_held_and_said_after_it() -> None:
    talk = opening()

    assert talk.client(text("one"), text("two"), FLUSH) == []
    assert talk.ready(slng_request_id="r") == [
        down({**READY, "slng_request_id": "r"}),
        up(text("one")),
        up(text("two")),
        up(FLUSH),
    ]


def test_texts_go_up_as_they_come_with_all_that_they_say() -> None:
    talk = live()
    message = text("one", pronunciation={"mode": "rewrite"}, partial=True)

    assert talk.client(message) == [up(message)]
    assert talk.client(text("two")) == [up(text("two"))]
    assert talk.client(FLUSH) == [up(FLUSH)]


@pytest.mark.parametrize("kind", ["text", "flush", "clear", "cancel", "keepalive", "hello"])
def test_a_message_before_init_is_refused_and_ignored(kind: str) -> None:
    talk = new()

    assert talk.client({"type": kind, "text": "one"}) == [refusal("bad_request")]
    assert talk.client(INIT) == [dial(0)]
    assert talk.ready() == [down(READY)]


@pytest.mark.parametrize("config", [[], "x", {"sample_rate": "24000"}, {"encoding": 1}])
def test_an_init_that_cannot_be_meant_ends_the_session_before_a_dial(config: Any) -> None:
    assert new().client({"type": "init", "config": config}) == [fatal("config_error"), goodbye(1008)]


def test_a_second_init_is_refused_and_the_session_goes_on() -> None:
    talk = speaking()

    assert talk.client(INIT) == [refusal("bad_request")]
    assert talk.upstream(b"more", AUDIO_END) == [down(b"more"), down(AUDIO_END)]


@pytest.mark.parametrize("nesting", range(940, 1000))
def test_a_message_nested_deeply_is_taken_or_refused(nesting: int) -> None:
    machine = TtsMachine(TtsOptions(), PlainTts("upstream"))
    machine.started(0)
    deep = "[" * nesting + "]" * nesting

    assert machine.client_text(f'{{"type":"init","x":{deep}}}', 0)
    machine = TtsMachine(TtsOptions(), PlainTts("upstream"))
    machine.client_text('{"type":"init"}', 0)
    machine.upstream_ready(0, json.dumps(READY), 0)
    assert machine.client_text(f'{{"type":"text","text":"one","x":{deep}}}', 0)
    machine.client_text('{"type":"flush"}', 0)
    machine.upstream_binary(0, b"sound", 0)
    machine.upstream_text(0, f'{{"type":"audio_end","x":{deep}}}', 0)


def test_a_client_that_never_says_init_is_sent_away() -> None:
    talk = new(init_timeout=30)

    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [fatal("bad_request"), goodbye(1008)]


def test_no_deadline_runs_while_nothing_is_to_do() -> None:
    talk = live()
    assert talk.machine.deadline is None

    talk = speaking()
    talk.upstream(AUDIO_END)
    assert talk.machine.deadline is None


def test_a_dial_that_fails_ends_the_session() -> None:
    talk = opening()
    talk.client(text("one"), FLUSH)

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [fatal("auth_error"), goodbye(1008)]
    assert talk.client(text("two")) == []


# What the client says


@pytest.mark.parametrize("said", ["", "hello", "[1]", "null", "{", "NaN"])
def test_what_is_no_message_is_refused_and_the_session_goes_on(said: str) -> None:
    talk = live()

    assert talk.client(said) == [refusal("bad_request")]
    assert talk.client(text("one")) == [up(text("one"))]


@pytest.mark.parametrize(
    "message", [{"type": "text"}, text(""), {"type": "text", "text": 7}, {"type": "text", "text": None}]
)
def test_a_text_without_text_is_refused(message: dict[str, Any]) -> None:
    talk = live()

    assert talk.client(message) == [refusal("bad_request")]
    assert talk.client(text("one")) == [up(text("one"))]


def test_a_text_that_is_too_long_is_refused_with_the_settings_name() -> None:
    talk = live(max_text=10)

    assert talk.client(text("x" * 11)) == [refusal("payload_too_large")]
    assert "SIDECAR_MAX_TEXT" in talk.errors[0]["message"]
    assert talk.client(text("x" * 10)) == [up(text("x" * 10))]


def test_a_binary_message_is_refused_and_the_session_goes_on() -> None:
    talk = live()

    assert talk.client(b"audio") == [refusal("bad_request")]
    assert talk.client(text("one")) == [up(text("one"))]
    assert talk.machine.counts["unexpected_client_binary"] == 1


@pytest.mark.parametrize("message", [{"type": "speak"}, {}, {"type": "update", "voice": "w"}])
def test_an_unknown_message_is_ignored_and_counted(message: dict[str, Any]) -> None:
    talk = live()

    assert talk.client(message) == []
    assert talk.machine.counts["unknown_client_message"] == 1


def test_a_keepalive_of_the_client_ends_here() -> None:
    assert live().client({"type": "keepalive"}) == []


def test_a_client_far_ahead_is_read_no_further_until_upstream_caught_up() -> None:
    talk = opening(max_text=10_000)
    long = "x" * 10_000
    for _ in range(26):
        assert talk.machine.reads_client
        talk.client(text(long))
    assert talk.machine.reads_client
    talk.client(text(long))

    assert not talk.machine.reads_client
    talk.client(FLUSH)
    talk.ready()
    talk.upstream(b"sound", AUDIO_END)
    assert talk.machine.reads_client


def test_a_client_far_ahead_is_read_on_once_its_texts_sound() -> None:
    talk = live(max_text=10_000)
    for _ in range(27):
        talk.client(text("x" * 10_000))
    assert not talk.machine.reads_client

    talk.upstream(b"sound")  # what was kept to be said again is needed no more

    assert talk.machine.reads_client


# A turn and its end


@pytest.mark.parametrize(
    ("terminal", "option", "told"),
    [
        ({"type": "audio_end", "duration": 1.5}, "upstream", {"type": "audio_end", "duration": 1.5}),
        ({"type": "flushed"}, "upstream", {"type": "flushed"}),
        ({"type": "Flushed", "x": 1}, "upstream", {"type": "flushed", "x": 1}),
        ({"type": "done"}, "upstream", {"type": "audio_end"}),
        ({"type": "event", "data": {"event": "final"}}, "upstream", {"type": "audio_end"}),
        ({"isFinal": True}, "upstream", {"type": "audio_end"}),
        ({"type": "flushed"}, "audio_end", {"type": "audio_end"}),
        ({"type": "audio_end", "duration": 1.5}, "audio_end", {"type": "audio_end", "duration": 1.5}),
        ({"type": "audio_end", "duration": 1.5}, "flushed", {"type": "flushed"}),
        ({"isFinal": True}, "flushed", {"type": "flushed"}),
    ],
)
def test_a_turn_ends_in_the_form_that_the_client_is_promised(
    terminal: dict[str, Any], option: str, told: dict[str, Any]
) -> None:
    talk = speaking(terminal_form=option)

    heard = talk.upstream(terminal)

    assert len(heard) == 1
    assert heard[0][1].items() >= told.items()
    assert heard[0][1]["type"] == told["type"]


@pytest.mark.parametrize("again", [AUDIO_END, FLUSHED, {"type": "done"}])
@pytest.mark.parametrize("first", [AUDIO_END, FLUSHED])
def test_a_turn_ends_once_however_often_upstream_says_it(first: dict[str, Any], again: dict[str, Any]) -> None:
    talk = speaking()

    assert talk.upstream(first) == [down(first)]
    assert talk.upstream(again) == []
    assert talk.machine.counts["stray_terminals"] == 1


def test_sound_and_the_end_can_come_in_one_message() -> None:
    talk = speaking()

    sound, end = talk.upstream({"audio": "QUJD", "isFinal": True})

    assert sound == down(b"ABC")
    assert end[1]["type"] == "audio_end"
    assert talk.upstream({"audio": "QUJD"}) == [retire(0)]


def test_base64_sound_becomes_binary() -> None:
    talk = speaking()

    assert talk.upstream({"type": "audio_chunk", "data": "QUJD", "sequence": 1}) == [down(b"ABC")]


def test_empty_sound_is_nothing() -> None:
    talk = live()

    assert talk.upstream(b"") == []
    assert talk.client(text("one"), FLUSH) == [up(text("one")), up(FLUSH)]
    assert talk.upstream(b"") == []


def test_a_terminal_without_sound_ends_the_turn_too() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)

    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]


def test_a_segments_end_before_the_flush_is_not_the_turns() -> None:
    talk = live()
    talk.client(text("one"))

    assert talk.upstream(b"1", AUDIO_END, b"2") == [down(b"1"), down(b"2")]
    assert talk.machine.counts["segment_ends"] == 1
    assert talk.client(text("two"), FLUSH) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"3", AUDIO_END) == [down(b"3"), down(AUDIO_END)]


def test_other_messages_pass_within_a_turn_and_not_outside() -> None:
    talk = live()
    segment = {"type": "segment_start", "segment_id": "1"}

    assert talk.upstream(segment) == []
    talk.client(text("one"))
    assert talk.upstream(segment) == [down(segment)]


def test_a_second_ready_is_not_passed_on() -> None:
    talk = speaking()

    assert talk.upstream({"type": "ready", "session_id": "other"}) == []
    assert talk.machine.counts["extra_ready"] == 1


@pytest.mark.parametrize("said", ["", "nonsense", "[]", "1"])
def test_what_upstream_says_without_sense_is_counted_and_not_passed_on(said: str) -> None:
    talk = speaking()

    assert talk.upstream(said) == []
    assert talk.machine.counts["unreadable_upstream_message"] == 1


@pytest.mark.parametrize("broken", ["not base64", "é", "A"])
def test_sound_that_cannot_be_decoded_fails_the_turn(broken: str) -> None:
    talk = speaking()

    assert talk.upstream({"type": "audio_chunk", "data": broken}) == [
        retire(0),
        refusal("unsupported_audio_format"),
        down(AUDIO_END),
    ]


# Several turns


def test_turns_go_up_one_at_a_time_with_quiet_between() -> None:
    talk = live()

    assert talk.client(text("one"), FLUSH, text("two"), FLUSH, text("three")) == [up(text("one")), up(FLUSH)]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET - 0.01) == []
    assert talk.wait(0.01) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("three"))]
    assert talk.client(text("more")) == [up(text("more"))]
    assert talk.client(FLUSH) == [up(FLUSH)]


def test_a_turn_that_comes_within_the_quiet_waits_for_its_end() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(0.06)

    assert talk.client(text("two"), FLUSH) == []
    assert talk.wait(0.03) == []
    assert talk.wait(0.02) == [up(text("two")), up(FLUSH)]


def test_a_turn_that_comes_after_the_quiet_goes_up_at_once() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(QUIET)

    assert talk.client(text("two"), FLUSH) == [up(text("two")), up(FLUSH)]
    assert len(talk.inits) == 1


def test_a_late_second_terminal_prolongs_the_quiet() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    talk.wait(0.08)

    assert talk.upstream(FLUSHED) == []
    assert talk.wait(0.09) == []
    assert talk.wait(0.01) == [up(text("two")), up(FLUSH)]


def test_a_second_terminal_later_than_the_quiet_cuts_no_turn_that_has_not_sounded() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]

    assert talk.upstream(AUDIO_END) == []  # the first turn's, said once more
    assert talk.upstream(b"2") == [down(b"2")]
    assert talk.wait(1) == []
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]


@pytest.mark.parametrize("again", [False, True])
def test_a_turn_without_sound_on_a_line_that_had_one_ends_a_moment_later(again: bool) -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    talk.wait(QUIET)

    assert talk.upstream(AUDIO_END) == []
    assert (talk.upstream(AUDIO_END) if again else talk.wait(0.3)) == [down(AUDIO_END)]


def test_stray_sound_between_turns_retires_the_connection() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.upstream(b"whose?") == [retire(0), dial(1)]
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]
    assert talk.machine.counts["stray_audio_bytes"] == len(b"whose?")


def test_stray_sound_with_nothing_to_say_redials_only_for_the_next_text() -> None:
    talk = live()

    assert talk.upstream(b"whose?") == [retire(0)]
    assert talk.wait(1000) == []
    assert talk.client(text("one")) == [dial(1)]


def test_stray_sound_in_one_message_with_an_end_harms_no_later_turn() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.upstream({"audio": "QUJD", "isFinal": True}) == [retire(0), dial(1)]
    talk.wait(1)
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]


def test_a_flush_on_the_text_ends_the_turn() -> None:
    talk = live()

    said = talk.client(text("one", flush=True), text("two", flush=True))

    assert said in ([up(text("one", flush=True))], [up(text("one")), up(FLUSH)])
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) != []


def test_a_second_flush_does_not_end_the_next_turn_too() -> None:
    talk = live()

    assert talk.client(text("one"), FLUSH, FLUSH) == [up(text("one")), up(FLUSH)]
    assert talk.client(text("two")) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("two"))]
    assert talk.machine.counts["empty_flushes"] == 1


@pytest.mark.parametrize(("form", "told"), [("upstream", AUDIO_END), ("flushed", FLUSHED)])
def test_a_flush_of_nothing_is_answered_here(form: str, told: dict[str, Any]) -> None:
    assert live(terminal_form=form).client(FLUSH) == [down(told)]


# The end of a turn on the last text (SLNG_FLUSH=inline)


def test_inline_the_last_text_waits_until_it_is_known_to_be_the_last() -> None:
    talk = live(flush="inline")

    assert talk.client(text("one")) == []
    assert talk.client(text("two")) == [up(text("one"))]
    assert talk.client(FLUSH) == [up(text("two", flush=True))]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]


def test_inline_a_single_text_goes_up_with_its_flush() -> None:
    talk = opening(flush="inline")
    talk.client(text("one"), FLUSH)

    assert talk.ready()[1:] == [up(text("one", flush=True))]


def test_inline_a_turn_is_said_again_with_its_flush_in_place() -> None:
    talk = live(flush="inline")
    talk.client(text("one"), text("two"), FLUSH)

    assert talk.lost() == [dial(1)]
    assert talk.ready() == [up(text("one"), 1), up(text("two", flush=True), 1)]


def test_inline_texts_go_on_after_the_first_sound() -> None:
    talk = live(flush="inline")
    talk.client(text("one"), text("two"))

    assert talk.upstream(b"1") == [down(b"1")]
    assert talk.client(text("three")) == [up(text("two"))]
    assert talk.client(FLUSH) == [up(text("three", flush=True))]
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]


def test_inline_a_pipelined_turn_waits_as_well() -> None:
    talk = live(flush="inline")
    talk.client(text("one"), FLUSH, text("two"), text("three"))
    talk.upstream(AUDIO_END)

    assert talk.wait(QUIET) == [up(text("two"))]
    assert talk.client(FLUSH) == [up(text("three", flush=True))]


# Nothing to say


def test_a_turn_of_spaces_ends_here() -> None:
    talk = live()

    assert talk.client(text(" \n")) == []
    assert talk.client(FLUSH)[-1] == down(AUDIO_END)
    assert talk.client(text("one"), FLUSH) == [up(text("one")), up(FLUSH)]


def test_a_turn_that_begins_with_a_space_is_said_whole() -> None:
    talk = live()

    assert talk.client(text(" ")) == []
    assert talk.client(text("one"), FLUSH) == [up(text(" ")), up(text("one")), up(FLUSH)]


def test_spaces_alone_do_not_keep_the_machine_awake() -> None:
    talk = live(context_idle=60)
    talk.client(text(" "))

    assert talk.wait(59) == []
    assert talk.wait(1)[-1] == down(AUDIO_END)


def test_a_turn_of_spaces_between_two_ends_in_its_order() -> None:
    talk = live()
    talk.client(text("one"), FLUSH, text(" "), FLUSH, text("three"), FLUSH)

    said = talk.upstream(b"1", AUDIO_END) + talk.wait(QUIET)
    assert [what for what in said if what[0] != "error"] == [
        down(b"1"),
        down(AUDIO_END),
        down(AUDIO_END),
        up(text("three")),
        up(FLUSH),
    ]


def test_any_number_of_turns_of_spaces_ends() -> None:
    talk = opening()
    for _ in range(1000):
        talk.client(text(" ", flush=True))

    assert talk.ready().count(down(AUDIO_END)) == 1000


# Interruptions


def test_clear_is_answered_at_once_and_nothing_stale_follows() -> None:
    talk = speaking()
    talk.client(text("waits"), FLUSH)

    assert talk.client(CLEAR) == [up(CLEAR), down(CLEARED)]
    assert talk.upstream(b"stale", {"type": "segment_end"}) == []
    assert talk.client(text("new"), FLUSH) == []
    assert talk.wait(0.4) == []
    assert talk.upstream(CLEARED) == []
    assert talk.wait(QUIET - 0.01) == []
    assert talk.wait(0.01) == [up(text("new")), up(FLUSH)]
    assert talk.upstream(b"new", AUDIO_END) == [down(b"new"), down(AUDIO_END)]
    assert len(talk.inits) == 1


@pytest.mark.parametrize("terminal", [AUDIO_END, FLUSHED])
def test_a_terminal_alone_confirms_a_clear_once_no_cleared_came(terminal: dict[str, Any]) -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)

    assert talk.upstream(terminal) == []
    assert talk.wait(0.99) == []
    assert talk.wait(0.01) == []
    assert talk.wait(QUIET) == [up(text("new")), up(FLUSH)]


@pytest.mark.parametrize("message", [CLEAR, {"type": "cancel"}])
def test_clear_of_a_turn_without_sound_leaves_no_terminal(message: dict[str, Any]) -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.client(message)

    assert talk.upstream(CLEARED) == []
    assert talk.wait(100) == []
    assert talk.client(text("two")) == [up(text("two"))]


def test_cancel_clears_and_is_not_answered() -> None:
    assert speaking().client({"type": "cancel"}) == [up(CLEAR)]


@pytest.mark.parametrize("start", [opening, live])
def test_clear_with_nothing_live_is_answered_and_goes_nowhere(start: Any) -> None:
    talk: Conversation = start()

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.machine.deadline is None


def test_clear_before_ready_drops_what_was_held() -> None:
    talk = opening()
    talk.client(text("one"), FLUSH, text("two"))

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.client(text("three"), FLUSH) == []
    assert talk.ready() == [down(READY), up(text("three")), up(FLUSH)]


def test_clear_between_turns_drops_those_that_wait() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.wait(1000) == []
    assert talk.client(text("three")) == [up(text("three"))]


def test_each_clear_is_answered_but_only_the_first_goes_up() -> None:
    talk = speaking()

    assert talk.client(CLEAR, CLEAR) == [up(CLEAR), down(CLEARED), down(CLEARED)]


def test_a_clear_that_upstream_does_not_confirm_costs_the_connection() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)

    assert talk.wait(0.99) == []
    assert talk.upstream(b"stale") == []
    assert talk.wait(0.01) == [retire(0), dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]
    assert talk.machine.counts["clears_unanswered"] == 1


def test_an_unconfirmed_clear_with_nothing_to_say_redials_only_for_the_next_text() -> None:
    talk = speaking()
    talk.client(CLEAR)

    assert talk.wait(1000) == [retire(0)]
    assert talk.client(text("new")) == [dial(1)]


def test_stale_sound_after_the_confirmation_costs_the_connection() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)
    talk.upstream(CLEARED)

    assert talk.upstream(b"stale") == [retire(0), dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]


def test_the_late_confirmation_of_one_clear_is_not_taken_for_that_of_the_next() -> None:
    talk = speaking()
    talk.client(CLEAR, text("two"), FLUSH)
    talk.upstream(AUDIO_END)  # the first turn had ended before the clear came to upstream
    assert talk.wait(1) == []  # no confirmation but that end
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]
    talk.client(CLEAR, text("three"), FLUSH)

    talk.upstream(CLEARED)  # the first clear's, on its way before the second clear was heard
    talk.wait(QUIET)

    assert down(b"sound of two") not in talk.upstream(b"sound of two")


def test_a_connection_lost_while_it_is_cleared_is_not_missed() -> None:
    talk = speaking()
    talk.client(CLEAR)

    assert talk.lost() == []
    assert talk.client(text("new"), FLUSH) == [dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]


def test_an_error_while_it_is_cleared_is_not_told() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"))

    assert talk.upstream({"type": "error", "message": "Stream 1 not found."}) == [retire(0), dial(1)]


def test_a_stray_confirmation_is_counted_and_not_passed_on() -> None:
    talk = live()

    assert talk.upstream(CLEARED) == []
    assert talk.machine.counts["stray_cleared"] == 1


# Connections that end


def test_a_route_that_closes_after_each_turn_has_a_new_connection_before_the_next() -> None:
    talk = speaking()

    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]
    assert talk.lost(1000) == []
    assert talk.wait(QUIET) == [dial(1)]
    assert talk.ready() == []
    assert talk.wait(1000) == []
    assert talk.client(text("two"), FLUSH) == [up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END), retire(1)]
    assert talk.wait(QUIET) == [dial(2)]


@pytest.mark.parametrize("model", ["slng/rime/arcana:3-en", "rime/arcana:3-en", "soniox/tts-rt:v1"])
def test_a_route_known_to_take_one_turn_is_not_sent_a_second_one(model: str) -> None:
    talk = speaking(model=model)
    talk.client(text("two"), FLUSH)

    assert talk.upstream(AUDIO_END) == [down(AUDIO_END), retire(0), dial(1)]
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]


def test_a_session_of_one_turn_dials_once_on_a_route_that_takes_one_turn() -> None:
    talk = speaking(model="soniox/tts-rt:v1")

    assert talk.upstream(AUDIO_END) == [down(AUDIO_END), retire(0)]
    assert talk.client(CLOSE) == [goodbye(1000)]


def test_a_connection_kept_ready_for_the_next_turn_is_not_missed_when_it_goes() -> None:
    talk = speaking(model="soniox/tts-rt:v1")
    talk.upstream(AUDIO_END)

    assert talk.wait(QUIET) == [dial(1)]
    assert talk.lost(GatewayError("not_ready", "busy", status=503)) == []
    assert talk.wait(1000) == []
    assert talk.client(text("two"), FLUSH) == [dial(2)]


def test_an_interruption_on_a_route_that_takes_one_turn_costs_the_connection_at_once() -> None:
    talk = speaking(model="soniox/tts-rt:v1")

    assert talk.client(CLEAR) == [retire(0), down(CLEARED)]
    assert talk.wait(QUIET) == [dial(1)]


def test_an_old_connection_is_replaced_at_the_next_need() -> None:
    talk = live(rotate_seconds=1500)
    assert talk.wait(1499.9) == []
    assert talk.wait(0.1) == [retire(0)]
    assert talk.wait(10_000) == []
    assert talk.client(text("one"), FLUSH) == [dial(1)]


def test_the_age_of_a_spare_counts() -> None:
    talk = new(rotate_seconds=1500)
    talk.client(INIT)
    talk.ready(since=talk.now - 1100)
    assert talk.wait(399) == []
    assert talk.wait(1) == [retire(0)]


def test_an_old_connection_says_its_turn_to_the_end() -> None:
    talk = live(rotate_seconds=1500, terminal_timeout=10_000)
    talk.wait(1400)
    talk.client(text("one"), FLUSH)
    talk.upstream(b"1")
    assert talk.wait(200) == []
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END), retire(0)]


def test_a_route_that_closes_after_each_turn_is_redialled_at_once_for_a_turn_that_waits() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    talk.wait(0.02)

    assert talk.lost(1000) == [dial(1)]
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]


@pytest.mark.parametrize("code", [1000, 1005])
def test_a_clean_close_after_sound_is_an_end_where_the_route_says_none(code: int) -> None:
    talk = speaking()

    assert talk.lost(code) == [down(AUDIO_END)]
    assert talk.client(text("two")) == [dial(1)]


def test_a_clean_close_before_the_flush_is_a_failure() -> None:
    talk = live()
    talk.client(text("one"))
    talk.upstream(b"1")

    assert talk.lost(1000)[0] == refusal("upstream_closed")


@pytest.mark.parametrize("form", ["upstream", "flushed"])
def test_a_drop_within_the_sound_fails_the_turn_and_no_other(form: str) -> None:
    talk = speaking(terminal_form=form)
    talk.client(text("two"), FLUSH)

    assert talk.lost(1006) == [
        refusal("upstream_closed"),
        down(FLUSHED if form == "flushed" else AUDIO_END),
        dial(1),
    ]
    assert talk.errors[0]["upstream"] == {"close_code": 1006, "reason": ""}
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]


@pytest.mark.parametrize("code", [1000, 1006, 1011])
def test_a_turn_lost_before_its_first_sound_is_said_again_once(code: int) -> None:
    talk = live()
    talk.client(text("one"), text("two"), FLUSH)

    assert talk.lost(code) == [dial(1)]
    assert talk.ready() == [up(text("one"), 1), up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.machine.counts["contexts_said_again"] == 1


def test_a_turn_lost_twice_before_its_first_sound_fails() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.lost()
    talk.ready()

    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END)]


def test_each_turn_may_be_said_again_once() -> None:
    talk = live()
    for turn in ("one", "two"):
        assert talk.client(text(turn), FLUSH) == [up(text(turn), talk.newest), up(FLUSH, talk.newest)]
        assert talk.lost() == [dial(talk.newest)]
        talk.ready()
        assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]
        talk.wait(QUIET)


def test_a_turn_lost_while_it_grows_goes_on_growing() -> None:
    talk = live()
    talk.client(text("one"))
    talk.lost()

    assert talk.client(text("two")) == []
    assert talk.ready() == [up(text("one"), 1), up(text("two"), 1)]
    assert talk.client(FLUSH) == [up(FLUSH, 1)]


def test_a_redial_that_fails_is_tried_again_with_growing_delays() -> None:
    talk = live(jitter=lambda: 0.5)
    talk.client(text("one"), FLUSH)
    assert talk.lost() == [dial(1)]

    busy = GatewayError("not_ready", "busy", status=503)
    assert talk.lost(busy) == []
    assert talk.wait(0.24) == []
    assert talk.wait(0.01) == [dial(2)]
    assert talk.lost(busy) == []
    assert talk.wait(0.49) == []
    assert talk.wait(0.01) == [dial(3)]
    assert talk.ready() == [up(text("one"), 3), up(FLUSH, 3)]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]


def test_a_redial_that_is_refused_ends_the_session() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.lost()

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [fatal("auth_error"), goodbye(1008)]


def test_an_upstream_that_does_not_come_back_ends_the_session() -> None:
    talk = live(reconnect_seconds=60)
    talk.client(text("one"), FLUSH)
    begun = talk.now
    said = talk.lost()
    while not talk.over:
        said = talk.lost(GatewayError("not_ready", "busy", status=503))
        if not talk.over:
            talk.wait(talk.machine.deadline - talk.now)  # type: ignore[operator] # there is one

    assert said == [fatal("not_ready"), goodbye(1013)]
    assert 50 < talk.now - begun <= 60


def test_a_loss_with_nobody_waiting_does_not_count_as_an_outage() -> None:
    talk = live(reconnect_seconds=60)
    assert talk.lost() == []
    talk.wait(1000)
    assert talk.client(text("one"), FLUSH) == [dial(1)]

    assert talk.lost(GatewayError("not_ready", "busy", status=503)) == [dial(2)]


def test_three_short_lives_in_a_row_end_the_session() -> None:
    talk = live()
    talk.client(*[text("one"), FLUSH] * 5)
    assert talk.lost() == [dial(1)]
    talk.ready()
    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END), dial(2)]
    talk.ready()

    assert talk.lost() == [fatal("upstream_closed"), goodbye(1011)]
    assert "3 connections in a row" in talk.errors[-1]["message"]


def test_short_lives_that_end_with_their_turn_by_design_do_not_count() -> None:
    talk = live()
    for _ in range(10):
        talk.client(text("one"), FLUSH)
        if talk.open.get(talk.newest) is False:
            talk.ready()
        talk.upstream(b"1")
        assert down(AUDIO_END) in talk.lost(1000)
        assert not talk.over


def test_ready_is_told_once_however_many_connections_there_are() -> None:
    talk = live()
    talk.lost()
    talk.client(text("one"))

    assert talk.ready() == [up(text("one"), 1)]


def test_news_of_an_earlier_connection_is_ignored() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.lost()
    talk.ready()

    assert talk.upstream(b"old", AUDIO_END, CLEARED, connection=0) == []
    assert talk.machine.upstream_lost(0, hung_up(), talk.now) == []
    assert talk.machine.upstream_ready(0, json.dumps(READY), talk.now) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]


def test_an_idle_connection_that_is_lost_or_expires_is_not_seen() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(120)

    assert talk.upstream({"type": "error", "message": "no output for 120 s"}) == [retire(0)]
    assert talk.client(text("two")) == [dial(1)]
    talk.ready()
    talk.upstream(b"2")
    talk.client(FLUSH)
    talk.upstream(AUDIO_END)
    assert talk.lost(1011) == []
    assert talk.machine.counts["idle_errors"] == 1
    assert talk.machine.counts["idle_connections_lost"] == 1


# Errors of upstream


def test_a_spent_session_is_replaced_and_the_turn_said_again() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(1)
    talk.client(text("two"), FLUSH)
    spent = {"type": "error", "data": {"message": "Stream 7 not found. Send a start message first."}}

    assert talk.upstream(spent) == [retire(0), dial(1)]
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(spent) == [retire(1), dial(2)]
    assert talk.ready() == [up(text("two"), 2), up(FLUSH, 2)]
    assert talk.upstream(spent) == [retire(2), refusal("provider_error"), down(AUDIO_END)]


@pytest.mark.parametrize(
    "error",
    [
        {"code": "config_error", "message": "no such voice"},
        {"data": {"code": "auth_error", "message": "the key"}},
        {"code": "pronunciation_not_found"},
        {"status_code": 422, "message": "that language is not for this voice"},
    ],
)
def test_an_error_that_saying_again_cannot_help_fails_the_turn_at_once(error: dict[str, Any]) -> None:
    talk = live()
    talk.client(text("one"), FLUSH, text("two"))

    said = talk.upstream({"type": "error", **error})

    assert [what[0] for what in said] == ["retire", "error", "down", "dial"]
    assert said[2] == down(AUDIO_END)
    assert talk.errors[0]["retryable"] is False


def test_an_error_after_sound_fails_the_turn() -> None:
    talk = speaking()

    assert talk.upstream({"type": "error", "code": "backpressure", "message": "busy"}) == [
        retire(0),
        refusal("backpressure"),
        down(AUDIO_END),
    ]


# One terminal a turn, also where it failed before the client had said all of it


def failed_before_its_flush() -> tuple[Conversation, list[Said]]:
    talk = live()
    talk.client(text("one"))
    talk.upstream(b"1")
    said = talk.lost()
    assert said[0] == refusal("upstream_closed")
    return talk, said


def test_a_turn_that_failed_before_its_flush_has_one_terminal() -> None:
    talk, said = failed_before_its_flush()

    said += talk.client(FLUSH)
    said += talk.wait(1000)

    assert said.count(down(AUDIO_END)) == 1
    assert talk.client(text("two"), FLUSH) == [dial(1)]


def test_a_turn_that_failed_before_its_flush_has_one_terminal_whatever_else_it_says() -> None:
    talk, said = failed_before_its_flush()

    said += talk.client(text("the rest"), FLUSH, text("new"), FLUSH)
    for _ in range(3):
        if talk.open.get(talk.newest) is False:
            said += talk.ready()
        if talk.open.get(talk.newest):
            said += talk.upstream(AUDIO_END)
        said += talk.wait(QUIET)

    assert said.count(down(AUDIO_END)) == 2  # its own and that of the new one
    assert talk.machine.deadline is None


def test_a_turn_that_failed_and_is_never_flushed_ends_by_itself() -> None:
    talk, said = failed_before_its_flush()

    said += talk.wait(1000)

    assert said.count(down(AUDIO_END)) == 1
    assert talk.machine.deadline is None


def test_a_turn_that_failed_can_be_cleared_and_the_next_is_whole() -> None:
    talk, _ = failed_before_its_flush()

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.client(text("new"), FLUSH) == [dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]


def test_the_flush_of_a_turn_that_idled_away_draws_no_second_terminal() -> None:
    talk = live(context_idle=60)
    talk.client(text("one"))
    talk.upstream(b"1")
    assert talk.wait(60) == [up(FLUSH)]
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]

    talk.wait(QUIET)
    assert talk.client(FLUSH) == []
    assert talk.client(text("two"), FLUSH) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]


# Deadlines


def test_a_turn_without_sound_is_said_again_and_then_fails() -> None:
    talk = live(first_audio_timeout=30)
    talk.client(text("one"), FLUSH)

    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [retire(0), dial(1)]
    talk.ready()
    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [retire(1), refusal("upstream_timeout"), down(AUDIO_END)]


def test_a_turn_that_falls_silent_fails() -> None:
    talk = speaking(terminal_timeout=15)
    talk.wait(14)
    assert talk.upstream(b"more") == [down(b"more")]

    assert talk.wait(14.9) == []
    assert talk.wait(0.1) == [retire(0), refusal("upstream_timeout"), down(AUDIO_END)]
    assert talk.client(text("two")) == [dial(1)]


def test_silence_before_the_flush_is_the_clients_affair() -> None:
    talk = live(terminal_timeout=15, first_audio_timeout=30, context_idle=60)
    talk.client(text("one"))
    talk.upstream(b"1")

    assert talk.wait(59) == []
    assert talk.client(FLUSH) == [up(FLUSH)]
    assert talk.wait(14.9) == []


def test_a_turn_that_is_never_flushed_ends_by_itself() -> None:
    talk = live(context_idle=60)
    talk.client(text("one"))
    talk.upstream(b"1")
    talk.wait(30)
    talk.client(text("two"))

    assert talk.wait(59.9) == []
    assert talk.wait(0.1) == [up(FLUSH)]
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]
    assert talk.machine.counts["idle_contexts_ended"] == 1


def test_a_waiting_turn_that_is_never_flushed_ends_as_well() -> None:
    talk = speaking(context_idle=10)
    talk.client(text("two"))
    talk.wait(10)
    talk.upstream(AUDIO_END)

    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]


# The end


@pytest.mark.parametrize("kind", ["close", "stop"])
def test_close_with_nothing_left_ends_at_once(kind: str) -> None:
    assert live().client({"type": kind}) == [retire(0), goodbye(1000)]
    assert opening().client({"type": kind}) == [retire(0), goodbye(1000)]
    assert new().client({"type": kind}) == [goodbye(1000)]


def test_close_lets_the_turns_be_said() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)

    assert talk.client(CLOSE) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END), retire(0), goodbye(1000)]


def test_close_ends_a_turn_that_was_not_flushed() -> None:
    talk = live()
    talk.client(text("one"))

    assert talk.client(CLOSE) == [up(FLUSH)]


def test_close_before_ready_lets_the_turn_be_said() -> None:
    talk = opening()
    talk.client(text("one"))

    assert talk.client(CLOSE) == []
    assert talk.ready() == [down(READY), up(text("one")), up(FLUSH)]


def test_close_is_bounded() -> None:
    talk = speaking(close_timeout=5)
    talk.client(CLOSE)

    assert talk.wait(4.9) == []
    assert talk.upstream(b"still") == [down(b"still")]
    assert talk.wait(0.1) == [refusal("upstream_timeout"), retire(0), goodbye(1000)]
    assert talk.wait(1000) == []


def test_a_turn_that_fails_while_closing_ends_the_session_after_its_terminal() -> None:
    talk = speaking()
    talk.client(CLOSE)

    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END), goodbye(1000)]


def test_nothing_is_taken_after_close() -> None:
    talk = speaking()
    talk.client(CLOSE)

    assert talk.client(text("late"), FLUSH, CLEAR, "nonsense") == []
    assert talk.machine.counts["message_after_close"] == 4


def test_after_the_end_nothing_is_said_whatever_comes() -> None:
    talk = live()
    talk.client(CLOSE)

    assert talk.client(INIT, text("late"), b"late", "nonsense") == []
    assert talk.upstream(b"late", AUDIO_END, "nonsense") == []
    assert talk.machine.upstream_lost(0, hung_up(), talk.now) == []
    assert talk.wait(1000) == []


def test_a_client_that_goes_takes_its_upstream_along() -> None:
    for talk in (opening(), live(), speaking()):
        assert talk.client_goes() == [retire(0)]
        assert talk.machine.deadline is None
    assert new().client_goes() == []


def test_repr_tells_the_state_and_no_words() -> None:
    talk = speaking("secret")
    talk.client(text("secret"), text("secret"))

    assert "secret" not in repr(talk.machine)
    assert repr(talk.machine) == "TtsMachine(busy 0, [<0/0 texts flushed, 5 bytes>, <0/2 texts, 0 bytes>])"


# Any order


class AnySpeech(RuleBasedStateMachine):
    """Whatever client and upstream do, in any order: ``Conversation`` checks each command."""

    @initialize(
        flush=st.sampled_from(["standalone", "inline"]),
        form=st.sampled_from(["upstream", "audio_end", "flushed"]),
        begun=st.booleans(),
    )
    def start(self, flush: Any, form: Any, begun: bool) -> None:
        self.talk = live(flush=flush, terminal_form=form) if begun else new(flush=flush, terminal_form=form)

    def follow(self, said: list[Said]) -> None:
        self.heard = said
        assert len(self.talk.open) <= 1, "one connection is enough for a plain session"
        if self.talk.over:
            assert not self.talk.open, "a connection was left behind"

    @rule(
        message=st.sampled_from(
            [INIT, text("one"), text("two", flush=True), text(" "), FLUSH, CLEAR, {"type": "cancel"}, CLOSE]
        )
        | odd_client_messages("close", "stop")
        | st.just(b"binary")
    )
    def client(self, message: Any) -> None:
        self.follow(self.talk.client(message))

    @rule()
    def goes(self) -> None:
        if not self.talk.over and len(self.talk.inits) > 2:
            self.follow(self.talk.client_goes())

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(
        message=st.sampled_from(
            [b"sound", AUDIO_END, FLUSHED, CLEARED, {"type": "error"}, {"audio": "QUJD", "isFinal": 1}]
        )
        | odd_upstream_messages()
    )
    def upstream(self, message: Any) -> None:
        self.follow(self.talk.upstream(message))

    @precondition(lambda self: self.talk.newest in self.talk.open)
    @rule(code=st.sampled_from([1000, 1005, 1006, 1008, 1011]))
    def lost(self, code: int) -> None:
        self.follow(self.talk.lost(code))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 1.0, 15.0, 100.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    @invariant()
    def knows_when_it_is_over(self) -> None:
        if hasattr(self, "talk") and self.talk.over:
            assert self.talk.machine.deadline is None


TestAnySpeech = AnySpeech.TestCase
TestAnySpeech.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@dataclass
class Turn:
    """A turn as the client knows it."""

    number: int
    flushed: bool = False


@dataclass
class Upstream:
    """A provider in good order: it says what it was told, turn after turn, and acknowledges a clear."""

    turns: deque[tuple[int, bool]] = field(default_factory=deque)  # (which, flushed)
    clearing: bool = False  # what was sent is to be dropped, and that acknowledged
    late: bool = False  # it had ended before it could be dropped; that is acknowledged all the same

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "clear":
            self.clearing = True
            return
        assert not self.clearing, "something was sent before the clear was acknowledged"
        unfinished = self.turns and not self.turns[-1][1]
        if message["type"] == "text":
            if not unfinished:
                assert not self.turns, "a turn began before the one before it had ended"
                self.turns.append((0, False))
            if message["text"] != " ":
                number = int(message["text"])
                assert self.turns[-1][0] in (0, number), "a turn began before the one before it was flushed"
                self.turns[-1] = (number, False)
        if message["type"] == "flush" or message.get("flush"):
            assert unfinished or message["type"] == "text", "a flush of nothing went up"
            assert self.turns[-1][0], "spaces alone went up"
            self.turns[-1] = (self.turns[-1][0], True)


class OrderlySpeech(RuleBasedStateMachine):
    """An upstream that answers in order but may drop: each turn gets its own sound only, and ends exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: deque[Turn] = deque()  # those that the client waits for, the last one perhaps unflushed
        self.count = 0
        self.upstreams: dict[int, Upstream] = {}
        self.cut = False  # the unflushed turn failed before its flush

    @initialize(flush=st.sampled_from(["standalone", "inline"]), form=st.sampled_from(["upstream", "flushed"]))
    def start(self, flush: Any, form: Any) -> None:
        self.talk = new(flush=flush, terminal_form=form, context_idle=10_000, first_audio_timeout=500)
        self.follow(self.talk.client(INIT))

    def follow(self, said: list[Said]) -> None:
        for what in said:
            match what:
                case ("up", number, message):
                    self.upstreams.setdefault(number, Upstream()).take(message)
                case ("down", bytes(data)):
                    assert self.turns, "sound came that belongs to no turn"
                    assert data == self.turns[0].number.to_bytes(4, "big"), "sound of another turn"
                case ("down", {"type": "audio_end" | "flushed"}):
                    assert self.turns, "a terminal came that belongs to no turn"
                    self.cut = not self.turns.popleft().flushed
                    assert not self.cut or not self.turns
                case ("down", {"type": "ready"} | {"type": "cleared"}) | ("error", _, "goes on") | ("dial", _):
                    pass
                case ("retire", _):
                    pass
                case _:
                    raise AssertionError(f"unexpected: {what}")
        busy = [number for number in self.talk.open if self.upstreams.get(number, Upstream()).turns]
        assert len(busy) <= 1

    def current(self) -> Upstream | None:
        return self.upstreams.get(self.talk.newest) if self.talk.open.get(self.talk.newest) else None

    @precondition(lambda self: not self.cut)
    @rule(blank=st.booleans(), flush=st.booleans())
    def text(self, blank: bool, flush: bool) -> None:
        if not self.turns or self.turns[-1].flushed:
            self.count += 1
            self.turns.append(Turn(self.count))
        turn = self.turns[-1]
        turn.flushed = flush
        self.follow(self.talk.client(text(" " if blank else str(turn.number), **({"flush": True} if flush else {}))))

    @precondition(lambda self: self.turns and not self.turns[-1].flushed)
    @rule()
    def flush(self) -> None:
        self.turns[-1].flushed = True
        self.follow(self.talk.client(FLUSH))

    @precondition(lambda self: not ((upstream := self.current()) and upstream.late))
    @rule(message=st.sampled_from([CLEAR, {"type": "cancel"}]))
    def clear(self, message: dict[str, Any]) -> None:
        self.turns.clear()
        self.cut = False
        self.follow(self.talk.client(message))

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())
        self.time(5)  # a life that counts

    @precondition(lambda self: (upstream := self.current()) and upstream.turns and upstream.turns[0][0])
    @rule()
    def sound(self) -> None:
        upstream = self.current()
        assert upstream
        self.follow(self.talk.upstream(upstream.turns[0][0].to_bytes(4, "big")))

    @precondition(lambda self: (upstream := self.current()) and upstream.turns and upstream.turns[0][1])
    @rule(twice=st.booleans(), closes=st.booleans(), terminal=st.sampled_from([AUDIO_END, FLUSHED]))
    def end(self, twice: bool, closes: bool, terminal: dict[str, Any]) -> None:
        upstream = self.current()
        assert upstream
        upstream.turns.popleft()
        if upstream.clearing:
            upstream.clearing, upstream.late = False, True
        self.follow(self.talk.upstream(terminal))
        if twice:
            self.follow(self.talk.upstream(terminal))
        if closes and self.talk.newest in self.talk.open:
            self.lost(1000)

    @precondition(lambda self: (upstream := self.current()) and upstream.late)
    @rule()
    def confirm_late(self) -> None:
        upstream = self.current()
        assert upstream
        upstream.late = False
        self.follow(self.talk.upstream(CLEARED))

    @precondition(lambda self: (upstream := self.current()) and upstream.clearing)
    @rule()
    def confirm(self) -> None:
        upstream = self.current()
        assert upstream
        upstream.turns.clear()
        upstream.clearing = False
        self.follow(self.talk.upstream(CLEARED))

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(code=st.sampled_from([1000, 1006, 1011]))
    def lost(self, code: int) -> None:
        self.follow(self.talk.lost(code))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 20.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        if self.turns and not self.turns[-1].flushed:
            self.flush()
        for _ in range(5 * len(self.turns) + 5):
            upstream = self.current()
            if self.talk.open.get(self.talk.newest) is False:
                self.ready()
            elif upstream and upstream.clearing:
                self.confirm()
            elif upstream and upstream.turns:
                self.sound()
                self.end(False, False, AUDIO_END)
            self.time(0.1)
        assert not self.turns, "a turn never ended"


TestOrderlySpeech = OrderlySpeech.TestCase
TestOrderlySpeech.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
