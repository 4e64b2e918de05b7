"""A plain TTS session whose upstream closes, fails or sends errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from slng_sidecar.protocol.errors import GatewayError
from support.conversation import (
    READY,
    Conversation,
    Step,
    client_closed,
    dial,
    down,
    fatal,
    refusal,
    retire,
    up,
    upstream_close,
)
from support.plain_tts import AUDIO_END, CLEAR, CLEARED, CLOSE, FLUSH, FLUSHED, INIT, QUIET, live, new, speaking, text

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
    assert talk.client(CLOSE) == [client_closed(1000)]


def test_the_loss_of_a_connection_kept_for_the_next_turn_is_not_noticed() -> None:
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


def test_the_age_of_a_standby_connection_counts() -> None:
    talk = new(rotate_seconds=1500)
    talk.client(INIT)
    talk.ready(since=talk.now - 1100)
    assert talk.wait(399) == []
    assert talk.wait(1) == [retire(0)]


def test_an_old_connection_finishes_its_turn() -> None:
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
def test_a_clean_close_after_audio_is_the_end_if_the_route_sends_no_terminal(code: int) -> None:
    talk = speaking()

    assert talk.lost(code) == [down(AUDIO_END)]
    assert talk.client(text("two")) == [dial(1)]


def test_a_clean_close_before_the_flush_is_a_failure() -> None:
    talk = live()
    talk.client(text("one"))
    talk.upstream(b"1")

    assert talk.lost(1000)[0] == refusal("upstream_closed")


@pytest.mark.parametrize("form", ["upstream", "flushed"])
def test_a_drop_within_the_audio_fails_that_turn_only(form: str) -> None:
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
def test_a_turn_lost_before_its_first_audio_is_sent_again_once(code: int) -> None:
    talk = live()
    talk.client(text("one"), text("two"), FLUSH)

    assert talk.lost(code) == [dial(1)]
    assert talk.ready() == [up(text("one"), 1), up(text("two"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.machine.counts["contexts_said_again"] == 1


def test_a_turn_lost_twice_before_its_first_audio_fails() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.lost()
    talk.ready()

    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END)]


def test_each_turn_may_be_sent_again_once() -> None:
    talk = live()
    for turn in ("one", "two"):
        assert talk.client(text(turn), FLUSH) == [up(text(turn), talk.newest), up(FLUSH, talk.newest)]
        assert talk.lost() == [dial(talk.newest)]
        talk.ready()
        assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]
        talk.wait(QUIET)


def test_a_turn_lost_before_its_flush_can_get_more_text() -> None:
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

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [fatal("auth_error"), client_closed(1008)]


def test_an_upstream_that_does_not_come_back_ends_the_session() -> None:
    talk = live(reconnect_seconds=60)
    talk.client(text("one"), FLUSH)
    begun = talk.now
    steps = talk.lost()
    while not talk.over:
        steps = talk.lost(GatewayError("not_ready", "busy", status=503))
        if not talk.over:
            talk.wait(talk.machine.deadline - talk.now)  # type: ignore[operator] # there is one

    assert steps == [fatal("not_ready"), client_closed(1013)]
    assert 50 < talk.now - begun <= 60


def test_a_loss_with_nobody_waiting_does_not_count_as_an_outage() -> None:
    talk = live(reconnect_seconds=60)
    assert talk.lost() == []
    talk.wait(1000)
    assert talk.client(text("one"), FLUSH) == [dial(1)]

    assert talk.lost(GatewayError("not_ready", "busy", status=503)) == [dial(2)]


def test_three_short_connections_in_a_row_end_the_session() -> None:
    talk = live()
    talk.client(*[text("one"), FLUSH] * 5)
    assert talk.lost() == [dial(1)]
    talk.ready()
    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END), dial(2)]
    talk.ready()

    assert talk.lost() == [fatal("upstream_closed"), client_closed(1011)]
    assert "3 connections in a row" in talk.errors[-1]["message"]


def test_short_connections_that_end_with_their_turn_by_design_do_not_count() -> None:
    talk = live()
    for _ in range(10):
        talk.client(text("one"), FLUSH)
        if talk.open.get(talk.newest) is False:
            talk.ready()
        talk.upstream(b"1")
        assert down(AUDIO_END) in talk.lost(1000)
        assert not talk.over


def test_ready_is_sent_once_however_many_connections_there_are() -> None:
    talk = live()
    talk.lost()
    talk.client(text("one"))

    assert talk.ready() == [up(text("one"), 1)]


def test_events_of_an_earlier_connection_are_ignored() -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.lost()
    talk.ready()

    assert talk.upstream(b"old", AUDIO_END, CLEARED, connection=0) == []
    assert talk.machine.upstream_lost(0, upstream_close(), talk.now) == []
    assert talk.machine.upstream_ready(0, json.dumps(READY), talk.now) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]


def test_the_client_does_not_notice_that_an_idle_connection_is_lost_or_expires() -> None:
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


def test_a_spent_session_is_replaced_and_the_turn_sent_again() -> None:
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
def test_an_error_that_a_retry_cannot_change_fails_the_turn_at_once(error: dict[str, Any]) -> None:
    talk = live()
    talk.client(text("one"), FLUSH, text("two"))

    steps = talk.upstream({"type": "error", **error})

    assert [what[0] for what in steps] == ["retire", "error", "down", "dial"]
    assert steps[2] == down(AUDIO_END)
    assert talk.errors[0]["retryable"] is False


def test_an_error_after_audio_fails_the_turn() -> None:
    talk = speaking()

    assert talk.upstream({"type": "error", "code": "backpressure", "message": "busy"}) == [
        retire(0),
        refusal("backpressure"),
        down(AUDIO_END),
    ]


# One terminal per turn, even if the turn failed before the client had sent all of its text


def failed_before_its_flush() -> tuple[Conversation, list[Step]]:
    talk = live()
    talk.client(text("one"))
    talk.upstream(b"1")
    steps = talk.lost()
    assert steps[0] == refusal("upstream_closed")
    return talk, steps


def test_a_turn_that_failed_before_its_flush_has_one_terminal() -> None:
    talk, steps = failed_before_its_flush()

    steps += talk.client(FLUSH)
    steps += talk.wait(1000)

    assert steps.count(down(AUDIO_END)) == 1
    assert talk.client(text("two"), FLUSH) == [dial(1)]


def test_a_turn_that_failed_before_its_flush_has_one_terminal_whatever_text_follows() -> None:
    talk, steps = failed_before_its_flush()

    steps += talk.client(text("the rest"), FLUSH, text("new"), FLUSH)
    for _ in range(3):
        if talk.open.get(talk.newest) is False:
            steps += talk.ready()
        if talk.open.get(talk.newest):
            steps += talk.upstream(AUDIO_END)
        steps += talk.wait(QUIET)

    assert steps.count(down(AUDIO_END)) == 2  # its own terminal and that of the new turn
    assert talk.machine.deadline is None


def test_a_turn_that_failed_and_is_never_flushed_ends_by_itself() -> None:
    talk, steps = failed_before_its_flush()

    steps += talk.wait(1000)

    assert steps.count(down(AUDIO_END)) == 1
    assert talk.machine.deadline is None


def test_a_turn_that_failed_can_be_cleared_and_the_next_is_whole() -> None:
    talk, _ = failed_before_its_flush()

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.client(text("new"), FLUSH) == [dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]


def test_the_flush_of_a_turn_that_ended_by_itself_causes_no_second_terminal() -> None:
    talk = live(context_idle=60)
    talk.client(text("one"))
    talk.upstream(b"1")
    assert talk.wait(60) == [up(FLUSH)]
    assert talk.upstream(AUDIO_END) == [down(AUDIO_END)]

    talk.wait(QUIET)
    assert talk.client(FLUSH) == []
    assert talk.client(text("two"), FLUSH) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END)]
