"""Turns of a plain TTS session: one at a time, each with one end."""

from __future__ import annotations

from typing import Any

import pytest
from support.conversation import dial, down, refusal, retire, up
from support.plain_tts import AUDIO_END, FLUSH, FLUSHED, QUIET, live, opening, speaking, text

# A turn and its end


@pytest.mark.parametrize(
    ("terminal", "option", "expected"),
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
    terminal: dict[str, Any], option: str, expected: dict[str, Any]
) -> None:
    talk = speaking(terminal_form=option)

    steps = talk.upstream(terminal)

    assert len(steps) == 1
    assert steps[0][1].items() >= expected.items()
    assert steps[0][1]["type"] == expected["type"]


@pytest.mark.parametrize("again", [AUDIO_END, FLUSHED, {"type": "done"}])
@pytest.mark.parametrize("first", [AUDIO_END, FLUSHED])
def test_a_turn_ends_once_however_many_terminals_upstream_sends(first: dict[str, Any], again: dict[str, Any]) -> None:
    talk = speaking()

    assert talk.upstream(first) == [down(first)]
    assert talk.upstream(again) == []
    assert talk.machine.counts["stray_terminals"] == 1


def test_audio_and_the_end_can_come_in_one_message() -> None:
    talk = speaking()

    audio, end = talk.upstream({"audio": "QUJD", "isFinal": True})

    assert audio == down(b"ABC")
    assert end[1]["type"] == "audio_end"
    assert talk.upstream({"audio": "QUJD"}) == [retire(0)]


def test_base64_audio_becomes_binary() -> None:
    talk = speaking()

    assert talk.upstream({"type": "audio_chunk", "data": "QUJD", "sequence": 1}) == [down(b"ABC")]


def test_empty_audio_is_ignored() -> None:
    talk = live()

    assert talk.upstream(b"") == []
    assert talk.client(text("one"), FLUSH) == [up(text("one")), up(FLUSH)]
    assert talk.upstream(b"") == []


def test_a_terminal_without_audio_ends_the_turn_too() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)

    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]


def test_the_end_of_a_segment_before_the_flush_is_not_that_of_the_turn() -> None:
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


@pytest.mark.parametrize("message", ["", "nonsense", "[]", "1"])
def test_an_invalid_message_of_upstream_is_counted_and_not_passed_on(message: str) -> None:
    talk = speaking()

    assert talk.upstream(message) == []
    assert talk.machine.counts["unreadable_upstream_message"] == 1


@pytest.mark.parametrize("broken", ["not base64", "é", "A"])
def test_audio_that_cannot_be_decoded_fails_the_turn(broken: str) -> None:
    talk = speaking()

    assert talk.upstream({"type": "audio_chunk", "data": broken}) == [
        retire(0),
        refusal("unsupported_audio_format"),
        down(AUDIO_END),
    ]


# Several turns


def test_turns_go_up_one_at_a_time_with_a_pause_between_them() -> None:
    talk = live()

    assert talk.client(text("one"), FLUSH, text("two"), FLUSH, text("three")) == [up(text("one")), up(FLUSH)]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET - 0.01) == []
    assert talk.wait(0.01) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("three"))]
    assert talk.client(text("more")) == [up(text("more"))]
    assert talk.client(FLUSH) == [up(FLUSH)]


def test_a_turn_that_comes_within_the_pause_waits_for_its_end() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(0.06)

    assert talk.client(text("two"), FLUSH) == []
    assert talk.wait(0.03) == []
    assert talk.wait(0.02) == [up(text("two")), up(FLUSH)]


def test_a_turn_that_comes_after_the_pause_goes_up_at_once() -> None:
    talk = speaking()
    talk.upstream(AUDIO_END)
    talk.wait(QUIET)

    assert talk.client(text("two"), FLUSH) == [up(text("two")), up(FLUSH)]
    assert len(talk.inits) == 1


def test_a_late_second_terminal_prolongs_the_pause() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    talk.wait(0.08)

    assert talk.upstream(FLUSHED) == []
    assert talk.wait(0.09) == []
    assert talk.wait(0.01) == [up(text("two")), up(FLUSH)]


def test_a_second_terminal_after_the_pause_cuts_no_turn_without_audio() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]

    assert talk.upstream(AUDIO_END) == []  # the first turn's terminal once more
    assert talk.upstream(b"2") == [down(b"2")]
    assert talk.wait(1) == []
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]


@pytest.mark.parametrize("again", [False, True])
def test_a_turn_without_audio_on_a_used_connection_ends_a_moment_later(again: bool) -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)
    talk.wait(QUIET)

    assert talk.upstream(AUDIO_END) == []
    assert (talk.upstream(AUDIO_END) if again else talk.wait(0.3)) == [down(AUDIO_END)]


def test_stray_audio_between_turns_retires_the_connection() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.upstream(b"whose?") == [retire(0), dial(1)]
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]
    assert talk.machine.counts["stray_audio_bytes"] == len(b"whose?")


def test_stray_audio_without_text_redials_only_for_the_next_text() -> None:
    talk = live()

    assert talk.upstream(b"whose?") == [retire(0)]
    assert talk.wait(1000) == []
    assert talk.client(text("one")) == [dial(1)]


def test_stray_audio_in_one_message_with_an_end_harms_no_later_turn() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.upstream({"audio": "QUJD", "isFinal": True}) == [retire(0), dial(1)]
    talk.wait(1)
    assert talk.ready() == [up(text("two"), 1), up(FLUSH, 1)]


def test_a_flush_on_the_text_ends_the_turn() -> None:
    talk = live()

    steps = talk.client(text("one", flush=True), text("two", flush=True))

    assert steps in ([up(text("one", flush=True))], [up(text("one")), up(FLUSH)])
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) != []


def test_a_second_flush_does_not_end_the_next_turn_too() -> None:
    talk = live()

    assert talk.client(text("one"), FLUSH, FLUSH) == [up(text("one")), up(FLUSH)]
    assert talk.client(text("two")) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("two"))]
    assert talk.machine.counts["empty_flushes"] == 1


@pytest.mark.parametrize(("form", "expected"), [("upstream", AUDIO_END), ("flushed", FLUSHED)])
def test_a_flush_without_text_is_answered_by_the_sidecar(form: str, expected: dict[str, Any]) -> None:
    assert live(terminal_form=form).client(FLUSH) == [down(expected)]


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


def test_inline_a_turn_is_sent_again_with_its_flush_in_place() -> None:
    talk = live(flush="inline")
    talk.client(text("one"), text("two"), FLUSH)

    assert talk.lost() == [dial(1)]
    assert talk.ready() == [up(text("one"), 1), up(text("two", flush=True), 1)]


def test_inline_texts_continue_after_the_first_audio() -> None:
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


def test_a_turn_of_spaces_is_ended_by_the_sidecar() -> None:
    talk = live()

    assert talk.client(text(" \n")) == []
    assert talk.client(FLUSH)[-1] == down(AUDIO_END)
    assert talk.client(text("one"), FLUSH) == [up(text("one")), up(FLUSH)]


def test_a_turn_that_begins_with_a_space_is_sent_whole() -> None:
    talk = live()

    assert talk.client(text(" ")) == []
    assert talk.client(text("one"), FLUSH) == [up(text(" ")), up(text("one")), up(FLUSH)]


def test_spaces_alone_do_not_keep_the_machine_awake() -> None:
    talk = live(context_idle=60)
    talk.client(text(" "))

    assert talk.wait(59) == []
    assert talk.wait(1)[-1] == down(AUDIO_END)


def test_a_turn_of_spaces_between_two_others_ends_in_order() -> None:
    talk = live()
    talk.client(text("one"), FLUSH, text(" "), FLUSH, text("three"), FLUSH)

    steps = talk.upstream(b"1", AUDIO_END) + talk.wait(QUIET)
    assert [what for what in steps if what[0] != "error"] == [
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
