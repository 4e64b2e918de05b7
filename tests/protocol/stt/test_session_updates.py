"""Updates and rotations of an STT session: applied at their place in the audio, without losing a word."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from support.conversation import Step, client_closed, dial, retire, up
from support.extended_stt import (
    CLOSE,
    FINALIZE,
    INIT,
    NO_SLOT,
    final,
    finalized,
    live,
    sent,
    silence,
    speech,
    to_client,
)


def update(**config: Any) -> dict[str, Any]:
    return {"type": "update", "id": "u", "config": config}


def updated(steps: list[Step]) -> list[dict[str, Any]]:
    return to_client(steps, "updated")


def test_the_old_connection_gets_audio_until_the_new_one_is_ready() -> None:
    talk = live()

    assert talk.client(update(language="de")) == [dial(1)]
    assert talk.inits[1]["config"] == {"sample_rate": 16_000, "language": "de"}
    pcm = speech(100)
    assert talk.client(pcm) == [up(pcm, 0)]


def test_two_hundred_ms_of_silence_is_the_cut_and_the_old_finals_come_first() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"), speech(100))
    talk.ready()
    steps = talk.client(silence(200))

    (answer,) = updated(steps)
    assert answer == {
        "type": "updated", "id": "u", "applied": {"language": "de"}, "unchanged": [], "rejected": {}, "cut_ms": 1300,
    }  # fmt: skip
    assert [what for what in steps if what in (up(FINALIZE, 0), up(CLOSE, 0))] == [up(FINALIZE, 0), up(CLOSE, 0)]
    assert talk.client(pcm := speech(40)) == [up(pcm, 1)]
    assert talk.upstream(final("new", (0.0, 0.04)), connection=1) == []
    steps = talk.upstream(final("old", (0.0, 1.1)), connection=0)
    assert [f["transcript"] for f in to_client(steps, "final_transcript")] == ["old", "new"]
    assert [f["covered_ms"] for f in to_client(steps, "final_transcript")] == [1100, 1340]
    assert retire(0) in steps


def test_without_silence_the_quietest_moment_of_the_held_audio_is_the_cut() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    for _ in range(15):  # there is no pause, for longer than anybody should wait
        assert sent(talk.client(speech(100)), 0)
        talk.wait(0.1)
    held = [speech(100), speech(100), silence(40), speech(160), speech(100)]
    assert talk.client(*held[:-1]) == []
    steps = talk.client(held[-1])
    (answer,) = updated(steps)
    assert 2500 + 200 <= answer["cut_ms"] <= 2500 + 240
    whole = b"".join(held)
    assert sent(steps, 0) + sent(steps, 1) == whole
    assert sent(steps, 0)[:6400] == whole[:6400]


def test_a_refused_update_leaves_the_old_settings_in_effect() -> None:
    talk = live()
    talk.client(speech(100), {"type": "update", "id": "u", "config": {"language": "xx"}, "model": "deepgram/nova:3"})

    (answer,) = updated(talk.lost(GatewayError("config_error", "no such language")))

    assert answer["applied"] == {}
    assert answer["rejected"] == {"language": "no such language", "model": "no such language"}
    assert talk.client(pcm := speech(20)) == [up(pcm, 0)]


def test_a_field_that_cannot_be_updated_is_rejected_by_name() -> None:
    talk = live()

    steps = talk.client(
        {"type": "update", "id": "u", "config": {"sample_rate": 8000, "language": "en"}, "model": "nova"}
    )

    (answer,) = updated(steps)
    assert answer["applied"] == {}
    assert answer["unchanged"] == ["language"]
    assert set(answer["rejected"]) == {"sample_rate", "model"}


def test_of_several_waiting_updates_the_last_wins_and_all_are_answered() -> None:
    talk = live()
    talk.client({**update(language="de"), "id": "a"})
    steps = talk.client({**update(language="fr", diarize=True), "id": "b"})
    assert steps == [retire(1), dial(2)]
    assert talk.inits[2]["config"] == {"sample_rate": 16_000, "language": "fr", "diarize": True}

    assert [answer["id"] for answer in updated(talk.ready())] == ["a", "b"]


def test_if_upstream_has_no_second_slot_the_old_one_goes_first_and_audio_waits() -> None:
    talk = live()
    talk.client(speech(1000), silence(300), update(language="de"))

    steps = talk.lost(NO_SLOT)
    assert [what for what in steps if what[0] == "up"] == [up(FINALIZE, 0), up(CLOSE, 0)]
    assert updated(steps) == []
    pcm = speech(500)
    assert talk.client(pcm) == []
    talk.wait(0.3)
    steps = talk.upstream(final("old", (0.0, 1.0)), connection=0)
    assert [what for what in steps if what[0] in ("retire", "dial")] == [retire(0), dial(2)]
    talk.wait(0.2)
    steps = talk.ready()
    assert updated(steps)[0]["applied"] == {"language": "de"}
    assert to_client(steps, "status")[0]["gap_ms"] == 500
    assert sent(steps, 2) == pcm


def test_a_drop_during_an_update_loses_neither_side() -> None:
    talk = live()
    old = speech(1000)
    talk.client(old, update(language="de"))
    talk.ready()
    talk.client(silence(200))
    talk.client(new := speech(300))
    talk.upstream(final("new", (0.0, 0.3)), connection=1)
    steps = talk.lost(connection=0)

    assert dial(2) in steps
    assert talk.inits[2] == INIT  # the old settings for the old audio
    steps = talk.ready()
    assert sent(steps, 2)[: len(old)] == old
    steps = talk.upstream(final("old", (0.0, 1.0)), connection=2)
    assert [f["transcript"] for f in to_client(steps, "final_transcript")] == ["old", "new"]
    assert new


def test_a_finalize_at_a_cut_before_which_all_is_delivered_is_answered_at_once() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    talk.client(silence(200))
    assert retire(0) in talk.upstream(final("old", (0.0, 1.0)), connection=0)

    steps = talk.client({**FINALIZE, "id": "a"})

    assert steps == [finalized("a", "empty", 1200)]
    assert talk.client(CLOSE)[-1] == client_closed(1000)


def test_answers_held_on_both_sides_of_a_cut_are_both_delivered() -> None:
    talk = live(model="gradium/stt:default")
    talk.client(speech(1000), {**FINALIZE, "id": "old"}, update(language="de"))
    talk.ready()
    talk.client(silence(200), speech(300), {**FINALIZE, "id": "new"})

    # Each one may be the first of several finals, so each one is held until the next.
    assert talk.upstream(final("new", (0.0, 0.3)), connection=1) == []
    assert talk.upstream(final("old", (0.0, 1.0)), connection=0) == []

    steps = talk.wait(0.3)
    assert [(f["transcript"], f["finalize_id"]) for f in to_client(steps, "final_transcript")] == [
        ("old", "old"),
        ("new", "new"),
    ]
    assert [answer["finalize_id"] for answer in to_client(steps, "finalized")] == ["old", "new"]


def test_old_audio_that_upstream_does_not_accept_again_is_reported_in_milliseconds() -> None:
    talk = live()
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    talk.client(silence(200), speech(300))
    refused = GatewayError("auth_error", "no", status=401)

    steps = talk.lost(refused, connection=0)

    (status,) = to_client(steps, "status")
    assert status == {"type": "status", "state": "connected", "cause": "auth_error", "attempt": 0, "gap_ms": 0,
                      "replayed_ms": 0, "dropped_ms": 1200}  # fmt: skip
    talk.upstream(final("new", (0.0, 0.3)), connection=1)
    assert not talk.over


def test_old_audio_whose_finals_do_not_come_in_time_is_reported_in_milliseconds() -> None:
    talk = live(finalize_timeout=3)
    talk.client(speech(1000), update(language="de"))
    talk.ready()
    steps = talk.client(silence(200), speech(300))
    assert not to_client(steps, "status")

    (status,) = to_client(talk.wait(3), "status")

    assert (status["state"], status["cause"], status["dropped_ms"]) == ("connected", "upstream_timeout", 1200)


def test_audio_that_upstream_does_not_transcribe_at_the_close_is_reported_in_milliseconds() -> None:
    talk = live(close_timeout=5)
    talk.client(speech(1000))
    talk.upstream(final("one", (0.1, 0.4)))
    talk.client({"type": "close"})

    steps = talk.wait(5)

    (status,) = to_client(steps, "status")
    assert (status["state"], status["cause"], status["dropped_ms"]) == ("connected", "upstream_timeout", 600)
    assert steps[-1] == client_closed(1000)


def test_a_long_session_moves_to_a_fresh_connection_at_a_quiet_moment() -> None:
    talk = live(rotate_seconds=1500)
    talk.wait(1499)
    talk.client(speech(100))

    assert talk.wait(1) == [dial(1)]
    talk.client(speech(100))
    assert talk.ready() == []
    talk.client(speech(100))
    steps = talk.client(silence(200))
    assert up(CLOSE, 0) in steps
    assert updated(steps) == to_client(steps, "status") == []
    assert talk.client(pcm := speech(20)) == [up(pcm, 1)]


def test_the_age_of_a_standby_connection_counts() -> None:
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
