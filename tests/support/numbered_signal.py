"""Numbered words in the tests' audio: their texts, their speech, and the numbers that audio holds."""

from __future__ import annotations

from slng_sidecar.engines import signal


def words(first: int, last: int) -> list[str]:
    """Return the texts of the words from ``first`` to ``last``, such as ``n1``."""
    return [f"n{number}" for number in range(first, last + 1)]


def speech(numbers: range, rate: int = 16_000, *, pause_every: int = 4) -> bytes:
    """Return audio of numbered words, with 400 ms of silence after each one whose number ``pause_every`` divides."""
    spoken = [signal.SignalWord(number, gap=20 if number % pause_every == 0 else 0) for number in numbers]
    return signal.encode(spoken, rate)


def whole_words(audio: bytes | bytearray, rate: int = 16_000) -> list[int]:
    """Return the numbers of the words in audio. Fail if one of the words is broken."""
    found = signal.decode(bytes(audio), rate)
    assert all(word.whole for word in found), found
    return [word.number for word in found]
