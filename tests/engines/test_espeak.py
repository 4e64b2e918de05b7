"""The voices of eSpeak NG, in many languages."""

from __future__ import annotations

import pytest
from slng_sidecar.engines import espeak
from slng_sidecar.engines.interface import Timbre
from slng_sidecar.engines.pcm import samples_of
from support.engines import need_engine

TIMBRES: tuple[Timbre, ...] = ("neutral", "deep", "bright")


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(espeak)


def test_every_language_of_the_package_can_be_spoken() -> None:
    languages = espeak.languages()
    assert {"en", "es", "de", "fr", "hi", "zh", "no"} <= languages
    for language in languages:
        assert espeak.speak("1", language, "neutral", 22_050), language


def test_each_language_has_three_voices_that_differ() -> None:
    for language in ("en", "es", "de"):
        assert len({espeak.speak("hotel", language, timbre, 16_000) for timbre in TIMBRES}) == 3


def test_a_word_takes_about_as_long_as_a_person_takes() -> None:
    pcm = espeak.speak("hello", "en", "neutral", 24_000)
    assert 0.2 < len(pcm) / 2 / 24_000 < 2
    assert max(samples_of(pcm)) > 1000


def test_a_language_without_a_voice_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no voice tlh"):
        espeak.speak("hello", "tlh", "neutral", 16_000)
