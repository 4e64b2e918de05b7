"""English speech in the voice ``heart`` of Hibari, a small neural synthesizer.

The voice is in the package ``hibari-tts``. Its other voices are downloaded, so the other timbres are made of this one.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

from slng_sidecar.engines.interface import Timbre

NAME = "hibari"
TITLE = "Hibari"

_RATE = 24_000
# The pitch and the formants of each timbre, relative to the voice. 0.82 is about the difference between the vocal
# tracts of a woman and a man.
_SHIFTS: dict[Timbre, float] = {"neutral": 1.0, "deep": 0.82, "bright": 1.1}
_SEED = 0


@cache
def installed() -> bool:
    """Return whether the voice and what runs it are installed."""
    return all(find_spec(name) for name in ("hibari", "numpy", "onnxruntime", "soxr"))


def languages() -> frozenset[str]:
    """Return English."""
    return frozenset({"en"})


def load() -> None:
    """Load the voice, which takes about half a second."""
    speak("Ready.", "en", "neutral", _RATE)


def speak(text: str, language: str, timbre: Timbre, rate: int) -> bytes:
    """Return a text as 16-bit mono PCM at ``rate`` Hz. The same text always sounds the same."""
    import numpy as np
    import soxr

    shift = _SHIFTS[timbre]
    # Played faster, a voice is higher, as from a shorter vocal tract. So it is synthesized more slowly.
    samples = _voice()(text, speed=1 / shift, seed=_SEED)
    if not len(samples):
        return b""
    if (made_for := round(_RATE * shift)) != rate:
        samples = soxr.resample(samples, made_for, rate)
    return bytes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())


@cache
def _voice() -> Any:
    from hibari import Hibari

    return Hibari()
