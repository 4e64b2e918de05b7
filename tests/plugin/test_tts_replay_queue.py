"""The messages that a TTS connection sends, and sends again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pipecat_slng_sidecar.stt_replay_queue import SessionInit
from pipecat_slng_sidecar.tts_replay_queue import TtsReplayQueue, Utterance

ONE = SessionInit("m", {"type": "init", "voice": "one"})
TWO = SessionInit("m", {"type": "init", "voice": "two"})


def sent(queue: TtsReplayQueue) -> list[str]:
    """Return all messages that are to be sent, in a short form. They are then sent."""
    found = []
    while (text := queue.next()) is not None:
        message = json.loads(text)
        found.append(
            " ".join([message["type"], *(message[name] for name in ("context_id", "text") if name in message)])
        )
    return found


def spoken(queue: TtsReplayQueue, context_id: str, *texts: str, flush: bool = True) -> Utterance:
    utterance = queue.begin(context_id)
    for text in texts:
        queue.say(utterance, text)
    if flush:
        queue.flush(utterance)
    return utterance


def test_everything_is_sent_once_and_in_order() -> None:
    queue = TtsReplayQueue(ONE)
    assert queue.opening() == ("m", ONE.init)
    spoken(queue, "a", "x", "y")
    queue.update({"type": "update"}, TWO)
    spoken(queue, "b", "z", flush=False)
    queue.end()
    assert sent(queue) == ["text a x", "text a y", "flush a", "update", "text b z", "close"]
    assert sent(queue) == []


def test_a_second_utterance_of_a_context_has_an_id_of_its_own() -> None:
    queue = TtsReplayQueue(ONE)
    queue.ended(spoken(queue, "a", "x"))
    assert spoken(queue, "a", "y").id == "a#2"
    queue.forget("a")
    assert spoken(queue, "a", "z").id == "a"


def test_text_without_audio_is_sent_again_with_its_own_settings() -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    spoken(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    spoken(queue, "b", "y")
    sent(queue)
    assert queue.take_broken() == []
    assert queue.opening() == ("m", ONE.init)
    assert sent(queue) == ["text a x", "flush a", "update", "text b y", "flush b"]


def test_text_with_some_audio_is_not_sent_again() -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    first = spoken(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    spoken(queue, "b", "y")
    sent(queue)
    queue.sounds(first)
    assert queue.take_broken() == [first]
    assert queue.opening() == ("m", TWO.init)
    assert sent(queue) == ["text b y", "flush b"]


def test_text_that_was_sent_twice_in_vain_is_dropped() -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    utterance = spoken(queue, "a", "x")
    sent(queue)
    assert queue.take_broken() == []
    queue.opening()
    sent(queue)
    assert queue.take_broken() == [utterance]


def test_text_that_was_never_sent_is_kept_through_any_number_of_outages() -> None:
    queue = TtsReplayQueue(ONE)
    spoken(queue, "a", "x")
    for _ in range(5):
        assert queue.take_broken() == []
        queue.opening()
    assert sent(queue) == ["text a x", "flush a"]


def test_a_clear_overtakes_queued_messages_and_removes_its_own_texts() -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    first = spoken(queue, "a", "x", flush=False)
    sent(queue)
    queue.say(first, "never sent")
    spoken(queue, "b", "y")
    queue.clear(first)
    assert sent(queue) == ["clear a", "text b y", "flush b"]


def test_nothing_is_sent_of_an_utterance_that_was_cleared_before_it_was_sent() -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    queue.clear(spoken(queue, "a", "x"))
    assert sent(queue) == []


def test_dropping_queued_messages_keeps_the_newest_settings() -> None:
    queue = TtsReplayQueue(ONE)
    utterance = spoken(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    assert queue.take_all() == [utterance]
    assert queue.opening() == ("m", TWO.init)
    assert sent(queue) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["text", "flush", "clear", "update", "send", "sound", "end", "break"]), st.integers(0, 3)
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_each_connection_gets_a_valid_conversation(steps: list[tuple[str, int]]) -> None:
    queue = TtsReplayQueue(ONE)
    queue.opening()
    utterances: dict[int, Utterance] = {}
    voices = 1
    flushed: set[str] = set()
    here: set[str] = set()
    for step, number in steps:
        utterance = utterances.get(number)
        if step == "text" and (utterance is None or not utterance.flushed):
            utterance = utterances.setdefault(number, queue.begin(f"c{number}"))
            queue.say(utterance, "x")
        elif step == "flush" and utterance:
            queue.flush(utterance)
        elif step == "clear" and utterance:
            queue.clear(utterances.pop(number))
        elif step == "update":
            voices += 1
            queue.update({"type": "update"}, SessionInit("m", {"voice": str(voices)}))
        elif step == "send":
            for each in sent(queue):
                kind, _, rest = each.partition(" ")
                context_id = rest.split(" ")[0]
                if kind == "text":
                    assert context_id not in flushed
                    here.add(context_id)
                elif kind == "flush":
                    assert context_id in here
                    flushed.add(context_id)
                elif kind == "clear":
                    assert context_id in here
        elif step == "sound" and utterance and utterance.sent and queue.live(utterance.id):
            queue.sounds(utterance)
        elif step == "end" and utterance and utterance.flushed and utterance.sent:
            queue.ended(utterances.pop(number))
        elif step == "break":
            broken = {each.id for each in queue.take_broken()}
            utterances = {key: each for key, each in utterances.items() if each.id not in broken}
            queue.opening()
            here, flushed = set(), set()
    # An utterance that is still live and has no audio is sent in the end.
    queue.take_broken()
    queue.opening()
    silent = {each.id for each in utterances.values() if queue.live(each.id)}
    assert {each.split(" ")[1] for each in sent(queue) if each.startswith("text")} == silent
