from __future__ import annotations

from typing import Any

import pytest
from conversation import (
    Conversation,
    Said,
    dial,
    down,
    fatal,
    goodbye,
    hung_up,
    odd_client_messages,
    odd_upstream_messages,
    refusal,
    retire,
    up,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.stt_dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.transcripts import SttMachine, SttOptions

INIT = {"type": "init", "config": {"sample_rate": 16_000}}
FINALIZE = {"type": "finalize"}
CLOSE = {"type": "close"}
SECOND = 32_000  # bytes of it


def final(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "final_transcript", "transcript": text, **fields}


def partial(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "partial_transcript", "transcript": text, **fields}


def new(**options: Any) -> Conversation:
    return Conversation(SttMachine(SttOptions(**options), PlainStt()))


def opening(**options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(INIT) == [dial(0)]
    return talk


def live(**options: Any) -> Conversation:
    talk = opening(**options)
    talk.ready()
    return talk


# Opening


def test_init_is_what_upstream_gets_first_word_for_word() -> None:
    talk = new()
    init = {"type": "init", "config": {"language": "de", "enable_partials": True, "x": [1, None]}, "extra": "é"}

    assert talk.client(init) == [dial(0)]

    assert talk.inits == [init]


def test_ready_reaches_the_client_as_upstream_said_it() -> None:
    talk = opening()

    assert talk.ready(slng_request_id="r1") == [
        down({"type": "ready", "session_id": "s1", "slng_request_id": "r1"}),
    ]


def test_audio_before_ready_is_held_and_goes_up_in_order_after_it() -> None:
    talk = opening()

    assert talk.client(b"one", b"two", FINALIZE, b"three") == []
    said = talk.ready()

    assert said[0] == down({"type": "ready", "session_id": "s1"})
    assert said[1:] == [up(b"one"), up(b"two"), up(FINALIZE), up(b"three")]
    assert talk.client(b"four") == [up(b"four")]


def test_what_was_held_goes_up_only_once() -> None:
    talk = opening()
    talk.client(b"one")
    talk.ready()

    assert talk.client(b"two") == [up(b"two")]


def test_too_much_early_audio_gives_up_the_oldest_and_says_so_once() -> None:
    talk = opening(replay_seconds=1)
    first, second, third, fourth = (bytes([n]) * (SECOND // 2) for n in range(4))

    assert talk.client(first, second) == []
    assert talk.client(third) == [refusal("audio_overflow")]
    assert talk.client(fourth) == []

    assert talk.ready()[1:] == [up(third), up(fourth)]
    assert talk.machine.counts["audio_overflow_bytes"] == SECOND
    assert talk.errors[0]["retryable"] is True


def test_an_overflow_leaves_a_finalize_at_its_place_among_the_audio_that_stays() -> None:
    talk = opening(replay_seconds=1)
    first, second, third = (bytes([n]) * (SECOND // 2) for n in range(3))

    talk.client(first, second, FINALIZE, third, FINALIZE)

    assert talk.ready()[1:] == [up(second), up(FINALIZE), up(third), up(FINALIZE)]


def test_a_finalize_all_of_whose_audio_was_given_up_is_answered_at_once() -> None:
    talk = opening(replay_seconds=1)
    half, whole = bytes(SECOND // 2), bytes([1]) * SECOND

    talk.client(half, FINALIZE, half, whole)

    assert talk.ready()[1:] == [down(final("", from_finalize=True)), up(whole)]


def test_a_message_larger_than_the_bound_is_given_up_as_a_whole() -> None:
    talk = opening(replay_seconds=1)

    assert talk.client(bytes(SECOND + 2)) == [refusal("audio_overflow")]

    assert talk.ready() == [down({"type": "ready", "session_id": "s1"})]


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
def test_a_second_of_audio_is_counted_by_what_init_said(config: dict[str, Any], bytes_per_second: int) -> None:
    talk = new(replay_seconds=1)
    talk.client({"type": "init", "config": config})

    assert talk.machine.ahead_bytes == bytes_per_second
    assert talk.client(bytes(bytes_per_second)) == []
    assert talk.client(b"\0\0") == [refusal("audio_overflow")]


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
def test_an_init_that_cannot_be_meant_ends_the_session_before_a_dial(config: Any) -> None:
    talk = new()

    assert talk.client({"type": "init", "config": config}) == [fatal("config_error"), goodbye(1008)]
    assert talk.client(INIT) == []


@pytest.mark.parametrize("nesting", range(940, 1000))
def test_an_init_nested_deeply_is_taken_or_refused(nesting: int) -> None:
    machine = SttMachine(SttOptions(), PlainStt())
    machine.started(0)

    assert machine.client_text('{"type":"init","config":{"x":' + "[" * nesting + "]" * nesting + "}}", 0)


def test_a_number_that_json_has_no_word_for_does_not_go_up_as_one() -> None:
    talk = new()

    said = talk.client('{"type":"init","config":{"speed":1e999,"gain":NaN}}')  # what goes up is read strictly

    assert said[0] in (dial(0), refusal("bad_request"), fatal("config_error"))


def test_a_second_init_is_refused_and_the_session_goes_on() -> None:
    talk = live()

    assert talk.client(INIT) == [refusal("bad_request")]
    assert talk.client(b"one") == [up(b"one")]


def test_audio_before_init_ends_the_session() -> None:
    talk = new()

    assert talk.client(b"one") == [fatal("bad_request"), goodbye(1008)]
    assert talk.client(INIT) == []


@pytest.mark.parametrize("kind", ["finalize", "keepalive", "audio", "hello"])
def test_a_message_before_init_is_refused_and_ignored(kind: str) -> None:
    talk = new()

    assert talk.client({"type": kind}) == [refusal("bad_request")]
    assert talk.client(INIT) == [dial(0)]
    assert talk.ready() == [down({"type": "ready", "session_id": "s1"})]


def test_a_client_that_never_says_init_is_sent_away() -> None:
    talk = new(init_timeout=30)

    assert talk.wait(29.9) == []
    assert talk.wait(0.1) == [fatal("bad_request"), goodbye(1008)]


def test_no_deadline_but_that_of_rotation_runs_while_all_is_well() -> None:
    talk = live(rotate_seconds=1500)

    assert talk.machine.deadline == talk.now + 1500


# What the client says


@pytest.mark.parametrize("text", ["", "hello", "[1]", "null", "{", '"x"', "NaN"])
def test_what_is_no_message_is_refused_and_the_session_goes_on(text: str) -> None:
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


def test_a_keepalive_of_the_client_ends_here() -> None:
    assert live().client({"type": "keepalive"}) == []


# Transcripts


def test_transcripts_come_down_with_all_that_upstream_said() -> None:
    talk = live()
    words = [{"word": "hi", "start": 0.1, "end": 0.2}]

    assert talk.upstream(partial("hi", confidence=0.9)) == [down(partial("hi", confidence=0.9))]
    assert talk.upstream(final("hi", confidence=0.9, words=words, extra={"a": 1})) == [
        down(final("hi", confidence=0.9, words=words, extra={"a": 1}))
    ]


def test_a_transcript_that_stands_only_inside_is_brought_to_the_top() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "hi", "confidence": 0.9}]}

    assert talk.upstream({"type": "final_transcript", "channel": channel}) == [down(final("hi", channel=channel))]


def test_results_of_the_provider_become_the_bridges_own_messages() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "hi", "confidence": 0.9}]}

    assert talk.upstream({"type": "Results", "channel": channel, "is_final": True}) == [
        down(final("hi", confidence=0.9))
    ]
    assert talk.upstream({"type": "Results", "channel": channel, "is_final": False}) == [
        down(partial("hi", confidence=0.9))
    ]


@pytest.mark.parametrize(
    "message",
    [{"type": "SpeechStarted"}, {"type": "Metadata", "x": [1]}, {"type": "utterance_end", "last_word_end": 2.5}],
)
def test_other_messages_of_upstream_pass_unchanged(message: dict[str, Any]) -> None:
    assert live().upstream(message) == [down(message)]


def test_a_second_ready_is_not_passed_on() -> None:
    talk = live()

    assert talk.upstream({"type": "ready", "session_id": "other"}) == []
    assert talk.machine.counts["extra_ready"] == 1


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "1"])
def test_what_upstream_says_without_sense_is_counted_and_not_passed_on(text: str) -> None:
    talk = live()

    assert talk.upstream(text) == []
    assert talk.machine.counts["unreadable_upstream_message"] == 1


def test_sound_from_an_stt_upstream_is_counted_and_not_passed_on() -> None:
    talk = live()

    assert talk.upstream(b"sound") == []
    assert talk.machine.counts["unexpected_upstream_binary"] == 1


def test_an_error_of_upstream_is_told_in_our_shape_and_the_session_goes_on() -> None:
    talk = live()

    assert talk.upstream({"type": "error", "data": {"code": "config_error", "message": "no such language"}}) == [
        refusal("config_error")
    ]
    assert talk.errors[0]["message"] == "no such language"
    assert talk.errors[0]["retryable"] is False
    assert talk.client(b"one") == [up(b"one")]


def test_an_error_that_may_pass_is_not_told_to_who_takes_every_error_for_the_end() -> None:
    talk = live()

    assert talk.upstream({"type": "error", "data": {"code": "rate_limit", "message": "slow down"}}) == []
    assert talk.machine.counts["upstream_errors"] == 1
    assert talk.client(b"one") == [up(b"one")]


@pytest.mark.parametrize(
    ("scope", "low_partial", "low_final"),
    [("all", "dropped", "emptied"), ("partials", "dropped", "kept"), ("off", "kept", "kept")],
)
def test_the_filter_drops_what_its_scope_says(scope: str, low_partial: str, low_final: str) -> None:
    talk = live(confidence_threshold=0.5, confidence_scope=scope)

    heard = talk.upstream(partial("mumble", confidence=0.49))
    assert heard == ([] if low_partial == "dropped" else [down(partial("mumble", confidence=0.49))])
    heard = talk.upstream(final("mumble", confidence=0.49, words=[{"word": "mumble", "start": 0, "end": 1}]))
    if low_final == "emptied":
        assert heard == [down(final("", confidence=0.49))]
    else:
        assert heard[0][1]["transcript"] == "mumble"
    assert talk.machine.counts["dropped_partials"] == (low_partial == "dropped")
    assert talk.machine.counts["dropped_finals"] == (low_final == "emptied")


@pytest.mark.parametrize("confidence", [0.5, 0.51, 1, True, None, "0.1", [0.1]])
def test_a_score_at_the_threshold_and_no_score_at_all_pass(confidence: object) -> None:
    talk = live(confidence_threshold=0.5)

    assert talk.upstream(final("word", confidence=confidence)) == [down(final("word", confidence=confidence))]
    assert talk.upstream(partial("word", confidence=confidence)) == [down(partial("word", confidence=confidence))]


def test_a_nested_score_counts_as_well() -> None:
    talk = live()
    channel = {"alternatives": [{"transcript": "mumble", "confidence": 0.1}]}

    assert talk.upstream({"type": "Results", "channel": channel}) == []
    assert talk.upstream({"type": "final_transcript", "transcript": "mumble", "channel": channel}) == [
        down(final("", confidence=0.1))
    ]


def test_a_score_beyond_all_numbers_is_passed_on_as_json() -> None:
    talk = live()

    heard = talk.upstream('{"type":"final_transcript","transcript":"word","confidence":1e999}')

    assert heard[0][1]["transcript"] == "word"


# Finalize


def test_finalize_goes_up_after_the_audio_before_it() -> None:
    assert live().client(b"one", FINALIZE, b"two") == [up(b"one"), up(FINALIZE), up(b"two")]


def test_a_final_that_answers_a_finalize_says_so() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]
    assert talk.upstream(final("there")) == [down(final("there"))]


def test_partials_are_held_until_a_finalize_is_answered_and_while_they_repeat_the_answer() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(partial("hi")) == []
    assert talk.upstream(final("Hi there.")) == [down(final("Hi there.", from_finalize=True))]
    assert talk.upstream(partial("hi")) == []
    assert talk.upstream(partial("hi there")) == []
    assert talk.upstream(partial("how")) == [down(partial("how"))]


def test_each_of_two_finalizes_is_answered() -> None:
    talk = live()
    talk.client(b"one", FINALIZE, b"two", FINALIZE)

    heard = talk.upstream(final("one"), final("two"), final("three"))

    assert heard == [
        down(final("one", from_finalize=True)),
        down(final("two", from_finalize=True)),
        down(final("three")),
    ]


def test_a_finalize_with_nothing_said_since_the_last_is_answered_at_once() -> None:
    talk = live()

    assert talk.client(FINALIZE) == [down(final("", from_finalize=True))]
    talk.client(b"one", FINALIZE)
    assert talk.client(FINALIZE) == [down(final("", from_finalize=True))]


def test_a_finalize_that_upstream_does_not_answer_is_answered_in_time() -> None:
    talk = live(finalize_timeout=3)
    talk.client(b"one", FINALIZE)

    assert talk.wait(2.9) == []
    assert talk.wait(0.1) == [down(final("", from_finalize=True))]
    assert talk.upstream(final("late")) == [down(final("late"))]


def test_an_empty_final_answers_a_finalize() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("")) == [down(final("", from_finalize=True))]


def test_an_empty_final_is_no_answer_while_a_partial_waits_for_its_final() -> None:
    talk = live()
    talk.client(b"one")
    talk.upstream(partial("hi"))
    talk.client(FINALIZE)

    assert talk.upstream(final("")) == [down(final(""))]
    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]


def test_a_final_that_upstream_calls_no_answer_is_none() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("one", from_finalize=False)) == [down(final("one", from_finalize=False))]
    assert talk.upstream(final("two", from_finalize=True)) == [down(final("two", from_finalize=True))]
    assert talk.upstream(final("three")) == [down(final("three"))]


def test_results_bear_from_finalize_through() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)
    channel = {"alternatives": [{"transcript": "hi"}]}
    results = {"type": "Results", "channel": channel, "is_final": True}

    assert talk.upstream({**results, "from_finalize": False}) == [down(final("hi", from_finalize=False))]
    assert talk.upstream({**results, "from_finalize": True}) == [down(final("hi", from_finalize=True))]


def test_a_dropped_final_still_answers_the_finalize() -> None:
    talk = live()
    talk.client(b"one", FINALIZE)

    assert talk.upstream(final("mumble", confidence=0.1)) == [down(final("", confidence=0.1, from_finalize=True))]
    assert talk.upstream(final("clear", confidence=0.9)) == [down(final("clear", confidence=0.9))]


def test_a_finalize_before_ready_is_answered_as_well() -> None:
    talk = opening()
    talk.client(b"one", FINALIZE)
    talk.ready()

    assert talk.upstream(final("hi")) == [down(final("hi", from_finalize=True))]


# The end


@pytest.mark.parametrize("kind", ["close", "stop", "CLOSE"])
def test_close_lets_what_is_left_come_down_until_upstream_closes(kind: str) -> None:
    talk = live()
    talk.client(b"one")

    assert talk.client({"type": kind}) == [up(CLOSE)]
    assert talk.upstream(final("the last words")) == [down(final("the last words"))]
    assert talk.lost(1000) == [goodbye(1000)]


def test_close_with_nothing_said_ends_at_once() -> None:
    assert live().client(CLOSE) == [up(CLOSE), retire(0), goodbye(1000)]


def test_an_upstream_that_does_not_close_is_not_waited_for() -> None:
    talk = live(close_timeout=5)
    talk.client(b"one", CLOSE)

    assert talk.wait(4.9) == []
    assert talk.wait(0.1) == [retire(0), goodbye(1000)]


def test_an_upstream_lost_while_closing_is_replaced_and_hears_again_what_was_not_covered() -> None:
    talk = live()
    talk.client(b"one!", CLOSE)

    assert talk.lost(1006) == [dial(1)]
    assert talk.ready() == [up(b"one!", 1), up(CLOSE, 1)]
    assert talk.upstream(final("one")) == [down(final("one"))]
    assert talk.lost(1000) == [goodbye(1000)]


def test_close_before_ready_comes_after_the_audio() -> None:
    talk = opening()

    assert talk.client(b"one", CLOSE, b"too late") == []
    assert talk.ready()[1:] == [up(b"one"), up(CLOSE)]
    assert talk.upstream(final("one")) == [down(final("one"))]
    assert talk.lost(1000) == [goodbye(1000)]
    assert talk.machine.counts["audio_after_close"] == 1


def test_close_is_bounded_while_upstream_is_still_opening() -> None:
    talk = opening(close_timeout=5)
    talk.client(CLOSE)

    assert talk.wait(5) == [retire(0), goodbye(1000)]


def test_a_close_that_leaves_audio_unheard_says_how_much() -> None:
    talk = opening(close_timeout=5)
    talk.client(bytes(SECOND), CLOSE)

    assert talk.wait(5) == [retire(0), fatal("upstream_timeout"), goodbye(1011)]
    assert "1000 ms" in talk.errors[0]["message"]


def test_close_before_init_just_ends() -> None:
    assert new().client(CLOSE) == [goodbye(1000)]


def test_nothing_is_taken_after_close() -> None:
    talk = live()
    talk.client(b"one", CLOSE)

    assert talk.client(b"late", FINALIZE, CLOSE, "nonsense") == []
    assert talk.machine.counts["audio_after_close"] == 1
    assert talk.machine.counts["message_after_close"] == 3


def test_a_client_that_goes_takes_its_upstream_along() -> None:
    for talk in (opening(), live()):
        assert talk.client_goes() == [retire(0)]
        assert talk.machine.deadline is None
    assert new().client_goes() == []


def test_a_client_that_goes_after_the_end_changes_nothing() -> None:
    talk = opening()
    talk.lost(1011)

    assert talk.client_goes() == []


@pytest.mark.parametrize(
    ("error", "close_code"),
    [
        (hung_up(1006), 1011),
        (hung_up(1000), 1011),
        (hung_up(1008, "idle"), 1011),
        (GatewayError("auth_error", "the key", status=401), 1008),
        (GatewayError("rate_limit", "busy"), 1013),
        (GatewayError("not_ready", "busy"), 1013),
        (GatewayError("upstream_timeout", "slow"), 1011),
    ],
)
def test_an_upstream_that_does_not_open_ends_the_session_and_the_code_says_whose_fault(
    error: GatewayError, close_code: int
) -> None:
    talk = opening()

    assert talk.lost(error) == [fatal(error.code), goodbye(close_code)]
    assert talk.client(b"late", FINALIZE) == []
    assert talk.wait(1000) == []


def test_news_of_a_connection_after_the_end_is_ignored() -> None:
    talk = live()
    talk.client_goes()

    assert talk.upstream(final("late"), b"late") == []
    assert talk.machine.upstream_lost(0, hung_up(), talk.now) == []


def test_repr_tells_the_state_and_no_words() -> None:
    talk = opening()
    talk.client(b"secret", FINALIZE)

    told = "SttMachine(open, AudioLedger(0-0 ms, 1 chunks), [<dialling 0 0-, sent 0, covered 0>])"
    assert repr(talk.machine) == told


# Any order


class AnyTranscription(RuleBasedStateMachine):
    """Whatever client and upstream do, in any order; ``Conversation`` checks each command.

    This one holds the audio's way up against the promises: what a connection hears is a run of the session's audio,
    without a gap; one that is live has heard all there is; and nothing that was told by then goes up again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.audio_so_far: list[bytes] = []
        self.heard: dict[int, list[bytes]] = {}
        self.closing = False

    @initialize(scope=st.sampled_from(["all", "partials", "off"]), extended=st.booleans())
    def start(self, scope: Any, extended: bool) -> None:
        dialect: Any = ExtendedStt("0", "1") if extended else PlainStt()
        options = SttOptions(confidence_scope=scope, jitter=lambda: 0.5)
        self.talk = Conversation(SttMachine(options, dialect))
        self.finalizes = self.answers = 0
        self.extended = extended

    def follow(self, said: list[Said]) -> None:
        for what in said:
            if what[0] == "up" and isinstance(what[2], bytes):
                self.heard.setdefault(what[1], []).append(what[2])
            elif what[0] == "down" and what[1].get("type") == "finalized":
                self.answers += 1

    @rule()
    def init(self) -> None:
        self.follow(self.talk.client(INIT))

    @rule()
    def audio(self) -> None:
        data = (len(self.audio_so_far) + 1).to_bytes(2, "big")
        if self.talk.inits and not self.closing and not self.talk.over:
            self.audio_so_far.append(data)
        self.follow(self.talk.client(data))

    @rule(name=st.sampled_from(["a", "b"]))
    def finalize(self, name: str) -> None:
        if self.talk.inits and not self.closing and not self.talk.over:
            self.finalizes += 1
        self.follow(self.talk.client({**FINALIZE, "id": name}))

    @rule(config=st.sampled_from([{}, {"language": "de"}, {"language": "fr", "sample_rate": 8000}]))
    def update(self, config: dict[str, Any]) -> None:
        self.follow(self.talk.client({"type": "update", "config": config}))

    @rule()
    def close(self) -> None:
        self.closing = self.closing or bool(self.talk.inits)
        self.follow(self.talk.client(CLOSE))

    @rule(message=odd_client_messages("init", "close", "stop", "finalize", "update"))
    def anything(self, message: str) -> None:
        self.follow(self.talk.client(message))

    @rule()
    def goes(self) -> None:
        if not self.talk.over:
            self.follow(self.talk.client_goes())

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(message=odd_upstream_messages())
    def upstream(self, message: str | bytes) -> None:
        self.follow(self.talk.upstream(message))

    @precondition(lambda self: self.talk.newest in self.talk.open)
    @rule(code=st.sampled_from([1000, 1005, 1006, 1008, 1011]))
    def lost(self, code: int) -> None:
        self.follow(self.talk.lost(code))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 5.0, 40.0, 2000.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    @invariant()
    def what_a_connection_hears_is_a_run_of_the_audio(self) -> None:
        for heard in self.heard.values():
            joined, whole = b"".join(heard), b"".join(self.audio_so_far)
            at = whole.find(joined)
            while at % 2:
                at = whole.find(joined, at + 1)
            assert at >= 0

    @invariant()
    def no_finalize_is_answered_twice(self) -> None:
        if hasattr(self, "talk") and self.extended:
            assert self.answers <= self.finalizes

    @invariant()
    def knows_when_it_is_over(self) -> None:
        if hasattr(self, "talk") and self.talk.over:
            assert self.talk.machine.deadline is None

    def teardown(self) -> None:
        if hasattr(self, "talk") and not self.talk.over and self.extended:
            self.follow(self.talk.wait(10))
            if not self.talk.over:
                assert self.answers == self.finalizes


TestAnyTranscription = AnyTranscription.TestCase
TestAnyTranscription.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
