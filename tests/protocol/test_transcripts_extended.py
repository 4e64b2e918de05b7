"""The extended dialect of STT as a conversation: coverage, replay, finalizes, updates."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from conversation import Conversation, Said, dial, down, fatal, goodbye, hung_up, refusal, retire, up
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.stt_dialects import ExtendedStt
from slng_sidecar.protocol.transcripts import SttMachine, SttOptions

INIT = {"type": "init", "config": {"sample_rate": 16_000, "language": "en"}}
FINALIZE, CLOSE = {"type": "finalize"}, {"type": "close"}
NO_SLOT = GatewayError("rate_limit", "too many concurrent connections")


def speech(ms: int, level: int = 8000) -> bytes:
    """Sound as loud as speech."""
    return array("h", [level, -level] * (ms * 8)).tobytes()


def silence(ms: int) -> bytes:
    return bytes(ms * 32)


def final(text: str, *spans: tuple[float, float], **fields: Any) -> dict[str, Any]:
    """A final, with word times in seconds of its connection's audio where spans are given."""
    words = [{"word": w, "start": s[0], "end": s[1]} for w, s in zip(text.split(), spans, strict=False)]
    return {"type": "final_transcript", "transcript": text, **({"words": words} if words else {}), **fields}


def live(**options: Any) -> Conversation:
    options.setdefault("jitter", lambda: 0.5)
    talk = Conversation(SttMachine(SttOptions(**options), ExtendedStt("1.2.3", "7")))
    assert talk.client(INIT) == [dial(0)]
    assert talk.ready(slng_request_id="r") == [
        down(
            {
                "type": "ready",
                "session_id": "s1",
                "slng_request_id": "r",
                "sidecar": {"version": "1.2.3", "session": "7"},
            }
        )
    ]
    return talk


def told(said: list[Said], kind: str) -> list[dict[str, Any]]:
    return [what[1] for what in said if what[0] == "down" and what[1]["type"] == kind]


def sent(said: list[Said], connection: int) -> bytes:
    return b"".join(what[2] for what in said if what[:2] == ("up", connection) and isinstance(what[2], bytes))


def finalized(name: str | None, outcome: str, covered_ms: int) -> Said:
    return down({"type": "finalized", "finalize_id": name, "outcome": outcome, "covered_ms": covered_ms})


# Coverage


def test_word_times_say_what_is_covered() -> None:
    talk = live()
    talk.client(speech(1000))

    (heard,) = told(talk.upstream(final("one two", (0.1, 0.4), (0.5, 0.8))), "final_transcript")

    assert heard["covered_ms"] == 800


def test_an_answer_without_word_times_covers_up_to_its_finalize() -> None:
    talk = live()
    talk.client(speech(900), silence(100), {**FINALIZE, "id": "a"})

    said = talk.upstream(final("one"))

    assert told(said, "final_transcript")[0]["finalize_id"] == "a"
    assert 900 <= told(said, "final_transcript")[0]["covered_ms"] <= 1000
    assert told(said, "finalized")[0]["outcome"] == "final"


def test_any_other_final_covers_nothing_newer_than_the_lag() -> None:
    talk = live(final_lag=2)
    talk.client(speech(1000))
    talk.wait(2)
    talk.client(speech(1000))

    (heard,) = told(talk.upstream(final("one")), "final_transcript")

    assert heard["covered_ms"] == 1000


# Drops


def test_what_is_not_covered_is_heard_again_and_both_changes_are_told() -> None:
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
    said = talk.ready()
    assert told(said, "status") == [
        {"type": "status", "state": "connected", "attempt": 1, "gap_ms": 600, "replayed_ms": 1000, "dropped_ms": 0}
    ]
    assert sent(said, 1) == second + more
    # Times are those of the new connection's audio, which began at 1000 ms.
    assert told(talk.upstream(final("two", (0.2, 0.9))), "final_transcript")[0]["covered_ms"] == 1900


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


def test_words_said_again_at_the_seam_are_taken_out() -> None:
    talk = live()
    talk.client(speech(1000))
    talk.upstream(final("please call the"))
    talk.lost()
    talk.ready()

    assert told(talk.upstream(final("the front desk")), "final_transcript")[0]["transcript"] == "front desk"
    assert told(talk.upstream(final("the end")), "final_transcript")[0]["transcript"] == "the end"
    assert talk.machine.counts["repeated_words"] == 1


def test_an_outage_longer_than_the_ring_says_what_it_cost() -> None:
    talk = live(replay_seconds=1)
    talk.client(speech(500))
    talk.lost()

    talk.client(speech(500))
    assert talk.client(speech(500)) == []  # only what had been heard once is given up
    assert talk.client(speech(500)) == [refusal("audio_overflow")]
    assert talk.client(speech(500)) == []

    (status,) = told(talk.ready(), "status")
    assert (status["replayed_ms"], status["dropped_ms"]) == (0, 1500)


def test_a_lost_upstream_is_tried_at_once_and_then_after_growing_delays_until_the_time_is_up() -> None:
    talk = live(reconnect_seconds=3)
    down_for: list[float] = []
    lost_at = talk.now
    said = talk.lost()
    while not talk.over:
        assert dial(talk.newest) in said
        down_for.append(talk.now - lost_at)
        said = talk.lost(GatewayError("upstream_unreachable", "nobody there"))
        while not talk.over and talk.newest not in talk.open:
            said = talk.wait(0.01)
    assert down_for == pytest.approx([0, 0.25, 0.75, 1.75], abs=0.05)
    assert said[-2:] == [fatal("upstream_unreachable"), goodbye(1011)]


def test_a_refusal_that_trying_again_cannot_change_ends_the_session() -> None:
    talk = live()
    talk.lost()

    assert talk.lost(GatewayError("auth_error", "the key")) == [fatal("auth_error"), goodbye(1008)]


def test_a_fatal_error_answers_what_is_open_first() -> None:
    talk = live()
    talk.client(speech(100), {**FINALIZE, "id": "a"})
    talk.lost()

    said = talk.lost(GatewayError("auth_error", "the key"))

    assert said == [finalized("a", "timeout", 0), fatal("auth_error"), goodbye(1008)]


def test_three_short_lives_in_a_row_end_the_session() -> None:
    talk = live()
    for _ in range(2):
        talk.lost()
        talk.wait(1)
        talk.ready()

    assert talk.lost()[-1] == goodbye(1011)
    assert "3 connections in a row" in talk.errors[-1]["message"]


# Finalizes


def test_a_final_of_earlier_speech_is_no_answer_while_later_speech_is_not_transcribed() -> None:
    talk = live()
    talk.client(speech(500), silence(400), speech(500), {**FINALIZE, "id": "a"})

    assert talk.upstream(final("one", (0.0, 0.5))) == []
    talk.wait(0.4)
    said = talk.upstream(final("two", (0.9, 1.4)))
    assert [f.get("finalize_id") for f in told(said, "final_transcript")] == [None, "a"]
    assert told(said, "finalized")[0]["outcome"] == "final"


def test_sound_that_is_never_transcribed_delays_an_answer_by_half_a_second_only() -> None:
    talk = live()
    talk.client(speech(500), silence(100), speech(200), {**FINALIZE, "id": "a"})  # a word, and a cough

    assert talk.upstream(final("one", (0.0, 0.5))) == []
    assert talk.wait(0.49) == []
    said = talk.wait(0.01)
    assert [f["finalize_id"] for f in told(said, "final_transcript")] == ["a"]
    assert told(said, "finalized")[0]["outcome"] == "final"


def test_noise_before_a_finalize_delays_nothing() -> None:
    talk = live()
    talk.client(speech(500), speech(400, level=2000), {**FINALIZE, "id": "a"})

    assert told(talk.upstream(final("one", (0.0, 0.5))), "finalized")[0]["outcome"] == "final"


def test_each_finalize_has_one_outcome() -> None:
    talk = live(finalize_timeout=3)

    assert talk.client({**FINALIZE, "id": "nothing"}) == [finalized("nothing", "empty", 0)]
    talk.client(silence(100), {**FINALIZE, "id": "silence"})
    assert talk.upstream(final("")) == [finalized("silence", "empty", 90)]
    talk.client(speech(100), {**FINALIZE, "id": "mumble"})
    said = talk.upstream(final("mumble", (0.1, 0.2), confidence=0.2))
    assert told(said, "transcript_dropped") == [
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
    assert told(said, "finalized")[0]["outcome"] == "dropped"
    talk.client(speech(100), {**FINALIZE, "id": "slow"})
    assert talk.wait(3) == [finalized("slow", "timeout", 200)]
    (late,) = told(talk.upstream(final("late", (0.2, 0.3))), "final_transcript")
    assert late["late"] is True
    assert "finalize_id" not in late


def test_a_finalize_is_asked_again_after_a_drop() -> None:
    talk = live()
    pcm = speech(500)
    talk.client(pcm, {**FINALIZE, "id": "a"})
    talk.lost()

    assert talk.ready()[1:] == [up(pcm, 1), up(FINALIZE, 1)]
    assert told(talk.upstream(final("one", (0.0, 0.5))), "finalized")[0]["outcome"] == "final"


def test_a_finalize_whose_time_has_run_out_is_not_asked_again() -> None:
    # Its answer would be taken for that of the next one, and audio that was not transcribed yet for covered.
    talk = live(finalize_timeout=3)
    talk.client(speech(500), {"type": "finalize", "id": "a"})
    talk.lost()
    assert finalized("a", "timeout", 0) in talk.wait(3)
    talk.client(speech(500), {"type": "finalize", "id": "b"})

    said = talk.ready()

    assert len([what for what in said if what == up(FINALIZE, talk.newest)]) == 1
    heard = final("one", from_finalize=True)
    (answer,) = told(talk.upstream(heard), "finalized")
    assert (answer["finalize_id"], answer["outcome"]) == ("b", "final")


def test_finals_of_one_sentence_wait_for_each_other_where_the_route_splits_them() -> None:
    talk = live(model="gradium/stt:default")
    talk.client(speech(900), silence(20), {**FINALIZE, "id": "a"})

    assert talk.upstream(final("one")) == []
    said = talk.upstream(final("two"))
    assert [f.get("finalize_id") for f in told(said, "final_transcript")] == [None]
    said = talk.wait(0.3)
    assert [(f["transcript"], f["finalize_id"]) for f in told(said, "final_transcript")] == [("two", "a")]
    assert told(said, "finalized")[0]["outcome"] == "final"


# Updates


def update(**config: Any) -> dict[str, Any]:
    return {"type": "update", "id": "u", "config": config}


def updated(said: list[Said]) -> list[dict[str, Any]]:
    return told(said, "updated")


def test_the_old_connection_hears_on_until_the_new_one_is_ready() -> None:
    talk = live()

    assert talk.client(update(language="de")) == [dial(1)]
    assert talk.inits[1]["config"] == {"sample_rate": 16_000, "language": "de"}
    pcm = speech(100)
    assert talk.client(pcm) == [up(pcm, 0)]


def test_two_hundred_ms_of_silence_is_the_cut_and_the_old_finals_come_first() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"), speech(100))
    talk.ready()
    said = talk.client(silence(200))

    (answer,) = updated(said)
    assert answer == {
        "type": "updated", "id": "u", "applied": {"language": "de"}, "unchanged": [], "rejected": {}, "cut_ms": 1300,
    }  # fmt: skip
    assert [what for what in said if what in (up(FINALIZE, 0), up(CLOSE, 0))] == [up(FINALIZE, 0), up(CLOSE, 0)]
    assert talk.client(pcm := speech(40)) == [up(pcm, 1)]
    assert talk.upstream(final("new", (0.0, 0.04)), connection=1) == []
    said = talk.upstream(final("old", (0.0, 1.1)), connection=0)
    assert [f["transcript"] for f in told(said, "final_transcript")] == ["old", "new"]
    assert [f["covered_ms"] for f in told(said, "final_transcript")] == [1100, 1340]
    assert retire(0) in said


def test_without_silence_the_quietest_moment_of_what_is_held_back_is_the_cut() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    for _ in range(15):  # no pause for longer than anybody should wait
        assert sent(talk.client(speech(100)), 0)
        talk.wait(0.1)
    held = [speech(100), speech(100), silence(40), speech(160), speech(100)]
    assert talk.client(*held[:-1]) == []
    said = talk.client(held[-1])
    (answer,) = updated(said)
    assert 2500 + 200 <= answer["cut_ms"] <= 2500 + 240
    whole = b"".join(held)
    assert sent(said, 0) + sent(said, 1) == whole
    assert sent(said, 0)[:6400] == whole[:6400]


def test_a_refused_update_leaves_the_old_settings_in_force() -> None:
    talk = live()
    talk.client(speech(100), {"type": "update", "id": "u", "config": {"language": "xx"}, "model": "deepgram/nova:3"})

    (answer,) = updated(talk.lost(GatewayError("config_error", "no such language")))

    assert answer["applied"] == {}
    assert answer["rejected"] == {"language": "no such language", "model": "no such language"}
    assert talk.client(pcm := speech(20)) == [up(pcm, 0)]


def test_what_cannot_be_updated_is_rejected_by_name() -> None:
    talk = live()

    said = talk.client(
        {"type": "update", "id": "u", "config": {"sample_rate": 8000, "language": "en"}, "model": "nova"}
    )

    (answer,) = updated(said)
    assert answer["applied"] == {}
    assert answer["unchanged"] == ["language"]
    assert set(answer["rejected"]) == {"sample_rate", "model"}


def test_of_several_waiting_updates_the_last_wins_and_all_are_answered() -> None:
    talk = live()
    talk.client({**update(language="de"), "id": "a"})
    said = talk.client({**update(language="fr", diarize=True), "id": "b"})
    assert said == [retire(1), dial(2)]
    assert talk.inits[2]["config"] == {"sample_rate": 16_000, "language": "fr", "diarize": True}

    assert [answer["id"] for answer in updated(talk.ready())] == ["a", "b"]


def test_where_upstream_has_no_second_slot_the_old_one_goes_first_and_audio_waits() -> None:
    talk = live()
    talk.client(speech(1000), silence(300), update(language="de"))

    said = talk.lost(NO_SLOT)
    assert [what for what in said if what[0] == "up"] == [up(FINALIZE, 0), up(CLOSE, 0)]
    assert updated(said) == []
    pcm = speech(500)
    assert talk.client(pcm) == []
    talk.wait(0.3)
    said = talk.upstream(final("old", (0.0, 1.0)), connection=0)
    assert [what for what in said if what[0] in ("retire", "dial")] == [retire(0), dial(2)]
    talk.wait(0.2)
    said = talk.ready()
    assert updated(said)[0]["applied"] == {"language": "de"}
    assert told(said, "status")[0]["gap_ms"] == 500
    assert sent(said, 2) == pcm


def test_a_drop_during_an_update_loses_neither_side() -> None:
    talk = live()
    old = speech(1000)
    talk.client(old, update(language="de"))
    talk.ready()
    talk.client(silence(200))
    talk.client(new := speech(300))
    talk.upstream(final("new", (0.0, 0.3)), connection=1)
    del talk.open[0]
    said = [talk._carried_out(c) for c in talk.machine.upstream_lost(0, hung_up(), talk.now)]

    assert dial(2) in said
    assert talk.inits[2] == INIT  # the old settings, for the old audio
    said = talk.ready()
    assert sent(said, 2)[: len(old)] == old
    said = talk.upstream(final("old", (0.0, 1.0)), connection=2)
    assert [f["transcript"] for f in told(said, "final_transcript")] == ["old", "new"]
    assert new


def test_old_audio_that_upstream_will_not_hear_again_is_told_in_milliseconds() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    talk.client(silence(200), speech(300))
    del talk.open[0]
    refused = GatewayError("auth_error", "no", status=401)

    said = [talk._carried_out(c) for c in talk.machine.upstream_lost(0, refused, talk.now)]

    (status,) = told(said, "status")
    assert status == {"type": "status", "state": "connected", "cause": "auth_error", "attempt": 0, "gap_ms": 0,
                      "replayed_ms": 0, "dropped_ms": 1200}  # fmt: skip
    talk.upstream(final("new", (0.0, 0.3)), connection=1)
    assert not talk.over


def test_old_audio_whose_finals_do_not_come_in_time_is_told_in_milliseconds() -> None:
    talk = live(finalize_timeout=3)
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    said = talk.client(silence(200), speech(300))
    assert not told(said, "status")

    (status,) = told(talk.wait(3), "status")

    assert (status["state"], status["cause"], status["dropped_ms"]) == ("connected", "upstream_timeout", 1200)


def test_what_upstream_leaves_unsaid_at_the_close_is_told_in_milliseconds() -> None:
    talk = live(close_timeout=5)
    talk.client(speech(1000))
    talk.upstream(final("one", (0.1, 0.4)))
    talk.client({"type": "close"})

    said = talk.wait(5)

    (status,) = told(said, "status")
    assert (status["state"], status["cause"], status["dropped_ms"]) == ("connected", "upstream_timeout", 600)
    assert said[-1] == goodbye(1000)


def test_a_long_session_moves_to_a_fresh_connection_at_a_quiet_moment() -> None:
    talk = live(rotate_seconds=1500)
    talk.wait(1499)
    talk.client(speech(100))

    assert talk.wait(1) == [dial(1)]
    talk.client(speech(100))
    assert talk.ready() == []
    talk.client(speech(100))
    said = talk.client(silence(200))
    assert up(CLOSE, 0) in said
    assert updated(said) == told(said, "status") == []
    assert talk.client(pcm := speech(20)) == [up(pcm, 1)]


def test_the_age_of_a_spare_counts() -> None:
    talk = live(rotate_seconds=1500)
    talk.wait(1500)
    talk.ready(since=talk.now - 1100)
    talk.client(silence(200))
    assert talk.open == {1: True}
    assert talk.wait(399) == []
    assert talk.wait(1) == [dial(2)]


def test_a_rotation_that_is_refused_is_not_tried_again_at_once() -> None:
    talk = live(rotate_seconds=1500)
    assert talk.wait(1500) == [dial(1)]

    assert talk.lost(NO_SLOT) == []
    assert talk.wait(59) == []
    assert talk.wait(1) == [dial(2)]


# Small things


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

    said = talk.upstream(final("mumble", confidence=0.1))
    assert bool(told(said, "final_transcript")) == (low_final == "kept")


def test_backpressure_holds_audio_back_for_a_moment() -> None:
    talk = live()
    assert talk.upstream({"type": "error", "code": "backpressure"}) == []

    pcm = speech(20)
    assert talk.client(pcm) == []
    assert talk.wait(0.25) == [up(pcm, 0)]
