"""A TTS session of the extended dialect: named contexts, cleared one by one."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from slng_sidecar.audio.codecs import CodecEncoder
from support.conversation import client_closed, down, fatal, refusal, up
from support.extended_tts import (
    AUDIO_END,
    CLEAR,
    CLEARED,
    FLUSH,
    INIT,
    MS,
    QUIET,
    clear,
    end,
    flush,
    live,
    new,
    opening,
    speaking,
    start,
    text,
    update,
    updated,
    words,
)

# Opening


def test_the_sidecars_own_fields_of_init_do_not_go_upstream() -> None:
    talk = opening({**INIT, "deliver": "as-is", "standby": True, "future": 1})

    assert talk.inits == [{**INIT, "future": 1}]


@pytest.mark.parametrize("config", [None, {}, {"encoding": None, "sample_rate": None}])
def test_an_encoding_and_a_rate_are_always_requested(config: Any) -> None:
    talk = opening({"type": "init", "config": config})

    assert talk.inits[0]["config"] == {"encoding": "linear16", "sample_rate": 24_000}


@pytest.mark.parametrize(("encoding", "installed"), [("mp3", False), ("opus", False), ("flac", True)])
def test_an_encoding_that_cannot_be_decoded_is_refused_by_name_at_init(
    encoding: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "av", None)
    init = {"type": "init", "config": {"encoding": encoding, "sample_rate": 24_000}}
    talk = new()

    assert talk.client(init) == [fatal("unsupported_audio_format"), client_closed(1008)]
    assert encoding in talk.errors[0]["message"]
    assert "as-is" in talk.errors[0]["message"]
    assert opening({**init, "deliver": "as-is"}).inits == [init]


@pytest.mark.parametrize("deliver", ["mp3", 7, ["linear16"]])
def test_an_unknown_delivery_format_is_refused(deliver: Any) -> None:
    assert new().client({**INIT, "deliver": deliver}) == [fatal("config_error"), client_closed(1008)]


@pytest.mark.parametrize(("encoding", "silence"), [("mulaw", b"\xff\x7f"), ("alaw", b"\xd5\x55")])
def test_companded_audio_is_decoded_on_the_way(encoding: str, silence: bytes) -> None:
    talk = live({"type": "init", "config": {"encoding": encoding, "sample_rate": 8000}})
    talk.client(text("a", "one"), flush("a"))

    steps = talk.upstream(silence * 40, AUDIO_END)
    assert steps[0][1]["encoding"] == "linear16"
    assert len(steps[1][1]) == 160
    assert max(abs(int.from_bytes(steps[1][1][at : at + 2], "little", signed=True)) for at in range(0, 160, 2)) <= 8
    assert steps[2][1]["duration_ms"] == 10


def test_companded_audio_is_passed_on_if_the_client_asks_for_that() -> None:
    talk = live({"type": "init", "config": {"encoding": "mulaw", "sample_rate": 8000}, "deliver": "as-is"})
    talk.client(text("a", "one"), flush("a"))

    steps = talk.upstream(b"\x01" * 80, AUDIO_END)
    assert steps[0][1]["encoding"] == "mulaw"
    assert steps[1] == down(b"\x01" * 80)
    assert steps[2][1]["duration_ms"] == 10


@pytest.mark.parametrize("encoding", ["mp3", "opus"])
def test_compressed_audio_is_decoded_on_the_way_each_context_as_a_stream_of_its_own(encoding: str) -> None:
    encoder = CodecEncoder(encoding)
    file = encoder.begin(16_000) + encoder.encode(MS * 1000) + encoder.end()
    talk = live({"type": "init", "config": {"encoding": encoding, "sample_rate": 16_000}})
    for name in ("a", "b"):
        talk.client(text(name, "one"), flush(name))
        steps = talk.upstream(*(file[at : at + 700] for at in range(0, len(file), 700)), AUDIO_END)
        assert steps[0] == start(name)
        pcm = b"".join(data for _, data in steps[1:-1])
        assert 1000 <= len(pcm) / 32 < 1100
        assert steps[-1][1]["duration_ms"] == round(len(pcm) / 32)
        talk.wait(QUIET)


def test_audio_that_cannot_be_decoded_fails_its_context_and_not_the_session() -> None:
    talk = live({"type": "init", "config": {"encoding": "mp3", "sample_rate": 16_000}})
    talk.client(text("a", "one"), flush("a"))

    assert talk.upstream(b"no mp3 at all" * 100, AUDIO_END)[-1] == end("a", "failed", ms=0, first=0)
    assert (talk.errors[0]["code"], talk.errors[0]["context_id"]) == ("unsupported_audio_format", "a")


def test_compressed_audio_has_no_known_duration() -> None:
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


def test_other_fields_of_a_text_go_up_without_the_context_id() -> None:
    talk = live()

    assert talk.client(text("a", "one", pronunciation={"name": "p"})) == [
        up({"type": "text", "text": "one", "pronunciation": {"name": "p"}})
    ]


def test_a_context_without_audio_ends_without_a_start() -> None:
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


def test_an_unusable_text_is_refused_with_its_context() -> None:
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


def test_other_messages_of_upstream_are_not_passed_on() -> None:
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


def test_clearing_an_unknown_context_is_answered_too() -> None:
    assert live().client(clear("x"), CLEAR) == [down({**CLEARED, "context_id": "x"}), down(CLEARED)]


def test_a_context_uses_another_ready_connection_while_one_is_cleared() -> None:
    talk = speaking()
    talk.client(update("u", voice="w"), text("b", "two"), flush("b"))
    assert talk.ready() == [updated("u", {"voice": "w"})]

    steps = talk.client(clear("a"))
    assert steps[-2:] == [words("two", 1), up(FLUSH, 1)]
