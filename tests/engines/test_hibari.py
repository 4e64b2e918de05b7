"""The voice of Hibari, and the timbres that are made of it."""

from __future__ import annotations

import numpy as np
import pytest
from slng_sidecar.engines import hibari
from slng_sidecar.engines.interface import Timbre
from support.engines import need_engine
from support.sounds import samples_of

TEXT = "How many rooms are there on the second floor?"


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(hibari)


def pitch(pcm: bytes, rate: int) -> float:
    """Return the median pitch of a voice in Hz, by autocorrelation of its voiced frames."""
    samples, width = samples_of(pcm), rate // 20
    found = []
    for at in range(0, len(samples) - width, width):
        frame = samples[at : at + width] - samples[at : at + width].mean()
        similar = np.correlate(frame, frame, "full")[width - 1 :]
        low, high = rate // 400, rate // 70
        lag = low + int(similar[low:high].argmax())
        if similar[0] > 0.1 and similar[lag] > 0.5 * similar[0]:
            found.append(rate / lag)
    return float(np.median(found))


def spoken(timbre: Timbre, rate: int = 24_000) -> bytes:
    return hibari.speak(TEXT, "en", timbre, rate)


def test_the_timbres_have_the_same_pace_and_different_pitches() -> None:
    deep, neutral, bright = (spoken(timbre) for timbre in ("deep", "neutral", "bright"))
    assert pitch(deep, 24_000) * 1.1 < pitch(neutral, 24_000) < pitch(bright, 24_000) / 1.05
    assert max(map(len, (deep, neutral, bright))) < 1.3 * min(map(len, (deep, neutral, bright)))


@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_a_text_lasts_equally_long_at_every_sample_rate(rate: int) -> None:
    assert len(spoken("neutral", rate)) / rate == pytest.approx(len(spoken("neutral")) / 24_000, rel=0.001)


def test_the_same_text_always_sounds_the_same() -> None:
    first = spoken("neutral")
    hibari.speak("Something else.", "en", "neutral", 24_000)
    assert spoken("neutral") == first


@pytest.mark.parametrize("text", ["...", "你好", ""])
def test_a_text_with_nothing_to_pronounce_is_no_failure(text: str) -> None:
    assert len(hibari.speak(text, "en", "neutral", 24_000)) < 2 * 24_000
