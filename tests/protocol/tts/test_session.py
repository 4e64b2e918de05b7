"""A TTS session of the plain dialect: its opening, its client's messages, its deadlines and its end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.tts.dialects import PlainTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from support.conversation import READY, client_closed, dial, down, fatal, refusal, retire, up, upstream_close
from support.plain_tts import AUDIO_END, CLEAR, CLOSE, FLUSH, INIT, QUIET, live, new, opening, speaking, text

# Opening


def test_init_goes_up_unchanged() -> None:
    talk = opening()

    assert talk.inits == [INIT]


def test_text_before_ready_is_held_and_sent_after_it() -> None:
    talk = opening()

    assert talk.client(text("one"), text("two"), FLUSH) == []
    assert talk.ready(slng_request_id="r") == [
        down({**READY, "slng_request_id": "r"}),
        up(text("one")),
        up(text("two")),
        up(FLUSH),
    ]


def test_texts_go_up_as_they_come_with_all_their_fields() -> None:
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
def test_an_invalid_init_ends_the_session_before_a_dial(config: Any) -> None:
    assert new().client({"type": "init", "config": config}) == [fatal("config_error"), client_closed(1008)]


def test_a_second_init_is_refused_and_the_session_goes_on() -> None:
    talk = speaking()

    assert talk.client(INIT) == [refusal("bad_request")]
    assert talk.upstream(b"more", AUDIO_END) == [down(b"more"), down(AUDIO_END)]


@pytest.mark.parametrize("nesting", range(940, 1000))
def test_a_deeply_nested_message_is_accepted_or_refused(nesting: int) -> None:
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


def test_a_client_that_never_sends_init_is_disconnected() -> None:
    talk = new(init_timeout=30)

    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [fatal("bad_request"), client_closed(1008)]


def test_no_deadline_runs_while_there_is_nothing_to_do() -> None:
    talk = live()
    assert talk.machine.deadline is None

    talk = speaking()
    talk.upstream(AUDIO_END)
    assert talk.machine.deadline is None


def test_a_dial_that_fails_ends_the_session() -> None:
    talk = opening()
    talk.client(text("one"), FLUSH)

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [fatal("auth_error"), client_closed(1008)]
    assert talk.client(text("two")) == []


# Messages of the client


@pytest.mark.parametrize("message", ["", "hello", "[1]", "null", "{", "NaN"])
def test_an_invalid_message_is_refused_and_the_session_goes_on(message: str) -> None:
    talk = live()

    assert talk.client(message) == [refusal("bad_request")]
    assert talk.client(text("one")) == [up(text("one"))]


@pytest.mark.parametrize(
    "message", [{"type": "text"}, text(""), {"type": "text", "text": 7}, {"type": "text", "text": None}]
)
def test_a_text_without_text_is_refused(message: dict[str, Any]) -> None:
    talk = live()

    assert talk.client(message) == [refusal("bad_request")]
    assert talk.client(text("one")) == [up(text("one"))]


def test_a_text_that_is_too_long_is_refused_with_the_name_of_the_setting() -> None:
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


def test_a_keepalive_of_the_client_is_not_passed_on() -> None:
    assert live().client({"type": "keepalive"}) == []


def test_a_client_far_ahead_is_not_read_until_upstream_has_caught_up() -> None:
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


def test_a_client_far_ahead_is_read_again_once_its_texts_have_audio() -> None:
    talk = live(max_text=10_000)
    for _ in range(27):
        talk.client(text("x" * 10_000))
    assert not talk.machine.reads_client

    talk.upstream(b"sound")  # the text kept for another attempt is no longer needed

    assert talk.machine.reads_client


# Deadlines


def test_a_turn_without_audio_is_sent_again_and_then_fails() -> None:
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


def test_silence_before_the_flush_is_up_to_the_client() -> None:
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


def test_a_waiting_turn_that_is_never_flushed_ends_too() -> None:
    talk = speaking(context_idle=10)
    talk.client(text("two"))
    talk.wait(10)
    talk.upstream(AUDIO_END)

    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]


# The end


@pytest.mark.parametrize("kind", ["close", "stop"])
def test_close_with_nothing_left_ends_at_once(kind: str) -> None:
    assert live().client({"type": kind}) == [retire(0), client_closed(1000)]
    assert opening().client({"type": kind}) == [retire(0), client_closed(1000)]
    assert new().client({"type": kind}) == [client_closed(1000)]


def test_close_finishes_the_turns() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)

    assert talk.client(CLOSE) == []
    assert talk.upstream(b"1", AUDIO_END) == [down(b"1"), down(AUDIO_END)]
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]
    assert talk.upstream(b"2", AUDIO_END) == [down(b"2"), down(AUDIO_END), retire(0), client_closed(1000)]


def test_close_ends_a_turn_that_was_not_flushed() -> None:
    talk = live()
    talk.client(text("one"))

    assert talk.client(CLOSE) == [up(FLUSH)]


def test_close_before_ready_finishes_the_turn() -> None:
    talk = opening()
    talk.client(text("one"))

    assert talk.client(CLOSE) == []
    assert talk.ready() == [down(READY), up(text("one")), up(FLUSH)]


def test_close_is_bounded() -> None:
    talk = speaking(close_timeout=5)
    talk.client(CLOSE)

    assert talk.wait(4.9) == []
    assert talk.upstream(b"still") == [down(b"still")]
    assert talk.wait(0.1) == [refusal("upstream_timeout"), retire(0), client_closed(1000)]
    assert talk.wait(1000) == []


def test_a_turn_that_fails_while_closing_ends_the_session_after_its_terminal() -> None:
    talk = speaking()
    talk.client(CLOSE)

    assert talk.lost() == [refusal("upstream_closed"), down(AUDIO_END), client_closed(1000)]


def test_messages_after_close_are_ignored() -> None:
    talk = speaking()
    talk.client(CLOSE)

    assert talk.client(text("late"), FLUSH, CLEAR, "nonsense") == []
    assert talk.machine.counts["message_after_close"] == 4


def test_nothing_is_sent_after_the_end() -> None:
    talk = live()
    talk.client(CLOSE)

    assert talk.client(INIT, text("late"), b"late", "nonsense") == []
    assert talk.upstream(b"late", AUDIO_END, "nonsense") == []
    assert talk.machine.upstream_lost(0, upstream_close(), talk.now) == []
    assert talk.wait(1000) == []


def test_a_client_that_leaves_ends_its_upstream_connection_too() -> None:
    for talk in (opening(), live(), speaking()):
        assert talk.client_leaves() == [retire(0)]
        assert talk.machine.deadline is None
    assert new().client_leaves() == []


def test_repr_shows_the_state_and_no_words() -> None:
    talk = speaking("secret")
    talk.client(text("secret"), text("secret"))

    assert "secret" not in repr(talk.machine)
    assert repr(talk.machine) == "TtsMachine(busy 0, [<0/0 texts flushed, 5 bytes>, <0/2 texts, 0 bytes>])"
