"""Converts samples of any common kind to 16-bit little-endian mono, in pure Python."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slng_sidecar.audio.companding import expand

Kind = Literal["pcm", "float", "mulaw", "alaw"]

WIDTHS: dict[Kind, tuple[int, ...]] = {"pcm": (1, 2, 3, 4), "float": (4, 8), "mulaw": (1,), "alaw": (1,)}
"""The possible bytes of a sample of each kind. 8-bit PCM is unsigned, as in WAV."""

_SIGN = bytes(code ^ 0x80 for code in range(256))
_FULL = 0x7FFF


@dataclass(frozen=True, slots=True)
class SampleFormat:
    """How samples are stored. All are little-endian and interleaved.

    Attributes:
        width: bytes of one sample of one channel.
    """

    kind: Kind
    width: int
    channels: int

    @property
    def frame(self) -> int:
        """The bytes of one sample of every channel."""
        return self.width * self.channels

    @property
    def is_plain(self) -> bool:
        """Whether these are 16-bit mono samples already."""
        return (self.kind, self.width, self.channels) == ("pcm", 2, 1)


def converter(form: SampleFormat) -> Callable[[bytes], bytes]:
    """Return a function that converts whole frames to 16-bit mono: the upper 16 bits, with channels averaged."""
    if form.is_plain:
        return lambda data: data
    narrow = _narrow(form)
    if form.channels == 1:
        return narrow
    return lambda data: _mixed(narrow(data), form.channels)


def _narrow(form: SampleFormat) -> Callable[[bytes], bytes]:
    match form.kind, form.width:
        case "float", width:
            return lambda data: _rounded(array("f" if width == 4 else "d", data))
        case "pcm", 1:
            return _from_unsigned
        case "pcm", 2:
            return lambda data: data
        case "pcm", width:
            return lambda data: _upper_bytes(data, width)
        case kind, _:
            return lambda data: expand(data, kind)


def _from_unsigned(data: bytes) -> bytes:
    samples = bytearray(2 * len(data))
    samples[1::2] = data.translate(_SIGN)
    return bytes(samples)


def _upper_bytes(data: bytes, width: int) -> bytes:
    samples = bytearray(2 * (len(data) // width))
    samples[::2] = data[width - 2 :: width]
    samples[1::2] = data[width - 1 :: width]
    return bytes(samples)


def _rounded(values: array[float]) -> bytes:
    """Convert a number from -1 to 1 to 16 bits. Numbers beyond are clipped, and NaN is silence."""
    if sys.byteorder == "big":
        values.byteswap()
    return _bytes(array("h", [_sample(value) for value in values]))


def _sample(value: float) -> int:
    scaled = value * (_FULL + 1)
    if -_FULL - 1 <= scaled <= _FULL:
        return round(scaled)
    return _FULL if scaled > 0 else -_FULL - 1 if scaled < 0 else 0


def _mixed(data: bytes, channels: int) -> bytes:
    samples = array("h", data)
    if sys.byteorder == "big":
        samples.byteswap()
    if channels == 2:
        return _bytes(array("h", [left + right >> 1 for left, right in zip(samples[::2], samples[1::2], strict=True)]))
    parts = (samples[number::channels] for number in range(channels))
    return _bytes(array("h", [sum(together) // channels for together in zip(*parts, strict=True)]))


def _bytes(samples: array[int]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
