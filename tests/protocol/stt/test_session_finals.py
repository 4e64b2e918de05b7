"""Transcripts and finalizes of a plain STT session."""

from __future__ import annotations

from typing import Any

import pytest
from support.conversation import down, refusal, up
from support.plain_stt import FINALIZE, final, live, opening, partial

# Transcripts


def test_transcripts_keep_all_fields_of_upstream() -> None:
    talk = live()
    words = [{"word": "hi", "start": 0.1, "end": 0.2}]

    assert talk.upstream(partial("hi", confidence=0.9)) == [down(partial("hi", confidence=0.9))]
    assert talk.upstream(final("hi", confidence=0.9, words=words, extra={"a": 1})) == [
        down(final("hi", confidence=0.9, words=words, extra={"a": 1}))
    ]


def test_a_nested_transcript_is_copied_to_the_top() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "hi", "confidence": 0.9}]}

    assert talk.upstream({"type": "final_transcript", "channel": channel}) == [down(final("hi", channel=channel))]


def test_results_of_the_provider_become_the_bridges_own_messages() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "hi", "confidence": 0.9}]}

    assert talk.upstream({"type": "Results", "channel": channel, "is_final": True}) == [
        down(final("hi", confidence=0.9))
    ]
    assert talk.upstream({"type": "Results", "channel": channel, "is_final": False}) == [
        down(partial("hi", confidence=0.9))
    ]


@pytest.mark.parametrize(
    "message",
    [{"type": "SpeechStarted"}, {"type": "Metadata", "x": [1]}, {"type": "utterance_end", "last_word_end": 2.5}],
)
def test_other_messages_of_upstream_pass_unchanged(message: dict[str, Any]) -> None:
    assert live().upstream(message) == [down(message)]


def test_a_second_ready_is_not_passed_on() -> None:
    talk = live()

    assert talk.upstream({"type": "ready", "session_id": "other"}) == []
    assert talk.machine.counts["extra_ready"] == 1


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "1"])
def test_an_invalid_message_of_upstream_is_counted_and_not_passed_on(text: str) -> None:
    talk = live()

    assert talk.upstream(text) == []
    assert talk.machine.counts["unreadable_upstream_message"] == 1


def test_audio_from_an_stt_upstream_is_counted_and_not_passed_on() -> None:
    talk = live()

    assert talk.upstream(b"sound") == []
    assert talk.machine.counts["unexpected_upstream_binary"] == 1


def test_an_error_of_upstream_is_sent_in_the_sidecar_s_shape_and_the_session_goes_on() -> None:
    talk = live()

    assert talk.upstream({"type": "error", "data": {"code": "config_error", "message": "no such language"}}) == [
        refusal("config_error")
    ]
    assert talk.errors[0]["message"] == "no such language"
    assert talk.errors[0]["retryable"] is False
    assert talk.client(b"one") == [up(b"one")]


def test_a_temporary_error_is_not_sent_to_clients_that_end_at_any_error() -> None:
    talk = live()

    assert talk.upstream({"type": "error", "data": {"code": "rate_limit", "message": "slow down"}}) == []
    assert talk.machine.counts["upstream_errors"] == 1
    assert talk.client(b"one") == [up(b"one")]


@pytest.mark.parametrize(
    ("scope", "low_partial", "low_final"),
    [("all", "dropped", "emptied"), ("partials", "dropped", "kept"), ("off", "kept", "kept")],
)
def test_the_filter_drops_the_transcripts_of_its_scope(scope: str, low_partial: str, low_final: str) -> None:
    talk = live(confidence_threshold=0.5, confidence_scope=scope)

    steps = talk.upstream(partial("mumble", confidence=0.49))
    assert steps == ([] if low_partial == "dropped" else [down(partial("mumble", confidence=0.49))])
    steps = talk.upstream(final("mumble", confidence=0.49, words=[{"word": "mumble", "start": 0, "end": 1}]))
    if low_final == "emptied":
        assert steps == [down(final("", confidence=0.49))]
    else:
        assert steps[0][1]["transcript"] == "mumble"
    assert talk.machine.counts["dropped_partials"] == (low_partial == "dropped")
    assert talk.machine.counts["dropped_finals"] == (low_final == "emptied")


@pytest.mark.parametrize("confidence", [0.5, 0.51, 1, True, None, "0.1", [0.1]])
def test_a_score_at_the_threshold_and_no_score_at_all_pass(confidence: object) -> None:
    talk = live(confidence_threshold=0.5)

    assert talk.upstream(final("word", confidence=confidence)) == [down(final("word", confidence=confidence))]
    assert talk.upstream(partial("word", confidence=confidence)) == [down(partial("word", confidence=confidence))]


def test_a_nested_score_counts_as_well() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "mumble", "confidence": 0.1}]}

    assert talk.upstream({"type": "Results", "channel": channel}) == []
    assert talk.upstream({"type": "final_transcript", "transcript": "mumble", "channel": channel}) == [
        down(final("", confidence=0.1))
    ]


def test_a_score_beyond_all_numbers_is_passed_on_as_json() -> None:
    talk = live()

    steps = talk.upstream('{"type":"final_transcript","transcript":"word","confidence":1e999}')

    assert steps[0][1]["transcript"] == "word"


# Finalize


def test_finalize_goes_up_after_the_audio_before_it() -> None:
    assert live().client(b"one", FINALIZE, b"two") == [up(b"one"), up(FINALIZE), up(b"two")]


def test_a_final_that_answers_a_finalize_is_marked() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]
    assert talk.upstream(final("there")) == [down(final("there"))]


def test_partials_are_held_until_a_finalize_is_answered_and_while_they_repeat_the_answer() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(partial("hi")) == []
    assert talk.upstream(final("Hi there.")) == [down(final("Hi there.", from_finalize=True))]
    assert talk.upstream(partial("hi")) == []
    assert talk.upstream(partial("hi there")) == []
    assert talk.upstream(partial("how")) == [down(partial("how"))]


def test_each_of_two_finalizes_is_answered() -> None:
    talk = live()
    talk.client(b"one", FINALIZE, b"two", FINALIZE)

    steps = talk.upstream(final("one"), final("two"), final("three"))

    assert steps == [
        down(final("one", from_finalize=True)),
        down(final("two", from_finalize=True)),
        down(final("three")),
    ]


def test_a_finalize_without_speech_since_the_last_is_answered_at_once() -> None:
    talk = live()

    assert talk.client(FINALIZE) == [down(final("", from_finalize=True))]
    talk.client(b"one", FINALIZE)
    assert talk.client(FINALIZE) == [down(final("", from_finalize=True))]


def test_a_finalize_that_upstream_does_not_answer_is_answered_in_time() -> None:
    talk = live(finalize_timeout=3)
    talk.client(b"one", FINALIZE)

    assert talk.wait(2.9) == []
    assert talk.wait(0.1) == [down(final("", from_finalize=True))]
    assert talk.upstream(final("late")) == [down(final("late"))]


def test_an_empty_final_answers_a_finalize() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("")) == [down(final("", from_finalize=True))]


def test_an_empty_final_is_no_answer_while_a_partial_waits_for_its_final() -> None:
    talk = live()
    talk.client(b"one")
    talk.upstream(partial("hi"))
    talk.client(FINALIZE)

    assert talk.upstream(final("")) == [down(final(""))]
    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]


def test_a_final_that_upstream_marks_as_no_answer_is_not_an_answer() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("one", from_finalize=False)) == [down(final("one", from_finalize=False))]
    assert talk.upstream(final("two", from_finalize=True)) == [down(final("two", from_finalize=True))]
    assert talk.upstream(final("three")) == [down(final("three"))]


def test_results_keep_from_finalize() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)
    channel = {"alternatives": [{"transcript": "hi"}]}
    results = {"type": "Results", "channel": channel, "is_final": True}

    assert talk.upstream({**results, "from_finalize": False}) == [down(final("hi", from_finalize=False))]
    assert talk.upstream({**results, "from_finalize": True}) == [down(final("hi", from_finalize=True))]


def test_a_dropped_final_still_answers_the_finalize() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("mumble", confidence=0.1)) == [down(final("", confidence=0.1, from_finalize=True))]
    assert talk.upstream(final("clear", confidence=0.9)) == [down(final("clear", confidence=0.9))]


def test_a_finalize_before_ready_is_answered_as_well() -> None:
    talk = opening()
    talk.client(b"one", FINALIZE)
    talk.ready()

    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]
