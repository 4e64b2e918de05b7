"""Interruptions of a plain TTS session: no stale audio follows a clear."""

from __future__ import annotations

from typing import Any

import pytest
from support.conversation import READY, Conversation, dial, down, retire, up
from support.plain_tts import AUDIO_END, CLEAR, CLEARED, FLUSH, FLUSHED, QUIET, live, opening, speaking, text


def test_clear_is_answered_at_once_and_nothing_stale_follows() -> None:
    talk = speaking()
    talk.client(text("waits"), FLUSH)

    assert talk.client(CLEAR) == [up(CLEAR), down(CLEARED)]
    assert talk.upstream(b"stale", {"type": "segment_end"}) == []
    assert talk.client(text("new"), FLUSH) == []
    assert talk.wait(0.4) == []
    assert talk.upstream(CLEARED) == []
    assert talk.wait(QUIET - 0.01) == []
    assert talk.wait(0.01) == [up(text("new")), up(FLUSH)]
    assert talk.upstream(b"new", AUDIO_END) == [down(b"new"), down(AUDIO_END)]
    assert len(talk.inits) == 1


@pytest.mark.parametrize("terminal", [AUDIO_END, FLUSHED])
def test_a_terminal_alone_confirms_a_clear_once_no_cleared_came(terminal: dict[str, Any]) -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)

    assert talk.upstream(terminal) == []
    assert talk.wait(0.99) == []
    assert talk.wait(0.01) == []
    assert talk.wait(QUIET) == [up(text("new")), up(FLUSH)]


@pytest.mark.parametrize("message", [CLEAR, {"type": "cancel"}])
def test_clear_of_a_turn_without_audio_leaves_no_terminal(message: dict[str, Any]) -> None:
    talk = live()
    talk.client(text("one"), FLUSH)
    talk.client(message)

    assert talk.upstream(CLEARED) == []
    assert talk.wait(100) == []
    assert talk.client(text("two")) == [up(text("two"))]


def test_cancel_clears_and_is_not_answered() -> None:
    assert speaking().client({"type": "cancel"}) == [up(CLEAR)]


@pytest.mark.parametrize("start", [opening, live])
def test_clear_without_a_turn_is_answered_and_not_passed_on(start: Any) -> None:
    talk: Conversation = start()

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.machine.deadline is None


def test_clear_before_ready_drops_what_was_held() -> None:
    talk = opening()
    talk.client(text("one"), FLUSH, text("two"))

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.client(text("three"), FLUSH) == []
    assert talk.ready() == [down(READY), up(text("three")), up(FLUSH)]


def test_clear_between_turns_drops_those_that_wait() -> None:
    talk = speaking()
    talk.client(text("two"), FLUSH)
    talk.upstream(AUDIO_END)

    assert talk.client(CLEAR) == [down(CLEARED)]
    assert talk.wait(1000) == []
    assert talk.client(text("three")) == [up(text("three"))]


def test_each_clear_is_answered_but_only_the_first_goes_up() -> None:
    talk = speaking()

    assert talk.client(CLEAR, CLEAR) == [up(CLEAR), down(CLEARED), down(CLEARED)]


def test_a_clear_that_upstream_does_not_confirm_costs_the_connection() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)

    assert talk.wait(0.99) == []
    assert talk.upstream(b"stale") == []
    assert talk.wait(0.01) == [retire(0), dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]
    assert talk.machine.counts["clears_unanswered"] == 1


def test_an_unconfirmed_clear_without_text_redials_only_for_the_next_text() -> None:
    talk = speaking()
    talk.client(CLEAR)

    assert talk.wait(1000) == [retire(0)]
    assert talk.client(text("new")) == [dial(1)]


def test_stale_audio_after_the_confirmation_costs_the_connection() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"), FLUSH)
    talk.upstream(CLEARED)

    assert talk.upstream(b"stale") == [retire(0), dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]


def test_the_late_confirmation_of_one_clear_does_not_confirm_the_next() -> None:
    talk = speaking()
    talk.client(CLEAR, text("two"), FLUSH)
    talk.upstream(AUDIO_END)  # the first turn ended before the clear reached upstream
    assert talk.wait(1) == []  # no confirmation except that end
    assert talk.wait(QUIET) == [up(text("two")), up(FLUSH)]
    talk.client(CLEAR, text("three"), FLUSH)

    talk.upstream(CLEARED)  # the first clear's confirmation, sent before upstream received the second clear
    talk.wait(QUIET)

    assert down(b"sound of two") not in talk.upstream(b"sound of two")


def test_the_loss_of_a_connection_during_a_clear_is_not_noticed() -> None:
    talk = speaking()
    talk.client(CLEAR)

    assert talk.lost() == []
    assert talk.client(text("new"), FLUSH) == [dial(1)]
    assert talk.ready() == [up(text("new"), 1), up(FLUSH, 1)]


def test_an_error_during_a_clear_is_not_reported() -> None:
    talk = speaking()
    talk.client(CLEAR, text("new"))

    assert talk.upstream({"type": "error", "message": "Stream 1 not found."}) == [retire(0), dial(1)]


def test_a_stray_confirmation_is_counted_and_not_passed_on() -> None:
    talk = live()

    assert talk.upstream(CLEARED) == []
    assert talk.machine.counts["stray_cleared"] == 1
