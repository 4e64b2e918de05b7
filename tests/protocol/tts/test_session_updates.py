"""Updates of a TTS session: they apply from the next context on, and nothing is cut."""

from __future__ import annotations

from typing import Any

import pytest
from slng_sidecar.protocol.errors import GatewayError
from support.conversation import READY, Step, client_closed, dial, down, refusal, retire, up
from support.extended_tts import (
    AUDIO_END,
    BUSY,
    CLOSE,
    FLUSH,
    INIT,
    MS,
    NO_SUCH_VOICE,
    QUIET,
    end,
    flush,
    live,
    opening,
    speaking,
    start,
    text,
    update,
    updated,
    words,
)


def test_an_update_dials_at_once_and_is_answered_when_the_connection_is_ready() -> None:
    talk = live()

    assert talk.client(update("u", voice="w", config={"speed": 1.2})) == [dial(1)]
    assert talk.inits[1] == {**INIT, "voice": "w", "config": {**INIT["config"], "speed": 1.2}}
    assert talk.ready() == [updated("u", {"speed": 1.2, "voice": "w"}), retire(0)]
    assert talk.client(text("a", "one")) == [words("one", 1)]


def test_texts_before_an_update_keep_their_settings() -> None:
    talk = speaking()
    talk.client(text("b", "two"), flush("b"), update("u", voice="w"), text("c", "three"), flush("c"))
    assert talk.ready() == [updated("u", {"voice": "w"})]

    assert talk.upstream(AUDIO_END, connection=0) == [end("a", ms=1, first=0)]
    assert talk.wait(QUIET) == [words("two", 0), up(FLUSH, 0)]
    steps = talk.upstream(MS, AUDIO_END, connection=0)
    assert steps == [start("b"), down(MS), end("b", ms=1, first=100), retire(0), words("three", 1), up(FLUSH, 1)]
    assert talk.upstream(MS, AUDIO_END) == [start("c"), down(MS), end("c", ms=1, first=100)]


def test_a_context_may_span_an_update_and_is_one_context() -> None:
    talk = live()
    talk.client(text("a", "one"))
    assert talk.upstream(MS) == [start("a"), down(MS)]

    assert talk.client(update("u", voice="w")) == [up(FLUSH), dial(1)]
    assert talk.client(text("a", "two")) == []
    assert talk.ready() == [updated("u", {"voice": "w"})]
    assert talk.upstream(MS, AUDIO_END, connection=0) == [down(MS), retire(0), words("two", 1)]
    assert talk.client(flush("a")) == [up(FLUSH, 1)]
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=3, first=0)]


def test_a_context_whose_update_brought_no_text_ends_with_its_flush() -> None:
    talk = live()
    talk.client(text("a", "one"), update("u", voice="w"))
    talk.ready()

    assert talk.upstream(MS, AUDIO_END, connection=0) == [start("a"), down(MS), retire(0)]
    assert talk.client(flush("a")) == [end("a", ms=1, first=0)]


def test_updates_without_text_between_them_are_merged_and_all_are_answered() -> None:
    talk = live()

    assert talk.client(update("u", voice="w")) == [dial(1)]
    assert talk.client(update("v", voice="x", config={"speed": 2})) == [retire(1), dial(2)]
    assert talk.inits[2]["voice"] == "x"
    assert talk.ready() == [updated("u", {"voice": "w"}), updated("v", {"voice": "x", "speed": 2}), retire(0)]


def test_updates_with_text_between_them_stay_separate() -> None:
    talk = live()
    talk.client(update("u", voice="w"), text("a", "one"), flush("a"))

    assert talk.client(update("v", voice="x"), text("b", "two"), flush("b")) == [dial(2)]
    assert talk.ready(connection=1) == [updated("u", {"voice": "w"}), retire(0), words("one", 1), up(FLUSH, 1)]
    assert talk.ready() == [updated("v", {"voice": "x"})]
    assert talk.upstream(AUDIO_END, connection=1) == [end("a"), retire(1), words("two", 2), up(FLUSH, 2)]


@pytest.mark.parametrize("wanted", [{"voice": "v"}, {"config": {"encoding": "mulaw"}}, {"config": 7}, {}])
def test_an_update_that_changes_nothing_is_answered_at_once(wanted: dict[str, Any]) -> None:
    talk = speaking()

    steps = talk.client(update("u", **wanted))
    assert [what[1]["type"] for what in steps] == ["updated"]
    assert steps[0][1]["applied"] == {}
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=2, first=0)]


def test_the_valid_fields_of_an_update_are_applied_and_the_rest_is_named() -> None:
    talk = live()
    talk.client(update("u", voice="v", config={"sample_rate": 8000, "encoding": "mulaw", "speed": 2}))

    (steps, _) = talk.ready()
    assert steps[1]["applied"] == {"speed": 2}
    assert steps[1]["unchanged"] == ["voice"]
    assert set(steps[1]["rejected"]) == {"sample_rate", "encoding"}


def test_fields_of_an_update_that_do_not_exist_are_ignored_and_counted() -> None:
    talk = live()

    assert talk.client(update("u", volume=11)) == [updated("u")]
    assert talk.machine.counts["unknown_client_fields"] == 1


def test_another_model_is_dialled_and_a_hosted_one_refused_to_a_client_with_its_own_key() -> None:
    talk = live(model="deepgram/aura:2", own_provider_key=True)

    assert talk.client(update("u", model="rime/mist:2")) == [dial(1)]
    assert talk.ready()[0] == updated("u", {"model": "rime/mist:2"})
    (steps,) = talk.client(update("v", model="slng/deepgram/aura:2-en"))
    assert "BYOK" in steps[1]["rejected"]["model"]
    (steps,) = talk.client(update("w", model="nonsense"))
    assert "nonsense" in steps[1]["rejected"]["model"]


def test_refused_settings_leave_the_old_ones_in_effect() -> None:
    talk = live()
    talk.client(update("u", voice="w", config={"encoding": "mulaw"}))

    (steps,) = talk.lost(NO_SUCH_VOICE)
    assert steps[1]["rejected"]["voice"] == "no such voice"
    assert set(steps[1]["rejected"]) == {"voice", "encoding"}
    assert talk.client(text("a", "one"), flush("a")) == [words("one"), up(FLUSH)]


def test_texts_that_wait_for_refused_settings_are_spoken_with_the_previous_ones() -> None:
    talk = speaking()
    talk.client(update("u", voice="w"), text("b", "two"), flush("b"))

    assert talk.lost(NO_SUCH_VOICE) == [
        updated("u", rejected={"voice": "no such voice"}),
        refusal("config_error"),
    ]
    assert talk.errors[0]["context_id"] == "b"
    assert talk.upstream(AUDIO_END, connection=0) == [end("a", ms=1, first=0)]
    assert talk.wait(QUIET) == [words("two", 0), up(FLUSH, 0)]


def test_a_later_update_is_applied_without_the_fields_refused_before_it() -> None:
    talk = live()
    talk.client(update("u", voice="w"), text("a", "one"), flush("a"))
    talk.client(update("v", config={"speed": 2}), text("b", "two"), flush("b"))
    assert talk.inits[2]["voice"] == "w"

    steps = talk.lost(NO_SUCH_VOICE, connection=1)
    assert steps == [
        updated("u", rejected={"voice": "no such voice"}),
        refusal("config_error"),
        retire(2),
        words("one", 0),
        up(FLUSH, 0),
        dial(3),
    ]
    assert talk.inits[3] == {**INIT, "config": {**INIT["config"], "speed": 2}}
    assert talk.ready() == [updated("v", {"speed": 2})]
    assert talk.upstream(AUDIO_END, connection=0) == [end("a"), retire(0), words("two", 3), up(FLUSH, 3)]


def test_an_update_whose_connection_does_not_open_now_is_tried_again() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    assert talk.lost(BUSY) == [dial(2)]
    assert talk.lost(BUSY) == []
    assert talk.wait(0.25) == [dial(3)]
    assert talk.ready() == [updated("u", {"voice": "w"}), retire(0)]


def test_an_update_whose_connection_never_opens_is_refused() -> None:
    talk = live(reconnect_seconds=1)
    talk.client(update("u", voice="w"))

    steps: list[Step] = []
    for _ in range(10):
        if talk.open.get(talk.newest) is False:
            steps += talk.lost(BUSY)
        steps += talk.wait(1)
    assert [what[1]["rejected"].keys() for what in steps if what[0] == "down"] == [{"voice"}]
    assert talk.client(text("a", "one")) == [words("one")]


def test_a_connection_without_a_turn_makes_room_if_upstream_has_no_slot() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    assert talk.lost(GatewayError("rate_limit", "too many", status=429)) == [retire(0), dial(2)]
    assert talk.ready() == [updated("u", {"voice": "w"})]


def test_an_update_to_the_current_settings_is_applied_at_once() -> None:
    talk = live()
    talk.client(text("a", "one"), update("u", voice="w"))

    assert talk.client(update("v", voice="v")) == [
        updated("u", {"voice": "w"}),
        updated("v", {"voice": "v"}),
        retire(1),
    ]


def test_an_update_is_answered_if_the_session_ends_before() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    steps = talk.client(CLOSE)
    assert set(steps[0][1]["rejected"]) == {"voice"}
    assert steps[1:] == [retire(0), retire(1), client_closed(1000)]


def test_an_update_before_ready_applies_to_the_texts_after_it() -> None:
    talk = opening()
    assert talk.client(text("a", "one"), flush("a"), update("u", voice="w"), text("b", "two"), flush("b")) == [dial(1)]

    assert talk.ready() == [
        down({**READY, "sidecar": {"version": "1.2.3", "session": "7"}}),
        updated("u", {"voice": "w"}),
    ]
    assert talk.ready(connection=0) == [words("one", 0), up(FLUSH, 0)]
    assert talk.upstream(AUDIO_END, connection=0) == [end("a"), retire(0), words("two", 1), up(FLUSH, 1)]
