"""The peaks of audio that is gone are remembered at a bounded cost."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.stt import loudness
from slng_sidecar.protocol.stt.loudness import PeakMemory, frame_size, peaks_of

FRAME = frame_size(32)  # 640 bytes at 16 kHz


def level(ms: int, peak: int) -> bytes:
    return array("h", [peak, -peak] * (ms * 8)).tobytes()


def test_a_frame_is_twenty_ms_of_whole_samples() -> None:
    assert [frame_size(rate) for rate in (16, 32, 44.1, 0.01)] == [320, 640, 882, 2]


def test_remembered_peaks_are_those_of_the_audio() -> None:
    pcm = level(100, 500) + level(60, 9000) + level(45, 0)
    memory = PeakMemory(FRAME)
    memory.remember(0, pcm)
    assert memory.peaks(0, len(pcm)) == peaks_of(pcm, FRAME) == [500] * 5 + [9000] * 3 + [0] * 3


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_peaks_do_not_depend_on_how_the_audio_is_split(sizes: list[int]) -> None:
    pcm = array("h", [(number * 37) % 20_000 for number in range(sum(sizes))]).tobytes()[: sum(sizes)]
    whole, pieces = PeakMemory(FRAME), PeakMemory(FRAME)
    whole.remember(0, pcm)
    at = 0
    for size in sizes:
        pieces.remember(at, pcm[at : at + size])
        at += size
    # A piece may begin at another one of the four samples of which one is measured.
    for one, other in zip(whole.peaks(0, at), pieces.peaks(0, at), strict=True):
        assert abs(one - other) <= 4 * 37 or max(one, other) > 19_000


def test_forgotten_peaks_are_gone_and_the_others_stay() -> None:
    memory = PeakMemory(FRAME)
    memory.remember(0, level(100, 500) + level(100, 9000))
    memory.forget(5 * FRAME)
    assert memory.peaks(0, 10 * FRAME) == [9000] * 5
    memory.forget(10 * FRAME)
    assert memory.peaks(0, 10 * FRAME) == []
    memory.remember(100 * FRAME, level(40, 700))
    assert memory.peaks(0, 200 * FRAME) == [700] * 2


def test_audio_that_was_released_in_between_counts_as_silence() -> None:
    memory = PeakMemory(FRAME)
    memory.remember(0, level(20, 500))
    memory.remember(3 * FRAME, level(20, 700))
    assert memory.peaks(0, 4 * FRAME) == [500, 0, 0, 700]


def test_a_long_session_makes_the_peaks_coarser_and_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loudness, "_MOST_PEAKS", 100)
    memory = PeakMemory(FRAME)
    for number in range(1000):
        memory.remember(number * FRAME, level(20, 9000 if number == 333 else 10))
    peaks = memory.peaks(0, 1000 * FRAME)
    assert len(memory._peaks) <= 100
    assert len(peaks) == 1000
    assert peaks[333] == 9000
    assert peaks.count(9000) <= 16
