"""Changing the sample rate of 16-bit mono PCM, where soxr is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol


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
        # Not before it is needed: numpy takes its time to load, and a lot of memory.
        import numpy
        import soxr

        self.rate = wanted
        self._numpy = numpy
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
        samples = self._numpy.frombuffer(pcm, "<i2").astype("int16", copy=False)
        data: bytes = self._stream.resample_chunk(samples, last=last).astype("<i2", copy=False).tobytes()
        return data


def can_resample() -> bool:
    """Tell whether other rates can be had."""
    try:
        return find_spec("soxr") is not None
    except ValueError:  # it was taken out of those that can be imported
        return False


def resampler(rate: int, wanted: int) -> Resampler:
    """Give what brings ``rate`` to ``wanted``; where that cannot be had it leaves the rate, and says so in ``rate``.

    The first one that does takes a tenth of a second, so it belongs in a thread.
    """
    return _Unchanged(rate) if rate == wanted or not can_resample() else _Soxr(rate, wanted)
