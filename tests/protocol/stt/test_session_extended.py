"""An STT session of the extended dialect: coverage, replay, finalizes."""

from __future__ import annotations

from typing import Any

import pytest
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.stt.dialects import ExtendedStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from support.conversation import Conversation, client_closed, dial, down, fatal, refusal, up
from support.extended_stt import FINALIZE, INIT, final, finalized, live, sent, silence, speech, to_client

# Coverage


def test_word_times_show_which_audio_is_covered() -> None:
    talk = live()
    talk.client(speech(1000))

    (delivered,) = to_client(talk.upstream(final("one two", (0.1, 0.4), (0.5, 0.8))), "final_transcript")

    assert delivered["covered_ms"] == 800


def test_an_answer_without_word_times_covers_up_to_its_finalize() -> None:
    talk = live()
    talk.client(speech(900), silence(100), {**FINALIZE, "id": "a"})

    steps = talk.upstream(final("one"))

    assert to_client(steps, "final_transcript")[0]["finalize_id"] == "a"
    assert 900 <= to_client(steps, "final_transcript")[0]["covered_ms"] <= 1000
    assert to_client(steps, "finalized")[0]["outcome"] == "final"


def test_any_other_final_covers_nothing_newer_than_the_lag() -> None:
    talk = live(final_lag=2)
    talk.client(speech(1000))
    talk.wait(2)
    talk.client(speech(1000))

    (delivered,) = to_client(talk.upstream(final("one")), "final_transcript")

    assert delivered["covered_ms"] == 1000


# Drops


def test_uncovered_audio_is_replayed_and_both_changes_are_reported() -> None:
    talk = live()
    first, second = speech(1000), silence(200) + speech(800)
    talk.client(first)
    talk.upstream(final("one", (0.0, 1.0)))
    talk.client(second)

    assert talk.lost() == [
        down({"type": "status", "state": "reconnecting", "cause": "upstream_closed", "attempt": 1}),
        dial(1),
    ]
    talk.wait(0.6)
    more = speech(20)
    assert talk.client(more) == []
    steps = talk.ready()
    assert to_client(steps, "status") == [
        {"type": "status", "state": "connected", "attempt": 1, "gap_ms": 600, "replayed_ms": 1000, "dropped_ms": 0}
    ]
    assert sent(steps, 1) == second + more
    # Times are relative to the new connection's audio, which began at 1000 ms.
    assert to_client(talk.upstream(final("two", (0.2, 0.9))), "final_transcript")[0]["covered_ms"] == 1900


@pytest.mark.parametrize("size", [1, 3, 641])
def test_no_connection_begins_within_a_sample(size: int) -> None:
    talk = live(final_lag=0.2)
    pcm = speech(300) + silence(200) + speech(100)
    for start in range(0, len(pcm) - 1, size):
        talk.client(pcm[start : start + size])
        talk.wait(0.01)
    talk.upstream(final("one"))
    talk.lost()

    heard_again = sent(talk.ready(), 1)

    assert heard_again
    assert pcm.find(heard_again) % 2 == 0


def test_words_that_a_replay_repeats_are_removed() -> None:
    talk = live()
    talk.client(speech(1000))
    talk.upstream(final("please call the"))
    talk.lost()
    talk.ready()

    assert to_client(talk.upstream(final("the front desk")), "final_transcript")[0]["transcript"] == "front desk"
    assert to_client(talk.upstream(final("the end")), "final_transcript")[0]["transcript"] == "the end"
    assert talk.machine.counts["repeated_words"] == 1


def test_an_outage_longer_than_the_replay_buffer_reports_the_lost_audio() -> None:
    talk = live(replay_seconds=1)
    talk.client(speech(500))
    talk.lost()

    talk.client(speech(500))
    assert talk.client(speech(500)) == []  # only audio that was already sent upstream is dropped
    assert talk.client(speech(500)) == [refusal("audio_overflow")]
    assert talk.client(speech(500)) == []

    (status,) = to_client(talk.ready(), "status")
    assert (status["replayed_ms"], status["dropped_ms"]) == (0, 1500)


def test_a_lost_upstream_is_tried_at_once_and_then_after_growing_delays_until_the_time_is_up() -> None:
    talk = live(reconnect_seconds=3)
    down_for: list[float] = []
    lost_at = talk.now
    steps = talk.lost()
    while not talk.over:
        assert dial(talk.newest) in steps
        down_for.append(talk.now - lost_at)
        steps = talk.lost(GatewayError("upstream_unreachable", "nobody there"))
        while not talk.over and talk.newest not in talk.open:
            steps = talk.wait(0.01)
    assert down_for == pytest.approx([0, 0.25, 0.75, 1.75], abs=0.05)
    assert steps[-2:] == [fatal("upstream_unreachable"), client_closed(1011)]


def test_a_refusal_that_a_retry_cannot_change_ends_the_session() -> None:
    talk = live()
    talk.lost()

    assert talk.lost(GatewayError("auth_error", "the key")) == [fatal("auth_error"), client_closed(1008)]


def test_a_fatal_error_answers_what_is_open_first() -> None:
    talk = live()
    talk.client(speech(100), {**FINALIZE, "id": "a"})
    talk.lost()

    steps = talk.lost(GatewayError("auth_error", "the key"))

    assert steps == [finalized("a", "timeout", 0), fatal("auth_error"), client_closed(1008)]


def test_three_short_connections_in_a_row_end_the_session() -> None:
    talk = live()
    for _ in range(2):
        talk.lost()
        talk.wait(1)
        talk.ready()

    assert talk.lost()[-1] == client_closed(1011)
    assert "3 connections in a row" in talk.errors[-1]["message"]


# Finalizes


def test_a_final_of_earlier_speech_is_no_answer_while_later_speech_is_not_transcribed() -> None:
    talk = live()
    talk.client(speech(500), silence(400), speech(500), {**FINALIZE, "id": "a"})

    assert talk.upstream(final("one", (0.0, 0.5))) == []
    talk.wait(0.4)
    steps = talk.upstream(final("two", (0.9, 1.4)))
    assert [f.get("finalize_id") for f in to_client(steps, "final_transcript")] == [None, "a"]
    assert to_client(steps, "finalized")[0]["outcome"] == "final"


def test_audio_that_is_never_transcribed_delays_an_answer_by_half_a_second_only() -> None:
    talk = live()
    talk.client(speech(500), silence(100), speech(200), {**FINALIZE, "id": "a"})  # a word and a cough

    assert talk.upstream(final("one", (0.0, 0.5))) == []
    assert talk.wait(0.49) == []
    steps = talk.wait(0.01)
    assert [f["finalize_id"] for f in to_client(steps, "final_transcript")] == ["a"]
    assert to_client(steps, "finalized")[0]["outcome"] == "final"


def test_noise_before_a_finalize_delays_nothing() -> None:
    talk = live()
    talk.client(speech(500), speech(400, level=2000), {**FINALIZE, "id": "a"})

    assert to_client(talk.upstream(final("one", (0.0, 0.5))), "finalized")[0]["outcome"] == "final"


def test_each_finalize_has_one_outcome() -> None:
    talk = live(finalize_timeout=3)

    assert talk.client({**FINALIZE, "id": "nothing"}) == [finalized("nothing", "empty", 0)]
    talk.client(silence(100), {**FINALIZE, "id": "silence"})
    assert talk.upstream(final("")) == [finalized("silence", "empty", 90)]
    talk.client(speech(100), {**FINALIZE, "id": "mumble"})
    steps = talk.upstream(final("mumble", (0.1, 0.2), confidence=0.2))
    assert to_client(steps, "transcript_dropped") == [
        {
            "type": "transcript_dropped",
            "final": True,
            "confidence": 0.2,
            "threshold": 0.5,
            "transcript": "mumble",
            "covered_ms": 200,
            "finalize_id": "mumble",
        }
    ]
    assert to_client(steps, "finalized")[0]["outcome"] == "dropped"
    talk.client(speech(100), {**FINALIZE, "id": "slow"})
    assert talk.wait(3) == [finalized("slow", "timeout", 200)]
    (late,) = to_client(talk.upstream(final("late", (0.2, 0.3))), "final_transcript")
    assert late["late"] is True
    assert "finalize_id" not in late


def test_a_finalize_is_sent_again_after_a_drop() -> None:
    talk = live()
    pcm = speech(500)
    talk.client(pcm, {**FINALIZE, "id": "a"})
    talk.lost()

    assert talk.ready()[1:] == [up(pcm, 1), up(FINALIZE, 1)]
    assert to_client(talk.upstream(final("one", (0.0, 0.5))), "finalized")[0]["outcome"] == "final"


def test_an_expired_finalize_is_not_sent_again() -> None:
    # Its answer would be taken for the answer to the next finalize, and untranscribed audio for covered audio.
    talk = live(finalize_timeout=3)
    talk.client(speech(500), {"type": "finalize", "id": "a"})
    talk.lost()
    assert finalized("a", "timeout", 0) in talk.wait(3)
    talk.client(speech(500), {"type": "finalize", "id": "b"})

    steps = talk.ready()

    assert len([what for what in steps if what == up(FINALIZE, talk.newest)]) == 1
    message = final("one", from_finalize=True)
    (answer,) = to_client(talk.upstream(message), "finalized")
    assert (answer["finalize_id"], answer["outcome"]) == ("b", "final")


def test_finals_of_one_sentence_wait_for_each_other_if_the_route_splits_them() -> None:
    talk = live(model="gradium/stt:default")
    talk.client(speech(900), silence(20), {**FINALIZE, "id": "a"})

    assert talk.upstream(final("one")) == []
    steps = talk.upstream(final("two"))
    assert [f.get("finalize_id") for f in to_client(steps, "final_transcript")] == [None]
    steps = talk.wait(0.3)
    assert [(f["transcript"], f["finalize_id"]) for f in to_client(steps, "final_transcript")] == [("two", "a")]
    assert to_client(steps, "finalized")[0]["outcome"] == "final"


def test_no_audio_is_reported_as_covered_before_its_final_is_delivered() -> None:
    # A client that lost its connection in between would not send the audio again.
    talk = live()
    talk.client(speech(900), {**FINALIZE, "id": "a"})
    assert talk.upstream(final("one", (0.0, 0.3))) == []

    steps = talk.upstream(final("two", (0.3, 0.6)))
    assert [(f["transcript"], f["covered_ms"]) for f in to_client(steps, "final_transcript")] == [("one", 300)]
    steps = talk.wait(0.5)
    assert [(f["transcript"], f["covered_ms"]) for f in to_client(steps, "final_transcript")] == [("two", 600)]


def test_a_finalize_answered_while_a_final_is_held_covers_nothing_of_that_final() -> None:
    talk = live()
    talk.client(speech(900), {**FINALIZE, "id": "a"})
    assert talk.upstream(final("one", (0.0, 0.4))) == []

    assert talk.client({**FINALIZE, "id": "b"}) == [finalized("b", "empty", 0)]


def test_a_late_empty_answer_is_not_the_answer_to_the_next_finalize() -> None:
    talk = live(finalize_timeout=3)
    talk.client(silence(200), {**FINALIZE, "id": "a"})
    assert talk.wait(3) == [finalized("a", "timeout", 0)]
    talk.client(speech(500), {**FINALIZE, "id": "b"})

    assert to_client(talk.upstream(final("", from_finalize=True)), "finalized") == []

    steps = talk.upstream(final("one", (0.2, 0.7), from_finalize=True))
    assert [(answer["finalize_id"], answer["outcome"]) for answer in to_client(steps, "finalized")] == [("b", "final")]


@pytest.mark.parametrize("marked", [True, None])
def test_an_answer_that_may_be_late_covers_no_audio_of_the_next_finalize(marked: bool | None) -> None:
    talk = live(finalize_timeout=3)
    talk.client(speech(500), {**FINALIZE, "id": "a"})
    assert talk.wait(3) == [finalized("a", "timeout", 0)]
    untranscribed = speech(400) + silence(100)
    talk.client(untranscribed, {**FINALIZE, "id": "b"})

    talk.upstream(final("early", from_finalize=marked))

    talk.lost()
    assert sent(talk.ready(), talk.newest).endswith(untranscribed)


def test_a_final_is_held_no_longer_than_its_finalize_waits() -> None:
    talk = live(finalize_timeout=3)
    talk.client(speech(500), {**FINALIZE, "id": "a"}, speech(500), {**FINALIZE, "id": "b"}, speech(500))
    talk.wait(2.9)
    assert talk.upstream(final("one", (0.0, 0.2))) == []

    steps = talk.wait(0.1)

    assert steps[:2] == [
        down({**final("one", (0.0, 0.2)), "covered_ms": 200, "finalize_id": "a"}),
        finalized("a", "final", 200),
    ]
    assert steps[2] == finalized("b", "timeout", 200)


def test_a_held_final_is_the_answer_once_upstream_has_no_more_words() -> None:
    talk = live()
    talk.client(speech(900), {**FINALIZE, "id": "a"})
    assert talk.upstream(final("one", (0.0, 0.4))) == []

    steps = talk.upstream(final("", from_finalize=True))

    assert [f["finalize_id"] for f in to_client(steps, "final_transcript")] == ["a"]
    assert to_client(steps, "finalized")[0]["outcome"] == "final"


def test_a_held_final_is_the_answer_once_a_final_of_later_audio_follows() -> None:
    talk = live()
    talk.client(speech(900), {**FINALIZE, "id": "a"})
    # The half second before the finalize could be speech that is not transcribed yet.
    assert talk.upstream(final("one", (0.0, 0.4))) == []
    talk.client(speech(300), {**FINALIZE, "id": "b"})

    steps = talk.upstream(final("two", (0.9, 1.2)))

    assert [what[1].get("transcript", what[1].get("outcome")) for what in steps] == ["one", "final", "two", "final"]
    assert [f["finalize_id"] for f in to_client(steps, "final_transcript")] == ["a", "b"]


def test_a_held_final_is_the_answer_once_another_connection_gets_no_replay() -> None:
    talk = live(model="gradium/stt:default")
    talk.client(speech(900), silence(20), {**FINALIZE, "id": "a"})
    assert talk.upstream(final("one")) == []
    talk.lost()

    steps = talk.ready()

    assert [(f["transcript"], f["finalize_id"]) for f in to_client(steps, "final_transcript")] == [("one", "a")]
    assert [answer["outcome"] for answer in to_client(steps, "finalized")] == ["final"]


def test_a_held_final_is_no_answer_if_more_speech_is_replayed() -> None:
    talk = live()
    talk.client(speech(900), {**FINALIZE, "id": "a"})
    assert talk.upstream(final("one", (0.0, 0.4))) == []
    talk.lost()

    steps = talk.ready()
    assert [f.get("finalize_id") for f in to_client(steps, "final_transcript")] == [None]
    assert not to_client(steps, "finalized")
    steps = talk.upstream(final("two", (0.0, 0.5)))
    assert [(f["transcript"], f["finalize_id"]) for f in to_client(steps, "final_transcript")] == [("two", "a")]


# Further behaviour


@pytest.mark.parametrize(
    ("operator", "client", "low_final"),
    [("all", "partials", "kept"), ("all", "off", "kept"), ("partials", "all", "kept"), ("all", None, "dropped")],
)
def test_a_client_may_narrow_the_filter_but_not_widen_it(operator: Any, client: str | None, low_final: str) -> None:
    talk = Conversation(SttMachine(SttOptions(confidence_scope=operator), ExtendedStt("1", "1")))
    talk.client({**INIT, **({"confidence_scope": client} if client else {}), "standby": True})
    assert talk.inits == [INIT]
    talk.ready()
    talk.client(speech(100))

    steps = talk.upstream(final("mumble", confidence=0.1))
    assert bool(to_client(steps, "final_transcript")) == (low_final == "kept")


def test_backpressure_holds_audio_back_for_a_moment() -> None:
    talk = live()
    assert talk.upstream({"type": "error", "code": "backpressure"}) == []

    pcm = speech(20)
    assert talk.client(pcm) == []
    assert talk.wait(0.25) == [up(pcm, 0)]
