"""The extended dialect of a TTS session: named contexts, updates, and what becomes of them when upstream fails."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from conversation import READY, Conversation, Said, dial, down, fatal, goodbye, refusal, retire, up
from slng_sidecar.audio.codecs import CodecEncoder
from slng_sidecar.protocol.contexts import TtsMachine
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.tts_dialects import ExtendedTts
from slng_sidecar.protocol.tts_options import TtsOptions

INIT: dict[str, Any] = {"type": "init", "voice": "v", "config": {"encoding": "linear16", "sample_rate": 16_000}}
FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
AUDIO_END = {"type": "audio_end"}
CLEARED = {"type": "cleared"}
QUIET = 0.1
MS = bytes(32)
"""A millisecond of sound."""
BUSY = GatewayError("not_ready", "busy", status=503)
NO_SUCH_VOICE = GatewayError("config_error", "no such voice", status=400)


def text(name: str, words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "context_id": name, "text": words, **fields}


def flush(name: str) -> dict[str, Any]:
    return {"type": "flush", "context_id": name}


def clear(name: str) -> dict[str, Any]:
    return {"type": "clear", "context_id": name}


def update(number: str, **fields: Any) -> dict[str, Any]:
    return {"type": "update", "id": number, **fields}


def words(text: str, connection: int = 0) -> Said:
    """A text as upstream gets it."""
    return up({"type": "text", "text": text}, connection)


def start(name: str) -> Said:
    return down(
        {"type": "audio_start", "context_id": name, "sample_rate": 16_000, "encoding": "linear16", "channels": 1}
    )


def end(name: str, reason: str = "completed", ms: int = 0, first: int | None = None) -> Said:
    frame = {"type": "audio_end", "context_id": name, "reason": reason, "duration_ms": ms}
    return down(frame if first is None else {**frame, "first_audio_ms": first})


def updated(
    number: str,
    applied: dict[str, Any] | None = None,
    unchanged: tuple[str, ...] = (),
    rejected: dict[str, str] | None = None,
) -> Said:
    fields = {"applied": applied or {}, "unchanged": list(unchanged), "rejected": rejected or {}}
    return down({"type": "updated", "id": number, **fields})


def status(state: str, cause: str, attempt: int, gap_ms: int = 0) -> Said:
    return down({"type": "status", "state": state, "cause": cause, "attempt": attempt, "gap_ms": gap_ms})


def new(**options: Any) -> Conversation:
    options.setdefault("jitter", lambda: 0.5)
    options.setdefault("model", "slng/deepgram/aura:2-en")
    return Conversation(TtsMachine(TtsOptions(**options), ExtendedTts("1.2.3", "7")))


def opening(init: dict[str, Any] = INIT, **options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(init) == [dial(0)]
    return talk


def live(init: dict[str, Any] = INIT, **options: Any) -> Conversation:
    talk = opening(init, **options)
    assert talk.ready() == [down({**READY, "sidecar": {"version": "1.2.3", "session": "7"}})]
    return talk


def speaking(name: str = "a", **options: Any) -> Conversation:
    """A session whose first context is upstream as a whole, and sounds."""
    talk = live(**options)
    assert talk.client(text(name, "one"), flush(name)) == [words("one"), up(FLUSH)]
    assert talk.upstream(MS) == [start(name), down(MS)]
    return talk


def open_connection(talk: Conversation, number: int) -> list[Said]:
    """A connection other than the newest answers its init."""
    talk.open[number] = True
    return talk._done(talk.machine.upstream_ready(number, '{"type":"ready","session_id":"s1"}', talk.now))


def lose(talk: Conversation, number: int, error: GatewayError) -> list[Said]:
    """A connection other than the newest is lost."""
    del talk.open[number]
    return talk._done(talk.machine.upstream_lost(number, error, talk.now))


# Opening


def test_our_own_fields_of_init_do_not_go_upstream() -> None:
    talk = opening({**INIT, "deliver": "as-is", "standby": True, "future": 1})

    assert talk.inits == [{**INIT, "future": 1}]


@pytest.mark.parametrize("config", [None, {}, {"encoding": None, "sample_rate": None}])
def test_an_encoding_and_a_rate_are_always_asked_for(config: Any) -> None:
    talk = opening({"type": "init", "config": config})

    assert talk.inits[0]["config"] == {"encoding": "linear16", "sample_rate": 24_000}


@pytest.mark.parametrize(("encoding", "installed"), [("mp3", False), ("opus", False), ("flac", True)])
def test_what_cannot_be_decoded_is_refused_by_name_at_init(
    encoding: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
    init = {"type": "init", "config": {"encoding": encoding, "sample_rate": 24_000}}
    talk = new()

    assert talk.client(init) == [fatal("unsupported_audio_format"), goodbye(1008)]
    assert encoding in talk.errors[0]["message"]
    assert "as-is" in talk.errors[0]["message"]
    assert opening({**init, "deliver": "as-is"}).inits == [init]


@pytest.mark.parametrize("deliver", ["mp3", 7, ["linear16"]])
def test_an_unknown_way_to_deliver_is_refused(deliver: Any) -> None:
    assert new().client({**INIT, "deliver": deliver}) == [fatal("config_error"), goodbye(1008)]


@pytest.mark.parametrize(("encoding", "silence"), [("mulaw", b"\xff\x7f"), ("alaw", b"\xd5\x55")])
def test_companded_sound_is_decoded_on_the_way(encoding: str, silence: bytes) -> None:
    talk = live({"type": "init", "config": {"encoding": encoding, "sample_rate": 8000}})
    talk.client(text("a", "one"), flush("a"))

    said = talk.upstream(silence * 40, AUDIO_END)
    assert said[0][1]["encoding"] == "linear16"
    assert len(said[1][1]) == 160
    assert max(abs(int.from_bytes(said[1][1][at : at + 2], "little", signed=True)) for at in range(0, 160, 2)) <= 8
    assert said[2][1]["duration_ms"] == 10


def test_companded_sound_is_left_alone_where_it_is_wanted_so() -> None:
    talk = live({"type": "init", "config": {"encoding": "mulaw", "sample_rate": 8000}, "deliver": "as-is"})
    talk.client(text("a", "one"), flush("a"))

    said = talk.upstream(b"\x01" * 80, AUDIO_END)
    assert said[0][1]["encoding"] == "mulaw"
    assert said[1] == down(b"\x01" * 80)
    assert said[2][1]["duration_ms"] == 10


@pytest.mark.parametrize("encoding", ["mp3", "opus"])
def test_compressed_sound_is_decoded_on_the_way_each_context_as_a_stream_of_its_own(encoding: str) -> None:
    encoder = CodecEncoder(encoding)
    file = encoder.begin(16_000) + encoder.encode(MS * 1000) + encoder.end()
    talk = live({"type": "init", "config": {"encoding": encoding, "sample_rate": 16_000}})
    for name in ("a", "b"):
        talk.client(text(name, "one"), flush(name))
        said = talk.upstream(*(file[at : at + 700] for at in range(0, len(file), 700)), AUDIO_END)
        assert said[0] == start(name)
        pcm = b"".join(data for _, data in said[1:-1])
        assert 1000 <= len(pcm) / 32 < 1100
        assert said[-1][1]["duration_ms"] == round(len(pcm) / 32)
        talk.wait(QUIET)


def test_sound_that_cannot_be_decoded_fails_its_context_and_not_the_session() -> None:
    talk = live({"type": "init", "config": {"encoding": "mp3", "sample_rate": 16_000}})
    talk.client(text("a", "one"), flush("a"))

    assert talk.upstream(b"no mp3 at all" * 100, AUDIO_END)[-1] == end("a", "failed", ms=0, first=0)
    assert (talk.errors[0]["code"], talk.errors[0]["context_id"]) == ("unsupported_audio_format", "a")


def test_how_long_compressed_sound_lasts_is_not_known() -> None:
    talk = live({"type": "init", "config": {"encoding": "mp3"}, "deliver": "as-is"})
    talk.client(text("a", "one"), flush("a"))

    assert "duration_ms" not in talk.upstream(b"mp3", AUDIO_END)[-1][1]


# Contexts


def test_a_context_is_framed_by_its_start_and_its_end() -> None:
    talk = live()
    talk.client(text("a", "one", pronunciation={"name": "p"}))
    talk.wait(0.2)

    assert talk.upstream(MS, MS) == [start("a"), down(MS), down(MS)]
    assert talk.client(text("a", "two"), flush("a")) == [words("two"), up(FLUSH)]
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=3, first=200)]


def test_what_texts_say_besides_goes_up_without_the_name() -> None:
    talk = live()

    assert talk.client(text("a", "one", pronunciation={"name": "p"})) == [
        up({"type": "text", "text": "one", "pronunciation": {"name": "p"}})
    ]


def test_a_context_without_sound_ends_without_a_start() -> None:
    talk = live()
    talk.client(text("a", "one"), flush("a"))

    assert talk.upstream(AUDIO_END) == [end("a")]


def test_contexts_are_delivered_in_the_order_of_their_first_text() -> None:
    talk = live()

    assert talk.client(text("a", "one"), text("b", "two"), flush("b"), text("a", "three")) == [
        words("one"),
        words("three"),
    ]
    assert talk.client(flush("a")) == [up(FLUSH)]
    assert talk.upstream(MS, AUDIO_END) == [start("a"), down(MS), end("a", ms=1, first=0)]
    assert talk.wait(QUIET) == [words("two"), up(FLUSH)]
    assert talk.upstream(MS, AUDIO_END) == [start("b"), down(MS), end("b", ms=1, first=100)]


def test_texts_for_a_context_that_is_over_are_ignored_and_counted() -> None:
    talk = speaking()

    assert talk.client(text("a", "flushed already")) == []
    talk.upstream(AUDIO_END)
    assert talk.client(text("a", "ended"), flush("a")) == []
    talk.wait(QUIET)
    assert talk.machine.counts["texts_for_ended_contexts"] == 2
    assert talk.client(text("b", "two")) == [words("two")]


def test_a_context_of_spaces_or_of_nothing_ends_in_its_turn() -> None:
    talk = speaking()

    assert talk.client(text("b", " "), flush("b"), flush("c")) == []
    assert talk.upstream(AUDIO_END) == [end("a", ms=1, first=0), end("b"), end("c")]


@pytest.mark.parametrize("kind", ["text", "flush"])
@pytest.mark.parametrize("name", [None, "", 7, "x" * 201])
def test_a_message_without_a_usable_name_is_refused(kind: str, name: Any) -> None:
    talk = live()

    assert talk.client({"type": kind, "context_id": name, "text": "one"}) == [refusal("bad_request")]
    assert "context_id" in talk.errors[0]["message"]


def test_a_text_that_cannot_be_said_is_refused_with_its_context() -> None:
    talk = live(max_text=3)

    assert talk.client(text("a", "long")) == [refusal("payload_too_large")]
    assert talk.errors[0]["context_id"] == "a"
    assert talk.client(text("a", "one", flush=True)) == [words("one"), up(FLUSH)]


def test_a_context_that_is_never_flushed_ends_by_itself() -> None:
    talk = live(context_idle=60)
    talk.client(text("a", "one"), text("b", "two"))

    assert talk.wait(60) == [up(FLUSH)]
    assert talk.upstream(AUDIO_END) == [end("a")]
    assert talk.wait(QUIET) == [words("two"), up(FLUSH)]
    assert talk.upstream(MS, AUDIO_END)[-1] == end("b", ms=1, first=60_100)


@pytest.mark.parametrize("message", [{"type": "speak"}, {}, {"type": "finalize"}])
def test_an_unknown_message_is_ignored_and_counted(message: dict[str, Any]) -> None:
    talk = live()

    assert talk.client(message) == []
    assert talk.machine.counts["unknown_client_message"] == 1


def test_what_else_upstream_says_is_not_passed_on() -> None:
    assert speaking().upstream({"type": "segment_end"}, {"type": "Metadata"}) == []


# Clearing


def test_clear_ends_every_context_and_is_answered_once() -> None:
    talk = speaking()
    talk.client(text("b", "two"))

    assert talk.client(CLEAR) == [
        up(CLEAR),
        end("a", "cleared", 1, 0),
        end("b", "cleared"),
        down(CLEARED),
    ]
    assert talk.upstream(MS, CLEARED) == []
    assert talk.client(CLEAR) == [down(CLEARED)]


def test_clearing_the_context_that_is_spoken_leaves_the_next_whole() -> None:
    talk = speaking()
    talk.client(text("b", "two"), flush("b"))

    assert talk.client(clear("a")) == [up(CLEAR), end("a", "cleared", 1, 0), down({**CLEARED, "context_id": "a"})]
    assert talk.upstream(MS, CLEARED) == []
    assert talk.wait(QUIET) == [words("two"), up(FLUSH)]
    assert talk.upstream(MS, AUDIO_END) == [start("b"), down(MS), end("b", ms=1, first=100)]


def test_clearing_a_context_that_waits_leaves_the_spoken_one_whole() -> None:
    talk = speaking()
    talk.client(text("b", "two"), text("c", "three"), flush("c"))

    assert talk.client(clear("b")) == [end("b", "cleared"), down({**CLEARED, "context_id": "b"})]
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=2, first=0)]
    assert talk.wait(QUIET) == [words("three"), up(FLUSH)]


def test_clearing_what_is_not_there_is_answered_all_the_same() -> None:
    assert live().client(clear("x"), CLEAR) == [down({**CLEARED, "context_id": "x"}), down(CLEARED)]


def test_a_context_takes_another_line_that_is_ready_while_one_is_cleared() -> None:
    talk = speaking()
    talk.client(update("u", voice="w"), text("b", "two"), flush("b"))
    assert talk.ready() == [updated("u", {"voice": "w"})]

    said = talk.client(clear("a"))
    assert said[-2:] == [words("two", 1), up(FLUSH, 1)]


# Updates


def test_an_update_dials_at_once_and_is_answered_when_that_is_ready() -> None:
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
    said = talk.upstream(MS, AUDIO_END, connection=0)
    assert said == [start("b"), down(MS), end("b", ms=1, first=100), retire(0), words("three", 1), up(FLUSH, 1)]
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


def test_updates_without_text_between_collapse_and_all_are_answered() -> None:
    talk = live()

    assert talk.client(update("u", voice="w")) == [dial(1)]
    assert talk.client(update("v", voice="x", config={"speed": 2})) == [retire(1), dial(2)]
    assert talk.inits[2]["voice"] == "x"
    assert talk.ready() == [updated("u", {"voice": "w"}), updated("v", {"voice": "x", "speed": 2}), retire(0)]


def test_updates_with_text_between_stay_apart() -> None:
    talk = live()
    talk.client(update("u", voice="w"), text("a", "one"), flush("a"))

    assert talk.client(update("v", voice="x"), text("b", "two"), flush("b")) == [dial(2)]
    assert open_connection(talk, 1) == [updated("u", {"voice": "w"}), retire(0), words("one", 1), up(FLUSH, 1)]
    assert talk.ready() == [updated("v", {"voice": "x"})]
    assert talk.upstream(AUDIO_END, connection=1) == [end("a"), retire(1), words("two", 2), up(FLUSH, 2)]


@pytest.mark.parametrize("wanted", [{"voice": "v"}, {"config": {"encoding": "mulaw"}}, {"config": 7}, {}])
def test_an_update_that_changes_nothing_is_answered_at_once(wanted: dict[str, Any]) -> None:
    talk = speaking()

    said = talk.client(update("u", **wanted))
    assert [what[1]["type"] for what in said] == ["updated"]
    assert said[0][1]["applied"] == {}
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=2, first=0)]


def test_what_can_be_had_of_an_update_is_applied_and_the_rest_named() -> None:
    talk = live()
    talk.client(update("u", voice="v", config={"sample_rate": 8000, "encoding": "mulaw", "speed": 2}))

    (said, _) = talk.ready()
    assert said[1]["applied"] == {"speed": 2}
    assert said[1]["unchanged"] == ["voice"]
    assert set(said[1]["rejected"]) == {"sample_rate", "encoding"}


def test_fields_of_an_update_that_do_not_exist_are_ignored_and_counted() -> None:
    talk = live()

    assert talk.client(update("u", volume=11)) == [updated("u")]
    assert talk.machine.counts["unknown_client_fields"] == 1


def test_another_model_is_dialled_and_a_hosted_one_refused_to_a_client_with_its_own_key() -> None:
    talk = live(model="deepgram/aura:2", own_provider_key=True)

    assert talk.client(update("u", model="rime/mist:2")) == [dial(1)]
    assert talk.ready()[0] == updated("u", {"model": "rime/mist:2"})
    (said,) = talk.client(update("v", model="slng/deepgram/aura:2-en"))
    assert "BYOK" in said[1]["rejected"]["model"]
    (said,) = talk.client(update("w", model="nonsense"))
    assert "nonsense" in said[1]["rejected"]["model"]


def test_refused_settings_leave_the_old_ones_in_force() -> None:
    talk = live()
    talk.client(update("u", voice="w", config={"encoding": "mulaw"}))

    (said,) = talk.lost(NO_SUCH_VOICE)
    assert said[1]["rejected"]["voice"] == "no such voice"
    assert set(said[1]["rejected"]) == {"voice", "encoding"}
    assert talk.client(text("a", "one"), flush("a")) == [words("one"), up(FLUSH)]


def test_texts_that_wait_for_refused_settings_are_said_with_the_previous_ones() -> None:
    talk = speaking()
    talk.client(update("u", voice="w"), text("b", "two"), flush("b"))

    assert talk.lost(NO_SUCH_VOICE) == [
        updated("u", rejected={"voice": "no such voice"}),
        refusal("config_error"),
    ]
    assert talk.errors[0]["context_id"] == "b"
    assert talk.upstream(AUDIO_END, connection=0) == [end("a", ms=1, first=0)]
    assert talk.wait(QUIET) == [words("two", 0), up(FLUSH, 0)]


def test_a_later_update_stands_without_what_was_refused_before_it() -> None:
    talk = live()
    talk.client(update("u", voice="w"), text("a", "one"), flush("a"))
    talk.client(update("v", config={"speed": 2}), text("b", "two"), flush("b"))
    assert talk.inits[2]["voice"] == "w"

    said = lose(talk, 1, NO_SUCH_VOICE)
    assert said == [
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


def test_an_update_whose_line_is_not_to_be_had_now_is_tried_again() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    assert talk.lost(BUSY) == [dial(2)]
    assert talk.lost(BUSY) == []
    assert talk.wait(0.25) == [dial(3)]
    assert talk.ready() == [updated("u", {"voice": "w"}), retire(0)]


def test_an_update_whose_line_is_never_to_be_had_is_refused() -> None:
    talk = live(reconnect_seconds=1)
    talk.client(update("u", voice="w"))

    said: list[Said] = []
    for _ in range(10):
        if talk.open.get(talk.newest) is False:
            said += talk.lost(BUSY)
        said += talk.wait(1)
    assert [what[1]["rejected"].keys() for what in said if what[0] == "down"] == [{"voice"}]
    assert talk.client(text("a", "one")) == [words("one")]


def test_a_line_that_carries_nothing_makes_room_where_upstream_has_no_slot() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    assert talk.lost(GatewayError("rate_limit", "too many", status=429)) == [retire(0), dial(2)]
    assert talk.ready() == [updated("u", {"voice": "w"})]


def test_an_update_to_settings_that_stand_is_applied_at_once() -> None:
    talk = live()
    talk.client(text("a", "one"), update("u", voice="w"))

    assert talk.client(update("v", voice="v")) == [
        updated("u", {"voice": "w"}),
        updated("v", {"voice": "v"}),
        retire(1),
    ]


def test_an_update_is_answered_where_the_session_ends_before() -> None:
    talk = live()
    talk.client(update("u", voice="w"))

    said = talk.client(CLOSE)
    assert set(said[0][1]["rejected"]) == {"voice"}
    assert said[1:] == [retire(0), retire(1), goodbye(1000)]


def test_an_update_before_ready_holds_for_the_texts_after_it() -> None:
    talk = opening()
    assert talk.client(text("a", "one"), flush("a"), update("u", voice="w"), text("b", "two"), flush("b")) == [dial(1)]

    assert talk.ready() == [
        down({**READY, "sidecar": {"version": "1.2.3", "session": "7"}}),
        updated("u", {"voice": "w"}),
    ]
    assert open_connection(talk, 0) == [words("one", 0), up(FLUSH, 0)]
    assert talk.upstream(AUDIO_END, connection=0) == [end("a"), retire(0), words("two", 1), up(FLUSH, 1)]


# Failures


def test_a_context_lost_before_its_sound_is_said_again_and_the_outage_told_once() -> None:
    talk = live()
    talk.client(text("a", "one"), flush("a"))

    assert talk.lost() == [status("reconnecting", "upstream_closed", 1), dial(1)]
    assert talk.lost(BUSY) == []
    talk.wait(0.25)
    assert talk.ready() == [status("connected", "reconnected", 2, 250), words("one", 2), up(FLUSH, 2)]
    assert talk.upstream(MS, AUDIO_END) == [start("a"), down(MS), end("a", ms=1, first=250)]


def test_a_context_lost_within_its_sound_fails_with_what_was_delivered() -> None:
    talk = speaking()
    talk.client(text("b", "two"), flush("b"))

    assert talk.lost() == [
        refusal("upstream_closed"),
        end("a", "failed", 1, 0),
        status("reconnecting", "upstream_closed", 1),
        dial(1),
    ]
    assert talk.errors[0]["context_id"] == "a"
    assert talk.ready()[1:] == [words("two", 1), up(FLUSH, 1)]


def test_a_loss_with_nobody_waiting_is_no_news() -> None:
    talk = speaking()

    assert talk.lost() == [refusal("upstream_closed"), end("a", "failed", 1, 0)]
    assert talk.client(text("b", "two")) == [dial(1)]
    assert talk.ready() == [words("two", 1)]


def test_a_context_that_failed_before_its_flush_is_over() -> None:
    talk = live()
    talk.client(text("a", "one"))
    talk.upstream(MS)

    assert talk.lost() == [refusal("upstream_closed"), end("a", "failed", 1, 0)]
    assert talk.client(text("a", "two"), flush("a")) == []
    assert talk.machine.deadline is None


def test_a_part_lost_before_its_own_sound_is_said_again_within_its_context() -> None:
    talk = live()
    talk.client(text("a", "one"), update("u", voice="w"), text("a", "two"), flush("a"))
    talk.ready()
    talk.upstream(MS, AUDIO_END, connection=0)

    assert talk.lost() == [status("reconnecting", "upstream_closed", 1), dial(2)]
    assert talk.ready()[1:] == [words("two", 2), up(FLUSH, 2)]
    assert talk.upstream(MS, AUDIO_END) == [down(MS), end("a", ms=2, first=0)]


def test_a_fatal_error_ends_every_context_first() -> None:
    talk = live()
    talk.client(text("a", "one"), flush("a"), text("b", "two"), update("u", voice="w"))
    talk.lost(NO_SUCH_VOICE)
    lose(talk, 0, BUSY)

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [
        end("a", "failed"),
        end("b", "failed"),
        fatal("auth_error"),
        goodbye(1008),
    ]


def test_close_is_bounded_and_ends_every_context() -> None:
    talk = speaking(close_timeout=5)
    talk.client(text("b", "two"), CLOSE)

    assert talk.wait(5) == [
        refusal("upstream_timeout"),
        end("a", "failed", 1, 0),
        refusal("upstream_timeout"),
        end("b", "failed"),
        retire(0),
        goodbye(1000),
    ]


def test_repr_tells_the_state_and_no_words() -> None:
    talk = speaking()
    talk.client(update("u", voice="secret"), text("secret", "secret"))

    assert "secret" not in repr(talk.machine)
    assert repr(talk.machine) == "TtsMachine(busy 0, opening 1, [<0/0 texts flushed, 32 bytes>, <0/1 texts, 0 bytes>])"
