"""The messages that an STT connection sends, and sends again."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from pipecat_slng_sidecar.stt_replay_queue import SessionInit, SttReplayQueue

RATE = 8_000  # 16 bytes per millisecond
FRAME = 20 * 16
EN = SessionInit("m", {"type": "init", "config": {"language": "en"}})
DE = SessionInit("m", {"type": "init", "config": {"language": "de"}})


def new_queue(keep_seconds: float = 30) -> SttReplayQueue:
    return SttReplayQueue(EN, RATE, keep_seconds)


def frames(first: int, last: int) -> list[bytes]:
    """Return frames of 20 ms whose content is their number."""
    return [number.to_bytes(2, "little") * (FRAME // 2) for number in range(first, last + 1)]


def fill(queue: SttReplayQueue, first: int, last: int) -> None:
    for frame in frames(first, last):
        queue.append(frame)


def sent(queue: SttReplayQueue) -> list[str]:
    """Return all messages that are to be sent: numbers of frames, and types of messages. They are then sent."""
    found: list[str] = []
    while (message := queue.next()) is not None:
        if isinstance(message, str):
            found.append(json.loads(message)["type"])
        else:
            numbers = [int.from_bytes(message[at : at + 2], "little") for at in range(0, len(message), 2)]
            assert len(set(numbers)) == 1
            found.append(str(numbers[0]) if len(message) == FRAME else f"{numbers[0]}/{len(message)}")
    return found


def test_everything_is_sent_once_and_in_order() -> None:
    queue = new_queue()
    assert queue.opening() == ("m", EN.init)
    fill(queue, 1, 2)
    queue.finalize("f1")
    fill(queue, 3, 3)
    queue.update({"type": "update"}, DE)
    fill(queue, 4, 4)
    assert sent(queue) == ["1", "2", "finalize", "3", "update", "4"]
    assert sent(queue) == []


def test_a_new_connection_gets_the_audio_from_the_first_uncovered_byte_on() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 5)
    sent(queue)
    queue.covered(50)
    queue.closed()
    fill(queue, 6, 6)
    queue.opening()
    assert sent(queue) == ["3/160", "4", "5", "6"]


def test_positions_count_from_the_first_byte_of_each_connection() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 5)
    sent(queue)
    queue.covered(40)
    queue.opening()
    sent(queue)
    queue.covered(40)
    queue.opening()
    assert sent(queue) == ["5"]


def test_an_unanswered_finalize_is_sent_again_at_its_place() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 2)
    queue.finalize("f1")
    fill(queue, 3, 3)
    sent(queue)
    queue.covered(20)
    queue.opening()
    assert sent(queue) == ["2", "finalize", "3"]
    queue.covered(20)
    queue.answered("f1")
    queue.opening()
    assert sent(queue) == ["3"]


def test_a_new_connection_begins_with_the_settings_of_its_first_audio() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 2)
    queue.update({"type": "update"}, DE)
    fill(queue, 3, 3)
    sent(queue)
    assert queue.opening() == ("m", EN.init)
    assert sent(queue) == ["1", "2", "update", "3"]
    queue.covered(40)
    assert queue.opening() == ("m", DE.init)
    assert sent(queue) == ["3"]


def test_the_oldest_audio_beyond_the_limit_is_dropped_and_counted_as_lost_without_a_sidecar() -> None:
    queue = new_queue(keep_seconds=0.1)
    queue.opening()
    fill(queue, 1, 20)
    sent(queue)
    assert queue.take_lost_ms() == 15 * 20, "it was never sent"
    fill(queue, 21, 25)
    sent(queue)
    fill(queue, 26, 30)
    assert queue.take_lost_ms() == 0, "the sidecar has it"
    sent(queue)
    queue.closed()
    fill(queue, 31, 32)
    queue.opening()
    assert sent(queue) == ["28", "29", "30", "31", "32"]
    assert queue.take_lost_ms() == 40


def test_dropping_queued_messages_keeps_the_newest_settings() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 2)
    queue.update({"type": "update"}, DE)
    queue.clear()
    assert queue.opening() == ("m", DE.init)
    assert sent(queue) == []
    assert queue.take_lost_ms() == 40


def test_the_close_comes_after_everything() -> None:
    queue = new_queue()
    queue.opening()
    fill(queue, 1, 1)
    queue.end()
    assert sent(queue) == ["1", "close"]
    assert sent(queue) == []


@given(st.lists(st.sampled_from(["hear", "send", "cover", "finalize", "answer", "break"]), max_size=60), st.data())
def test_whatever_happens_every_frame_arrives_and_none_out_of_order(steps: list[str], data: st.DataObject) -> None:
    queue = new_queue()
    queue.opening()
    appended, finalizes, unanswered = 0, 0, set[str]()
    base, sent_now = 0, 0  # in frames: the start of this connection, and how many frames it got
    received: list[int] = []
    covered_frames = 0
    for step in [*steps, "break", "send"]:
        if step == "hear":
            appended += 1
            fill(queue, appended, appended)
        elif step == "send":
            for each in sent(queue):
                if each == "finalize":
                    unanswered.add(f"f{finalizes}")
                else:
                    received.append(int(each))
                    sent_now += 1
        elif step == "cover" and sent_now:
            covered = data.draw(st.integers(0, sent_now))
            queue.covered(covered * 20)
            covered_frames = max(covered_frames, base + covered)
        elif step == "finalize":
            finalizes += 1
            queue.finalize(f"f{finalizes}")
        elif step == "answer" and finalizes:
            queue.answered(f"f{finalizes}")
        elif step == "break":
            queue.closed()
            queue.opening()
            base, sent_now = covered_frames, 0
    assert set(received) == set(range(1, appended + 1))
    # The position moves forward by one, or back to the first uncovered frame.
    assert all(later == earlier + 1 or later <= earlier for earlier, later in pairwise(received))
    assert received[-1:] in ([appended], []) or covered_frames == appended
