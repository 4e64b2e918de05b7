"""Recognition by PocketSphinx, the fallback, and its alignment of words to their sound."""

from __future__ import annotations

import pytest
from slng_sidecar.engines import espeak, hibari, pocketsphinx
from slng_sidecar.engines.pcm import resample
from slng_sidecar.engines.workers import Workers
from support.engines import RATE, need_engine, segment, text_of
from support.sentences import drawn, words_of

SENTENCE = "please call me tomorrow morning"


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(pocketsphinx, espeak)


async def first_spoken(text: str, rate: int) -> bytes:
    """Synthesize a text in a new process, which makes the same audio each time.

    eSpeak NG adds random breath noise, so the same text sounds different each time in one process. The recognizer
    misrecognizes about one in thirty of them.
    """
    workers = Workers(1)
    try:
        pcm: bytes = await workers.call("espeak", "speak", text, "en", "neutral", rate)
        return pcm
    finally:
        await workers.close()


@pytest.mark.parametrize("rate", [16_000, 24_000])
async def test_the_fallback_voice_is_recognized_by_the_fallback_recognizer(rate: int) -> None:
    words = pocketsphinx.recognize(segment(await first_spoken(SENTENCE, rate), rate))
    assert text_of(words) == SENTENCE
    assert all(0 < (word.confidence or 0) <= 1 for word in words)


async def test_a_segment_has_the_same_words_whatever_was_decoded_before_it() -> None:
    one = segment(await first_spoken(SENTENCE, RATE))
    first = pocketsphinx.recognize(one)
    pocketsphinx.recognize(segment(await first_spoken("the weather is nice", RATE)))
    assert pocketsphinx.recognize(one) == first


@pytest.mark.parametrize("seed", range(8))
def test_known_words_are_found_in_their_sound(seed: int) -> None:
    need_engine(hibari)
    [line] = drawn(seed, 1)
    pcm = hibari.speak(line, "en", "neutral", RATE)
    alignment = pocketsphinx.align(pcm, line.split())
    assert alignment is not None
    times = [at for word in alignment.times for at in word]
    assert times == sorted(times)
    assert len(alignment.times) == len(line.split())
    assert 0 <= times[0] < times[-1] <= len(pcm) / 2 / RATE
    assert -3 < alignment.fit < 0


def test_other_words_fit_a_sound_worse_or_not_at_all() -> None:
    need_engine(hibari)
    pcm = hibari.speak("Please call the front desk.", "en", "neutral", RATE)
    right = pocketsphinx.align(pcm, ["please", "call", "the", "front", "desk"])
    wrong = pocketsphinx.align(pcm, ["seven", "yellow", "elephants", "were", "there"])
    assert right is not None
    assert wrong is None or wrong.fit < right.fit - 1


@pytest.mark.parametrize("word", ["Zbigniew", "3rd", "café", "don\u2019t", "U.S.", "x"])
def test_a_word_that_no_dictionary_has_can_be_aligned(word: str) -> None:
    need_engine(hibari)
    pcm = resample(hibari.speak(f"We saw {word} there.", "en", "neutral", 24_000), 24_000, RATE)
    alignment = pocketsphinx.align(pcm, ["We", "saw", word, "there."])
    assert alignment is None or len(alignment.times) == 4


def test_no_words_have_no_alignment() -> None:
    assert pocketsphinx.align(bytes(RATE), []) is None


def test_letters_are_what_the_sentences_are_compared_by() -> None:
    assert words_of("Don\u2019t, please: 3 U.S. rooms!") == ["don't", "please", "3", "u", "s", "rooms"]
