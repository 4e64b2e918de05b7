"""Recognition by Moonshine: words, times, and a confidence that is high for clear speech only."""

from __future__ import annotations

import numpy as np
import pytest
from slng_sidecar.engines import espeak, flite, hibari, moonshine
from slng_sidecar.engines.interface import SynthesizerEngine, Timbre
from support.engines import RATE, need_engine, segment, text_of
from support.processes import need
from support.sentences import drawn, share_right, words_of
from support.sounds import chords, crowd, melody, pcm_of, white_noise

SENTENCE = "Please call the front desk and ask for a quiet room."
CONFIDENT = 0.5  # the sidecar's default for SIDECAR_CONFIDENCE_THRESHOLD


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(moonshine, hibari)


def said(text: str, timbre: Timbre = "neutral", engine: SynthesizerEngine = hibari) -> bytes:
    return engine.speak(text, "en", timbre, RATE)


@pytest.mark.parametrize("timbre", ["neutral", "deep", "bright"])
def test_a_sentence_is_recognized_word_for_word_with_punctuation(timbre: Timbre) -> None:
    words = moonshine.recognize(segment(said(SENTENCE, timbre)))
    assert text_of(words) == SENTENCE
    assert all(word.confidence == words[0].confidence for word in words)
    assert (words[0].confidence or 0) > 0.8


@pytest.mark.parametrize("rate", [8000, 24_000, 48_000])
def test_speech_at_another_sample_rate_is_recognized(rate: int) -> None:
    words = moonshine.recognize(segment(hibari.speak(SENTENCE, "en", "neutral", rate), rate))
    assert words_of(text_of(words)) == words_of(SENTENCE)


def test_word_times_are_where_the_words_are() -> None:
    # A second of silence in the middle moves the words after it, and no others.
    first, second = said("Please call the front desk."), said("Ask for a quiet room.")
    words = moonshine.recognize(segment(first + bytes(2 * RATE) + second, start_ms=5000))
    assert words_of(text_of(words)) == words_of(SENTENCE.replace("and ", ""))
    middle = 5 + len(first) / 2 / RATE
    assert all(5 <= word.start < word.end <= middle for word in words[:5])
    assert all(middle + 1 <= word.start < word.end for word in words[5:])
    starts = [word.start for word in words]
    assert starts == sorted(starts)


def test_silence_around_speech_is_in_no_word() -> None:
    words = moonshine.recognize(segment(bytes(2 * RATE) + said("Hello, how are you?") + bytes(2 * RATE)))
    assert words[0].start > 0.9
    assert words[-1].end < 1.2 + len(said("Hello, how are you?")) / 2 / RATE


def test_names_and_numbers_that_no_dictionary_has_get_times() -> None:
    words = moonshine.recognize(segment(said("Call Zbigniew in room 1989, please.")))
    assert len(words) >= 5
    assert words[-1].text.startswith("please")
    assert all(word.start < word.end for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


@pytest.mark.parametrize(
    "samples",
    [
        *(pytest.param(white_noise(seed, 3, 10.0 ** -(1 + seed / 2)), id=f"noise {seed}") for seed in range(3)),
        *(pytest.param(melody(seed, 3), id=f"melody {seed}") for seed in range(2)),
        *(pytest.param(chords(seed, 3), id=f"chords {seed}") for seed in range(2)),
        pytest.param(0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE), id="tone"),
        pytest.param(np.zeros(3 * RATE), id="silence"),
    ],
)
def test_what_is_no_speech_gives_no_confident_words(samples: object) -> None:
    words = moonshine.recognize(segment(pcm_of(samples)))
    assert all(word.confidence is not None and word.confidence < CONFIDENT for word in words), text_of(words)


@pytest.mark.parametrize("seed", range(4))
def test_two_voices_at_once_give_no_confident_words(seed: int) -> None:
    lines = drawn(seed, 8)
    one = said(" ".join(lines[:4]))
    other = said(" ".join(lines[4:]), ("deep", "bright")[seed % 2])
    words = moonshine.recognize(segment(pcm_of(crowd(one, other))))
    assert all(word.confidence is not None and word.confidence < CONFIDENT for word in words), text_of(words)


@pytest.mark.parametrize("engine", [espeak, flite], ids=["espeak", "flite"])
def test_the_speech_of_other_voices_is_understood(engine: SynthesizerEngine) -> None:
    if engine is flite:
        need("flite")
    need_engine(espeak)
    lines = drawn(1, 20)
    heard = [(line, text_of(moonshine.recognize(segment(said(line, engine=engine))))) for line in lines]
    assert share_right(heard) >= 0.7, heard


def test_audio_that_is_shorter_than_the_model_accepts_is_no_failure() -> None:
    assert all((word.confidence or 0) < CONFIDENT for word in moonshine.recognize(segment(bytes(200))))


def test_text_without_a_letter_belongs_to_the_word_before_it() -> None:
    assert moonshine._words("- Well - yes , indeed !") == ["Well-", "yes,", "indeed!"]
    assert moonshine._words(" ... ") == []


def test_words_that_cannot_be_aligned_are_spread_over_the_audio() -> None:
    assert moonshine._spread(["ab", "cdef"], 3) == [(0, 1), (1, 3)]
