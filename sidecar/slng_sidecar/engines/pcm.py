"""16-bit mono PCM in pure Python: resampling, mu-law and A-law, WAV headers, a tone."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Callable
from functools import lru_cache
from operator import mul

# The sizes in the header of a WAV that Deepgram's Aura streams (recorded over HTTP in September 2026).
STREAMED_RIFF_SIZE = 2_147_418_148
STREAMED_DATA_SIZE = 2_147_418_112

_TAPS = 16
_FULL = 0x7FFF


def wav_head(rate: int, data_size: int | None) -> bytes:
    """Return the 44 bytes before the samples. If ``data_size`` is None, the sizes are those of SLNG's streams."""
    riff, data = (STREAMED_RIFF_SIZE, STREAMED_DATA_SIZE) if data_size is None else (data_size + 36, data_size)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def samples_of(pcm: bytes) -> array[int]:
    """Return the samples of little-endian 16-bit PCM. An odd last byte is ignored."""
    samples = array("h", pcm[: len(pcm) & ~1])
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def bytes_of(samples: array[int]) -> bytes:
    """Return samples as little-endian 16-bit PCM."""
    if sys.byteorder == "big":
        samples = array("h", samples)
        samples.byteswap()
    return samples.tobytes()


def tone(ms: float, rate: int) -> bytes:
    """Return a 440 Hz tone at a third of full level, with faded ends."""
    count = int(rate * ms / 1000)
    second = _second_of_tone(rate)
    samples = (second * (count // rate + 1))[:count]
    fade = max(1, min(count // 2, rate // 100))
    for i in range(min(fade, count)):
        samples[i] = samples[i] * i // fade
        samples[-1 - i] = samples[-1 - i] * (i + 1) // fade
    return bytes_of(samples)


def resample(pcm: bytes, rate: int, wanted: int) -> bytes:
    """Change the sample rate with a windowed sinc, 16 samples wide, which also filters what the lower rate cannot hold.

    A second of audio takes about 20 ms of CPU time, so this belongs in a worker and not on the event loop.
    """
    if rate == wanted or not pcm:
        return pcm
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    filters = _filters(up, down)
    half = len(filters[0]) // 2
    samples = samples_of(pcm)
    padded = array("d", bytes(8 * half)) + array("d", samples) + array("d", bytes(8 * half))
    out = array("h")
    for i in range(len(samples) * up // down):
        at, phase = divmod(i * down, up)
        taps = filters[phase]
        value = sum(map(mul, taps, padded[at + 1 : at + 1 + len(taps)]))
        out.append(max(-_FULL - 1, min(_FULL, round(value))))
    return bytes_of(out)


def to_mulaw(pcm: bytes) -> bytes:
    """Encode as G.711 mu-law."""
    return bytes(map(_table(_mulaw).__getitem__, samples_of(pcm)))


def to_alaw(pcm: bytes) -> bytes:
    """Encode as G.711 A-law."""
    return bytes(map(_table(_alaw).__getitem__, samples_of(pcm)))


def encode(pcm: bytes, encoding: str) -> bytes:
    """Encode samples as ``linear16``, ``mulaw`` or ``alaw``.

    Raises:
        ValueError: any other encoding.
    """
    match encoding:
        case "linear16":
            return pcm
        case "mulaw":
            return to_mulaw(pcm)
        case "alaw":
            return to_alaw(pcm)
    raise ValueError(f"cannot encode {encoding}")


ENCODINGS = {"linear16": 2, "mulaw": 1, "alaw": 1}
"""The encodings that ``encode`` supports, with the bytes of a sample."""


@lru_cache(maxsize=8)
def _second_of_tone(rate: int) -> array[int]:
    step = 2 * math.pi * 440 / rate
    return array("h", (int(_FULL / 3 * math.sin(step * i)) for i in range(rate)))


@lru_cache(maxsize=16)
def _filters(up: int, down: int) -> list[list[float]]:
    """Return the filter taps for each position of an output sample between two input samples."""
    cut = min(1.0, up / down)
    half = math.ceil(_TAPS / 2 / cut)
    filters = []
    for phase in range(up):
        taps = []
        for k in range(-half + 1, half + 1):
            x = k - phase / up
            window = 0.5 + 0.5 * math.cos(math.pi * x / half) if abs(x) < half else 0.0
            taps.append(cut * _sinc(cut * x) * window)
        total = sum(taps)
        filters.append([tap / total for tap in taps])
    return filters


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


@lru_cache(maxsize=2)
def _table(code: Callable[[int], int]) -> bytes:
    """Return the code of each sample. Negative samples count from the end."""
    return bytes(code(sample) for sample in (*range(1 << 15), *range(-(1 << 15), 0)))


def _mulaw(sample: int) -> int:
    sign = 0x80 if sample < 0 else 0
    level = min(abs(sample), 32_635) + 132
    exponent = level.bit_length() - 8
    return ~(sign | exponent << 4 | level >> exponent + 3 & 0x0F) & 0xFF


def _alaw(sample: int) -> int:
    sign = 0x80 if sample >= 0 else 0
    level = min(sample if sample >= 0 else -sample - 1, _FULL)
    exponent = max(0, level.bit_length() - 8)
    mantissa = level >> (exponent + 3 if exponent else 4) & 0x0F
    return (sign | exponent << 4 | mantissa) ^ 0x55
