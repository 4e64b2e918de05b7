"""The STT replay queue: what a connection sends, and what the next one sends again."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from pipecat_slng_sidecar.stt_replay_queue import SessionInit, SttReplayQueue

RATE = 8_000  # 16 bytes a millisecond
FRAME = 20 * 16
EN = SessionInit("m", {"type": "init", "config": {"language": "en"}})
DE = SessionInit("m", {"type": "init", "config": {"language": "de"}})


def new_queue(keep_seconds: float = 30) -> SttReplayQueue:
    return SttReplayQueue(EN, RATE, keep_seconds)


def frames(first: int, last: int) -> list[bytes]:
    """Return frames of 20 ms that contain their number."""
    return [number.to_bytes(2, "little") * (FRAME // 2) for number in range(first, last + 1)]


def fill(queue: SttReplayQueue, first: int, last: int) -> None:
    for frame in frames(first, last):
        queue.append(frame)


def sent(queue: SttReplayQueue) -> list[str]:
    """Send everything and return it: the number of each frame, with its size if it is partial, or the message type."""
    found: list[str] = []
    while (message := queue.next_message()) is not None:
        if isinstance(message, str):
            found.append(json.loads(message)["type"])
        else:
            numbers = [int.from_bytes(message[at : at + 2], "little") for at in range(0, len(message), 2)]
            assert len(set(numbers)) == 1
            found.append(str(numbers[0]) if len(message) == FRAME else f"{numbers[0]}/{len(message)}")
    return found


def test_everything_is_sent_once_and_in_order() -> None:
    queue = new_queue()
    assert queue.begin_connection() == ("m", EN.init)
    fill(queue, 1, 2)
    queue.finalize("f1")
    fill(queue, 3, 3)
    queue.update({"type": "update"}, DE)
    fill(queue, 4, 4)
    assert sent(queue) == ["1", "2", "finalize", "3", "update", "4"]
    assert sent(queue) == []


def test_a_new_connection_starts_at_the_first_byte_that_is_not_covered() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 5)
    sent(queue)
    queue.mark_covered(50)
    queue.end_connection()
    fill(queue, 6, 6)
    queue.begin_connection()
    assert sent(queue) == ["3/160", "4", "5", "6"]


def test_coverage_counts_from_the_first_byte_of_each_connection() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 5)
    sent(queue)
    queue.mark_covered(40)
    queue.begin_connection()
    sent(queue)
    queue.mark_covered(40)
    queue.begin_connection()
    assert sent(queue) == ["5"]


def test_a_finalize_without_an_answer_is_sent_again_at_its_position() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 2)
    queue.finalize("f1")
    fill(queue, 3, 3)
    sent(queue)
    queue.mark_covered(20)
    queue.begin_connection()
    assert sent(queue) == ["2", "finalize", "3"]
    queue.mark_covered(20)
    queue.mark_answered("f1")
    queue.begin_connection()
    assert sent(queue) == ["3"]


def test_a_new_connection_starts_with_the_settings_of_its_first_audio() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 2)
    queue.update({"type": "update"}, DE)
    fill(queue, 3, 3)
    sent(queue)
    assert queue.begin_connection() == ("m", EN.init)
    assert sent(queue) == ["1", "2", "update", "3"]
    queue.mark_covered(40)
    assert queue.begin_connection() == ("m", DE.init)
    assert sent(queue) == ["3"]


def test_a_full_queue_discards_the_oldest_audio_and_counts_it_as_lost_unless_the_sidecar_has_it() -> None:
    queue = new_queue(keep_seconds=0.1)
    queue.begin_connection()
    fill(queue, 1, 20)
    sent(queue)
    assert queue.pop_lost_ms() == 15 * 20, "this audio was never sent"
    fill(queue, 21, 25)
    sent(queue)
    fill(queue, 26, 30)
    assert queue.pop_lost_ms() == 0, "the sidecar has this audio"
    sent(queue)
    queue.end_connection()
    fill(queue, 31, 32)
    queue.begin_connection()
    assert sent(queue) == ["28", "29", "30", "31", "32"]
    assert queue.pop_lost_ms() == 40


def test_discarding_everything_keeps_the_newest_settings() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 2)
    queue.update({"type": "update"}, DE)
    queue.discard_all()
    assert queue.begin_connection() == ("m", DE.init)
    assert sent(queue) == []
    assert queue.pop_lost_ms() == 40


def test_the_close_is_sent_after_everything_else() -> None:
    queue = new_queue()
    queue.begin_connection()
    fill(queue, 1, 1)
    queue.request_close()
    assert sent(queue) == ["1", "close"]
    assert sent(queue) == []


@given(
    st.lists(st.sampled_from(["append", "send", "cover", "finalize", "answer", "reconnect"]), max_size=60), st.data()
)
def test_in_any_sequence_of_events_every_frame_is_sent_and_in_order(steps: list[str], data: st.DataObject) -> None:
    queue = new_queue()
    queue.begin_connection()
    appended, finalizes = 0, 0
    base, sent_now = 0, 0  # in frames: the start of the current connection, and how many it has sent
    received: list[int] = []
    covered_frames = 0
    for step in [*steps, "reconnect", "send"]:
        if step == "append":
            appended += 1
            fill(queue, appended, appended)
        elif step == "send":
            for each in sent(queue):
                if each != "finalize":
                    received.append(int(each))
                    sent_now += 1
        elif step == "cover" and sent_now:
            covered = data.draw(st.integers(0, sent_now))
            queue.mark_covered(covered * 20)
            covered_frames = max(covered_frames, base + covered)
        elif step == "finalize":
            finalizes += 1
            queue.finalize(f"f{finalizes}")
        elif step == "answer" and finalizes:
            queue.mark_answered(f"f{finalizes}")
        elif step == "reconnect":
            queue.end_connection()
            queue.begin_connection()
            base, sent_now = covered_frames, 0
    assert set(received) == set(range(1, appended + 1))
    # Each frame follows the one before it, or goes back to audio that is not covered.
    assert all(later == earlier + 1 or later <= earlier for earlier, later in pairwise(received))
    assert received[-1:] in ([appended], []) or covered_frames == appended
