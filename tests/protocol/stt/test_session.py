"""An STT session of the plain dialect: its opening, its client's messages, and its end."""

from __future__ import annotations

from typing import Any

import pytest
from slng_sidecar.protocol.errors import Close, GatewayError
from slng_sidecar.protocol.stt.dialects import PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from support.conversation import Conversation, client_closed, dial, down, fatal, refusal, retire, up, upstream_close
from support.plain_stt import CLOSE, FINALIZE, INIT, SECOND, final, live, new, opening

# Opening


def test_upstream_gets_the_init_first_and_unchanged() -> None:
    talk = new()
    init = {"type": "init", "config": {"language": "de", "enable_partials": True, "x": [1, None]}, "extra": "é"}

    assert talk.client(init) == [dial(0)]

    assert talk.inits == [init]


def test_ready_reaches_the_client_as_upstream_sent_it() -> None:
    talk = opening()

    assert talk.ready(slng_request_id="r1") == [
        down({"type": "ready", "session_id": "s1", "slng_request_id": "r1"}),
    ]


def test_audio_before_ready_is_held_and_goes_up_in_order_after_it() -> None:
    talk = opening()

    assert talk.client(b"one", b"two", FINALIZE, b"three") == []
    steps = talk.ready()

    assert steps[0] == down({"type": "ready", "session_id": "s1"})
    assert steps[1:] == [up(b"one"), up(b"two"), up(FINALIZE), up(b"three")]
    assert talk.client(b"four") == [up(b"four")]


def test_held_audio_goes_up_only_once() -> None:
    talk = opening()
    talk.client(b"one")
    talk.ready()

    assert talk.client(b"two") == [up(b"two")]


def test_early_audio_is_not_dropped_but_holds_the_client_back() -> None:
    talk = opening(replay_seconds=1)
    first, second, third = (bytes([n]) * (SECOND // 2) for n in range(3))

    assert talk.client(first, second) == []
    assert talk.machine.reads_client
    assert talk.client(third, FINALIZE) == []
    assert not talk.machine.reads_client

    assert talk.ready()[1:] == [up(first), up(second), up(third), up(FINALIZE)]
    assert talk.machine.reads_client


def test_an_early_message_larger_than_the_limit_is_kept() -> None:
    talk = opening(replay_seconds=1)
    long = bytes(3 * SECOND)

    assert talk.client(long) == []
    assert talk.ready()[1:] == [up(long)]


def away(**options: Any) -> Conversation:
    """Return a session whose upstream was lost and is being dialled again."""
    talk = live(**options)
    assert talk.lost() == [dial(1)]
    return talk


def test_too_much_audio_in_an_outage_drops_the_oldest_and_reports_that_once() -> None:
    talk = away(replay_seconds=1)
    first, second, third, fourth = (bytes([n]) * (SECOND // 2) for n in range(4))

    assert talk.client(first, second) == []
    assert talk.client(third) == [refusal("audio_overflow")]
    assert talk.client(fourth) == []
    assert talk.machine.reads_client

    assert talk.ready() == [up(third, 1), up(fourth, 1)]
    assert talk.machine.counts["audio_overflow_bytes"] == SECOND
    assert talk.errors[0]["retryable"] is True


def test_an_overflow_leaves_a_finalize_at_its_place_among_the_audio_that_stays() -> None:
    talk = away(replay_seconds=1)
    first, second, third = (bytes([n]) * (SECOND // 2) for n in range(3))

    talk.client(first, second, FINALIZE, third, FINALIZE)

    assert talk.ready() == [up(second, 1), up(FINALIZE, 1), up(third, 1), up(FINALIZE, 1)]


def test_a_finalize_whose_audio_was_all_dropped_is_answered_at_once() -> None:
    talk = away(replay_seconds=1)
    half, whole = bytes(SECOND // 2), bytes([1]) * SECOND

    talk.client(half, FINALIZE, half, whole)

    assert talk.ready() == [down(final("", from_finalize=True)), up(whole, 1)]


def test_a_message_larger_than_the_limit_is_dropped_as_a_whole() -> None:
    talk = away(replay_seconds=1)

    assert talk.client(bytes(SECOND + 2)) == [refusal("audio_overflow")]

    assert talk.ready() == []


@pytest.mark.parametrize(
    ("config", "bytes_per_second"),
    [
        ({}, 32_000),
        ({"sample_rate": 8_000}, 16_000),
        ({"sample_rate": 48_000, "encoding": "LINEAR16"}, 96_000),
        ({"sample_rate": 48_000, "encoding": "opus"}, 16_000),
        ({"encoding": "mp3"}, 16_000),
    ],
)
def test_the_init_decides_how_many_bytes_a_second_has(config: dict[str, Any], bytes_per_second: int) -> None:
    talk = new(replay_seconds=1)
    talk.client({"type": "init", "config": config})

    assert talk.machine.ahead_bytes == bytes_per_second
    assert talk.client(bytes(bytes_per_second)) == []
    assert talk.machine.reads_client
    talk.client(b"\0\0")
    assert not talk.machine.reads_client


@pytest.mark.parametrize("config", [{"sample_rate": None}, {"encoding": None}, {"sample_rate": None, "encoding": None}])
def test_a_null_in_init_counts_as_not_given(config: dict[str, Any]) -> None:
    talk = new()

    assert talk.client({"type": "init", "config": config}) == [dial(0)]
    assert talk.machine.ahead_bytes == SECOND


def test_an_init_without_a_config_is_enough() -> None:
    assert new().client({"type": "init"}) == [dial(0)]
    assert new().client({"type": "init", "config": None}) == [dial(0)]


@pytest.mark.parametrize(
    "config",
    [[], "linear16", 1, {"sample_rate": "16000"}, {"sample_rate": 0}, {"sample_rate": True}, {"encoding": 16}],
)
def test_an_invalid_init_ends_the_session_before_a_dial(config: Any) -> None:
    talk = new()

    assert talk.client({"type": "init", "config": config}) == [fatal("config_error"), client_closed(1008)]
    assert talk.client(INIT) == []


@pytest.mark.parametrize("nesting", range(940, 1000))
def test_a_deeply_nested_init_is_accepted_or_refused(nesting: int) -> None:
    machine = SttMachine(SttOptions(), PlainStt())
    machine.started(0)

    assert machine.client_text('{"type":"init","config":{"x":' + "[" * nesting + "]" * nesting + "}}", 0)


def test_a_number_that_json_cannot_express_does_not_go_up_as_one() -> None:
    talk = new()

    steps = talk.client('{"type":"init","config":{"speed":1e999,"gain":NaN}}')  # JSON that goes upstream must be strict

    assert steps[0] in (dial(0), refusal("bad_request"), fatal("config_error"))


def test_a_second_init_is_refused_and_the_session_goes_on() -> None:
    talk = live()

    assert talk.client(INIT) == [refusal("bad_request")]
    assert talk.client(b"one") == [up(b"one")]


def test_audio_before_init_ends_the_session() -> None:
    talk = new()

    assert talk.client(b"one") == [fatal("bad_request"), client_closed(1008)]
    assert talk.client(INIT) == []


@pytest.mark.parametrize("kind", ["finalize", "keepalive", "audio", "hello"])
def test_a_message_before_init_is_refused_and_ignored(kind: str) -> None:
    talk = new()

    assert talk.client({"type": kind}) == [refusal("bad_request")]
    assert talk.client(INIT) == [dial(0)]
    assert talk.ready() == [down({"type": "ready", "session_id": "s1"})]


def test_a_client_that_never_sends_init_is_disconnected() -> None:
    talk = new(init_timeout=30)

    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [fatal("bad_request"), client_closed(1008)]


def test_no_deadline_but_that_of_rotation_runs_while_all_is_well() -> None:
    talk = live(rotate_seconds=1500)

    assert talk.machine.deadline == talk.now + 1500


# Messages of the client


@pytest.mark.parametrize("text", ["", "hello", "[1]", "null", "{", '"x"', "NaN"])
def test_an_invalid_message_is_refused_and_the_session_goes_on(text: str) -> None:
    talk = live()

    assert talk.client(text) == [refusal("bad_request")]
    assert talk.client(b"one") == [up(b"one")]


def test_audio_as_base64_is_refused_by_name() -> None:
    talk = live()

    assert talk.client({"type": "audio", "data": "AAAA"}) == [refusal("unsupported_audio_format")]
    assert talk.errors[0]["retryable"] is False


def test_types_are_read_without_regard_to_case() -> None:
    assert live().client(b"one", {"type": "FINALIZE"}) == [up(b"one"), up(FINALIZE)]


@pytest.mark.parametrize("message", [{"type": "speak"}, {"type": None}, {}, {"type": "update", "config": {}}])
def test_an_unknown_message_is_ignored_and_counted(message: dict[str, Any]) -> None:
    talk = live()

    assert talk.client(message) == []
    assert talk.machine.counts["unknown_client_message"] == 1


def test_a_keepalive_of_the_client_is_not_passed_on() -> None:
    assert live().client({"type": "keepalive"}) == []


# The end


@pytest.mark.parametrize("kind", ["close", "stop", "CLOSE"])
def test_close_lets_what_is_left_come_down_until_upstream_closes(kind: str) -> None:
    talk = live()
    talk.client(b"one")

    assert talk.client({"type": kind}) == [up(CLOSE)]
    assert talk.upstream(final("the last words")) == [down(final("the last words"))]
    assert talk.lost(1000) == [client_closed(1000)]


def test_close_without_speech_ends_at_once() -> None:
    assert live().client(CLOSE) == [up(CLOSE), retire(0), client_closed(1000)]


def test_the_wait_for_upstream_to_close_is_bounded() -> None:
    talk = live(close_timeout=5)
    talk.client(b"one", CLOSE)

    assert talk.wait(4.9) == []
    assert talk.wait(0.1) == [retire(0), client_closed(1000)]


def test_an_upstream_lost_while_closing_is_replaced_and_gets_uncovered_audio_again() -> None:
    talk = live()
    talk.client(b"one!", CLOSE)

    assert talk.lost(1006) == [dial(1)]
    assert talk.ready() == [up(b"one!", 1), up(CLOSE, 1)]
    assert talk.upstream(final("one")) == [down(final("one"))]
    assert talk.lost(1000) == [client_closed(1000)]


def test_close_before_ready_comes_after_the_audio() -> None:
    talk = opening()

    assert talk.client(b"one", CLOSE, b"too late") == []
    assert talk.ready()[1:] == [up(b"one"), up(CLOSE)]
    assert talk.upstream(final("one")) == [down(final("one"))]
    assert talk.lost(1000) == [client_closed(1000)]
    assert talk.machine.counts["audio_after_close"] == 1


def test_close_is_bounded_while_upstream_is_still_opening() -> None:
    talk = opening(close_timeout=5)
    talk.client(CLOSE)

    assert talk.wait(5) == [retire(0), client_closed(1000)]


def test_a_close_that_leaves_audio_untranscribed_reports_how_much() -> None:
    talk = opening(close_timeout=5)
    talk.client(bytes(SECOND), CLOSE)

    assert talk.wait(5) == [retire(0), fatal("upstream_timeout"), client_closed(1011)]
    assert "1000 ms" in talk.errors[0]["message"]


def test_close_before_init_just_ends() -> None:
    assert new().client(CLOSE) == [client_closed(1000)]


def test_messages_after_close_are_ignored() -> None:
    talk = live()
    talk.client(b"one", CLOSE)

    assert talk.client(b"late", FINALIZE, CLOSE, "nonsense") == []
    assert talk.machine.counts["audio_after_close"] == 1
    assert talk.machine.counts["message_after_close"] == 3


def test_a_client_that_leaves_ends_its_upstream_connection_too() -> None:
    for talk in (opening(), live()):
        assert talk.client_leaves() == [retire(0)]
        assert talk.machine.deadline is None
    assert new().client_leaves() == []


def test_a_client_that_leaves_after_the_end_changes_nothing() -> None:
    talk = opening()
    talk.lost(1011)

    assert talk.client_leaves() == []


@pytest.mark.parametrize(
    ("close", "close_code"),
    [
        (upstream_close(1006), 1011),
        (upstream_close(1000), 1011),
        (upstream_close(1008, "idle"), 1011),
        (GatewayError("auth_error", "the key", status=401), 1008),
        (GatewayError("rate_limit", "busy"), 1013),
        (GatewayError("not_ready", "busy"), 1013),
        (GatewayError("upstream_timeout", "slow"), 1011),
    ],
)
def test_an_upstream_that_does_not_open_ends_the_session_with_a_code_that_shows_whose_fault_it_is(
    close: Close | GatewayError, close_code: int
) -> None:
    talk = opening()

    code = (close.error if isinstance(close, Close) else close).code
    assert talk.lost(close) == [fatal(code), client_closed(close_code)]
    assert talk.client(b"late", FINALIZE) == []
    assert talk.wait(1000) == []


def test_events_of_a_connection_after_the_end_are_ignored() -> None:
    talk = live()
    talk.client_leaves()

    assert talk.upstream(final("late"), b"late") == []
    assert talk.machine.upstream_lost(0, upstream_close(), talk.now) == []


def test_repr_shows_the_state_and_no_words() -> None:
    talk = opening()
    talk.client(b"secret", FINALIZE)

    shown = "SttMachine(open, ReplayBuffer(0-0 ms, 1 chunks), [<dialling 0 0-, sent 0, covered 0>])"
    assert repr(talk.machine) == shown
