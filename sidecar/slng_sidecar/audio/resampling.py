"""Changing the sample rate of 16-bit mono PCM, where soxr is installed."""

from __future__ import annotations

from typing import Any, Protocol

try:
    import numpy
    import soxr
except ImportError:  # without the codecs extra
    soxr = None


class Resampler(Protocol):
    """Takes PCM and gives PCM of another rate, a little behind.

    Attributes:
        rate: of what comes out, in Hz.
    """

    rate: int

    def feed(self, pcm: bytes) -> bytes: ...

    def end(self) -> bytes:
        """Give what is left once all was fed."""


class _Unchanged:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    def feed(self, pcm: bytes) -> bytes:
        return pcm

    def end(self) -> bytes:
        return b""


class _Soxr:
    def __init__(self, rate: int, wanted: int) -> None:
        self.rate = wanted
        self._stream: Any = soxr.ResampleStream(rate, wanted, 1, dtype="int16")
        self._odd = b""

    def feed(self, pcm: bytes) -> bytes:
        pcm = self._odd + pcm
        whole = len(pcm) & ~1
        self._odd = pcm[whole:]
        return self._resampled(pcm[:whole])

    def end(self) -> bytes:
        return self._resampled(b"", last=True)

    def _resampled(self, pcm: bytes, *, last: bool = False) -> bytes:
        data: bytes = self._stream.resample_chunk(numpy.frombuffer(pcm, "<i2"), last=last).astype("<i2").tobytes()
        return data


def can_resample() -> bool:
    """Tell whether other rates can be had."""
    return soxr is not None


def resampler(rate: int, wanted: int) -> Resampler:
    """Give what brings ``rate`` to ``wanted``; where that cannot be had it leaves the rate, and says so in ``rate``."""
    return _Unchanged(rate) if rate == wanted or soxr is None else _Soxr(rate, wanted)
