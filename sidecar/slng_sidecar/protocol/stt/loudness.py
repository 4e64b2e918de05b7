"""How loud a session's PCM is: of audio that is there, and of audio that had to be forgotten."""

from __future__ import annotations

from array import array
from sys import byteorder

FRAME_MS = 20
"""The duration of a frame, in milliseconds."""

SAMPLE = 2
"""The bytes of a sample."""

# One sample in four is enough to measure the peak of a frame.
_EVERY = 4
# Peaks are kept for as many frames as an hour has. After that two of them share a place, and so on.
_MOST_PEAKS = 180_000


def frame_size(bytes_per_ms: float) -> int:
    """Return the bytes of a frame: whole samples, and at least one."""
    return max(SAMPLE, int(FRAME_MS * bytes_per_ms) // SAMPLE * SAMPLE)


def peaks_of(pcm: bytes, frame: int) -> list[int]:
    """Return the highest amplitude of each frame of whole samples. The last frame may be shorter."""
    samples = array("h", pcm[: len(pcm) // SAMPLE * SAMPLE])
    if byteorder == "big":
        samples.byteswap()
    step = frame // SAMPLE
    frames = (samples[index : index + step : _EVERY] for index in range(0, len(samples), step))
    return [max(max(frame), -min(frame)) for frame in frames]


class PeakMemory:
    """Remembers the peaks of audio that is gone, so that forgotten speech is not taken for silence.

    Its size is bounded, however long a session lasts: the longer the audio, the coarser the peaks.

    Mutable: ``start``, the first offset that it remembers; ``_peaks``, one for each ``_size`` bytes from there on;
    ``_end``, the offset up to which it remembers.
    """

    def __init__(self, frame: int) -> None:
        """Create an empty memory.

        Args:
            frame: the bytes of a frame.
        """
        self.start = 0
        self._end = 0
        self._frame = frame
        self._size = frame
        self._peaks = array("H")

    def remember(self, offset: int, pcm: bytes) -> None:
        """Remember audio that begins at ``offset``, at or after the end of what is remembered."""
        if not self._peaks:
            self.start = self._end = offset - offset % self._frame
            self._size = self._frame
        at = offset
        while at < offset + len(pcm):
            index = (at - self.start) // self._size
            border = self.start + (index + 1) * self._size
            # Samples are counted from the session's first byte, and audio may begin within one.
            first = at + at % SAMPLE
            peak = max(peaks_of(pcm[first - offset : border - offset], self._size), default=0)
            self._peaks.extend([0] * (index + 1 - len(self._peaks)))
            self._peaks[index] = max(self._peaks[index], peak)
            at = border
        self._end = offset + len(pcm)
        while len(self._peaks) > _MOST_PEAKS:
            pairs = zip(self._peaks[::2], [*self._peaks[1::2], 0], strict=False)
            self._peaks = array("H", map(max, pairs))
            self._size *= 2

    def forget(self, offset: int) -> None:
        """Forget what lies before ``offset``."""
        if offset >= self._end:
            self._peaks = array("H")
        elif (count := (offset - self.start) // self._size) > 0:
            del self._peaks[:count]
            self.start += count * self._size

    def peaks(self, start: int, end: int) -> list[int]:
        """Return the peak of each frame between two offsets, as far as it is remembered."""
        start, end = max(start, self.start), min(end, self._end)
        if not self._peaks or start >= end:
            return []
        frames = range(start, end, self._frame)
        return [self._peaks[(at - self.start) // self._size] for at in frames]
