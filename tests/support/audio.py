"""Audio in the tests: files in many formats, and the level of a speaker near the microphone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile


def audio_file(samples: Any, rate: int, form: str, subtype: str | None = None) -> bytes:
    """Return samples as a file of libsndfile's format ``form``."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def at_speaking_level(pcm: bytes) -> bytes:
    """Return speech at the level of a speaker near the microphone. A VAD does not react to quiet speech."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float64)
    return bytes((samples * (25_000 / max(1.0, np.abs(samples).max()))).astype(np.int16).tobytes())
