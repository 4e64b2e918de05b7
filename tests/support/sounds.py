"""Sounds that are no clear speech: noise, music and voices that overlap. All are samples from -1 to 1 at 16 kHz."""

from __future__ import annotations

from typing import Any

import numpy as np

RATE = 16_000
_NOTES = (220, 247, 262, 294, 330, 349, 392, 440, 523, 587, 659)


def pcm_of(samples: Any) -> bytes:
    return bytes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


def samples_of(pcm: bytes) -> Any:
    return np.frombuffer(pcm, np.int16) / 32_768


def white_noise(seed: int, seconds: float, level: float) -> Any:
    return np.random.default_rng(seed).normal(0, level, int(RATE * seconds))


def melody(seed: int, seconds: float) -> Any:
    """Return plucked notes with three harmonics, four a second."""
    at = np.arange(int(RATE * seconds)) / RATE
    tones = np.random.default_rng(seed).choice(_NOTES, int(4 * seconds) + 1)
    frequency = tones[(4 * at).astype(int)]
    wave = sum(np.sin(2 * np.pi * number * frequency * at) / number for number in (1, 2, 3))
    return 0.3 * wave * np.exp(-4 * (at % 0.25))


def chords(seed: int, seconds: float) -> Any:
    """Return chords of four notes, two a second."""
    at = np.arange(int(RATE * seconds)) / RATE
    tones = np.random.default_rng(seed).choice(_NOTES, (4, int(2 * seconds) + 1))
    return 0.1 * sum(np.sin(2 * np.pi * voice[(2 * at).astype(int)] * at) for voice in tones) * np.exp(-2 * (at % 0.5))


def crowd(one: bytes, other: bytes) -> Any:
    """Return two voices that speak at once without a pause, equally loud, for as long as the shorter of them."""
    first, second = _without_pauses(samples_of(one)), _without_pauses(samples_of(other))
    length = min(len(first), len(second))
    first, second = first[:length], second[:length]
    return first + second * np.sqrt((first**2).mean() / (second**2).mean())


def _without_pauses(samples: Any) -> Any:
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    peaks = np.abs(frames).max(axis=1)
    return frames[peaks > 0.1 * peaks.max()].reshape(-1)
