"""A stream of audio is cut into segments of speech."""

from __future__ import annotations

from itertools import pairwise

import pytest
from slng_sidecar.engines import espeak, pocketsphinx
from slng_sidecar.engines.segmenter import SpeechSegmenter
from support.engines import RATE, need_engine

SILENCE = bytes(2 * RATE)


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(pocketsphinx, espeak)


def spoken(text: str) -> bytes:
    return espeak.speak(text, "en", "neutral", RATE)


def test_segments_do_not_depend_on_how_the_audio_is_split() -> None:
    pcm = spoken("please call me tomorrow morning") + SILENCE + spoken("the weather is very nice today") + SILENCE
    whole = SpeechSegmenter(RATE, 300).feed(pcm)
    cuts = [*range(0, len(pcm), 997), len(pcm)]
    segmenter = SpeechSegmenter(RATE, 300)
    assert [segment for a, b in pairwise(cuts) for segment in segmenter.feed(pcm[a:b])] == whole
    assert len(whole) == 2


def test_a_segment_is_the_same_whether_a_silence_or_a_finalize_ended_it() -> None:
    pcm = spoken("please call me tomorrow morning") + SILENCE
    (by_silence,) = SpeechSegmenter(RATE, 300).feed(pcm)
    segmenter = SpeechSegmenter(RATE, 0)
    assert segmenter.feed(pcm) == []
    assert segmenter.finish() == by_silence
    assert segmenter.finish() is None


def test_silence_has_no_segments() -> None:
    segmenter = SpeechSegmenter(RATE, 300)
    assert segmenter.feed(SILENCE * 5) == []
    assert segmenter.finish() is None
    assert segmenter.position_ms == 5000


def test_endless_speech_is_cut_so_that_memory_stays_bounded() -> None:
    segments = SpeechSegmenter(RATE, 300).feed(spoken("and so on, and so on") * 25)
    assert segments
    assert all(len(segment.pcm) / 2 / RATE <= 30.5 for segment in segments)
