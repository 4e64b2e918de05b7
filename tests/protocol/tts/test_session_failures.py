"""The messages of an extended TTS session about failures of upstream."""

from __future__ import annotations

from slng_sidecar.protocol.errors import GatewayError
from support.conversation import client_closed, dial, down, fatal, refusal, retire, up
from support.extended_tts import (
    AUDIO_END,
    BUSY,
    CLOSE,
    FLUSH,
    MS,
    NO_SUCH_VOICE,
    end,
    flush,
    live,
    speaking,
    start,
    status,
    text,
    update,
    words,
)


def test_a_context_lost_before_its_audio_is_sent_again_and_the_outage_reported_once() -> None:
    talk = live()
    talk.client(text("a", "one"), flush("a"))

    assert talk.lost() == [status("reconnecting", "upstream_closed", 1), dial(1)]
    assert talk.lost(BUSY) == []
    talk.wait(0.25)
    assert talk.ready() == [status("connected", "reconnected", 2, 250), words("one", 2), up(FLUSH, 2)]
    assert talk.upstream(MS, AUDIO_END) == [start("a"), down(MS), end("a", ms=1, first=250)]


def test_a_context_lost_within_its_audio_fails_with_what_was_delivered() -> None:
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


def test_a_loss_that_nobody_waits_for_is_not_reported() -> None:
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


def test_a_turn_lost_before_its_own_audio_is_sent_again_within_its_context() -> None:
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
    talk.lost(BUSY, connection=0)

    assert talk.lost(GatewayError("auth_error", "the key", status=401)) == [
        end("a", "failed"),
        end("b", "failed"),
        fatal("auth_error"),
        client_closed(1008),
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
        client_closed(1000),
    ]


def test_repr_shows_the_state_and_no_words() -> None:
    talk = speaking()
    talk.client(update("u", voice="secret"), text("secret", "secret"))

    assert "secret" not in repr(talk.machine)
    assert repr(talk.machine) == "TtsMachine(busy 0, opening 1, [<0/0 texts flushed, 32 bytes>, <0/1 texts, 0 bytes>])"
