"""The TTS replay queue: what a connection sends, and what the next one sends again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from pipecat_slng_sidecar.stt_replay_queue import SessionInit
from pipecat_slng_sidecar.tts_replay_queue import TtsReplayQueue, WireContext

ONE = SessionInit("m", {"type": "init", "voice": "one"})
TWO = SessionInit("m", {"type": "init", "voice": "two"})


def sent(queue: TtsReplayQueue) -> list[str]:
    """Send everything and return it in a short form: the type, the context id and the text of each message."""
    found = []
    while (text := queue.next_message()) is not None:
        message = json.loads(text)
        found.append(
            " ".join([message["type"], *(message[name] for name in ("context_id", "text") if name in message)])
        )
    return found


def add_context(queue: TtsReplayQueue, context_id: str, *texts: str, flush: bool = True) -> WireContext:
    context = queue.begin(context_id)
    for text in texts:
        queue.add_text(context, text)
    if flush:
        queue.flush(context)
    return context


def test_everything_is_sent_once_and_in_order() -> None:
    queue = TtsReplayQueue(ONE)
    assert queue.begin_connection() == ("m", ONE.init)
    add_context(queue, "a", "x", "y")
    queue.update({"type": "update"}, TWO)
    add_context(queue, "b", "z", flush=False)
    queue.request_close()
    assert sent(queue) == ["text a x", "text a y", "flush a", "update", "text b z", "close"]
    assert sent(queue) == []


def test_a_second_wire_context_of_a_pipecat_context_has_an_id_of_its_own() -> None:
    queue = TtsReplayQueue(ONE)
    queue.remove(add_context(queue, "a", "x"))
    assert add_context(queue, "a", "y").id == "a#2"
    queue.forget_pipecat_context("a")
    assert add_context(queue, "a", "z").id == "a"


def test_contexts_without_audio_are_sent_again_with_their_own_settings() -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    add_context(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    add_context(queue, "b", "y")
    sent(queue)
    assert queue.pop_unrepeatable() == []
    assert queue.begin_connection() == ("m", ONE.init)
    assert sent(queue) == ["text a x", "flush a", "update", "text b y", "flush b"]


def test_a_context_that_has_audio_is_not_sent_again() -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    first = add_context(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    add_context(queue, "b", "y")
    sent(queue)
    queue.mark_audio(first)
    assert queue.pop_unrepeatable() == [first]
    assert queue.begin_connection() == ("m", TWO.init)
    assert sent(queue) == ["text b y", "flush b"]


def test_a_context_that_was_sent_twice_without_audio_is_not_sent_again() -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    context = add_context(queue, "a", "x")
    sent(queue)
    assert queue.pop_unrepeatable() == []
    queue.begin_connection()
    sent(queue)
    assert queue.pop_unrepeatable() == [context]


def test_a_context_that_was_never_sent_survives_any_number_of_failed_connections() -> None:
    queue = TtsReplayQueue(ONE)
    add_context(queue, "a", "x")
    for _ in range(5):
        assert queue.pop_unrepeatable() == []
        queue.begin_connection()
    assert sent(queue) == ["text a x", "flush a"]


def test_a_clear_is_sent_before_waiting_messages_and_discards_the_texts_of_its_context() -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    first = add_context(queue, "a", "x", flush=False)
    sent(queue)
    queue.add_text(first, "never sent")
    add_context(queue, "b", "y")
    queue.clear(first)
    assert sent(queue) == ["clear a", "text b y", "flush b"]


def test_nothing_is_sent_for_a_context_that_was_cleared_before_it_was_sent() -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    queue.clear(add_context(queue, "a", "x"))
    assert sent(queue) == []


def test_discarding_everything_keeps_the_newest_settings() -> None:
    queue = TtsReplayQueue(ONE)
    context = add_context(queue, "a", "x")
    queue.update({"type": "update"}, TWO)
    assert queue.discard_all() == [context]
    assert queue.begin_connection() == ("m", TWO.init)
    assert sent(queue) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["text", "flush", "clear", "update", "send", "audio", "end", "reconnect"]), st.integers(0, 3)
    ),
    max_size=60,
)


@given(STEPS)
def test_in_any_sequence_of_events_each_connection_sends_a_valid_conversation(steps: list[tuple[str, int]]) -> None:
    queue = TtsReplayQueue(ONE)
    queue.begin_connection()
    contexts: dict[int, WireContext] = {}
    voices = 1
    flushed: set[str] = set()
    begun: set[str] = set()
    for step, number in steps:
        context = contexts.get(number)
        if step == "text" and (context is None or not context.flushed):
            context = contexts.setdefault(number, queue.begin(f"c{number}"))
            queue.add_text(context, "x")
        elif step == "flush" and context:
            queue.flush(context)
        elif step == "clear" and context:
            queue.clear(contexts.pop(number))
        elif step == "update":
            voices += 1
            queue.update({"type": "update"}, SessionInit("m", {"voice": str(voices)}))
        elif step == "send":
            for each in sent(queue):
                kind, _, rest = each.partition(" ")
                context_id = rest.split(" ")[0]
                if kind == "text":
                    assert context_id not in flushed
                    begun.add(context_id)
                elif kind == "flush":
                    assert context_id in begun
                    flushed.add(context_id)
                elif kind == "clear":
                    assert context_id in begun
        elif step == "audio" and context and context.was_sent and queue.get(context.id):
            queue.mark_audio(context)
        elif step == "end" and context and context.flushed and context.was_sent:
            queue.remove(contexts.pop(number))
        elif step == "reconnect":
            unrepeatable = {each.id for each in queue.pop_unrepeatable()}
            contexts = {key: each for key, each in contexts.items() if each.id not in unrepeatable}
            queue.begin_connection()
            begun, flushed = set(), set()
    # A last connection sends every context that has not ended and has no audio.
    queue.pop_unrepeatable()
    queue.begin_connection()
    silent = {each.id for each in contexts.values() if queue.get(each.id)}
    assert {each.split(" ")[1] for each in sent(queue) if each.startswith("text")} == silent
