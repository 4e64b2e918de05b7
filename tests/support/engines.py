"""Speech engines in the tests: what a test needs installed, and how an engine understands a sound."""

from __future__ import annotations

import os

import pytest
from slng_sidecar.engines.interface import Engine, RecognizedWord, SpeechSegment

RATE = 16_000


def need_engine(*engines: Engine) -> None:
    """Skip a test if an engine is missing. CI must have those that pip installs."""
    for engine in engines:
        if not engine.installed():
            assert not os.environ.get("CI"), f"CI must have {engine.TITLE}"
            pytest.skip(f"{engine.TITLE} is not installed")


def segment(pcm: bytes, rate: int = RATE, start_ms: float = 0) -> SpeechSegment:
    return SpeechSegment(pcm, rate, start_ms)


def text_of(words: list[RecognizedWord]) -> str:
    return " ".join(word.text for word in words)
