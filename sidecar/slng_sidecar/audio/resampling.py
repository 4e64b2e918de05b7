"""Changes the sample rate of 16-bit mono PCM, if soxr is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol


class Resampler(Protocol):
    """Converts PCM to another sample rate, with a small delay.

    Attributes:
        rate: of the output, in Hz.
    """

    rate: int

    def feed(self, pcm: bytes) -> bytes:
        """Resample more input, and return the output that it completes."""

    def end(self) -> bytes:
        """Return the output that is left after the last input."""


class _Unchanged:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    def feed(self, pcm: bytes) -> bytes:
        return pcm

    def end(self) -> bytes:
        return b""


class _Soxr:
    def __init__(self, rate: int, wanted: int) -> None:
        # Imported only when needed, because numpy is slow to load and takes much memory.
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
    """Return whether resampling is supported."""
    try:
        return find_spec("soxr") is not None
    except ValueError:  # a test has blocked the import
        return False


def resampler(rate: int, wanted: int) -> Resampler:
    """Return a resampler from ``rate`` to ``wanted``. Without soxr it changes nothing, as its ``rate`` says.

    The first call takes a tenth of a second, so it belongs in a thread.
    """
    return _Unchanged(rate) if rate == wanted or not can_resample() else _Soxr(rate, wanted)
