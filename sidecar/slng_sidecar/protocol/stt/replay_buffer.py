"""The audio ledger: a session's audio from the oldest that may be needed again to the newest that came.

Offsets count the bytes of the session's audio from 0; ``ms`` and ``offset_at`` tell which millisecond that is. Where
the audio is compressed its size says nothing of its duration, so the clock at its arrival stands for it, and it is only
ever parted between messages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from sys import byteorder

FRAME_MS = 20
_SAMPLE = 2
# Below this peak a frame is silence whatever came before; above, it is when it is that much softer than the loudest.
_SILENCE = 300
_SOFT = 0.08
# Where speech is looked for that was not transcribed yet, noise must not be taken for it: it has to be that loud.
_CLEAR = 0.3
# Every so many samples are enough to see how loud a frame is.
_EVERY = 4


class ReplayBuffer:
    """A ring of audio, bounded in duration.

    Mutable: ``floor``, the oldest byte that is still there; ``end``, one past the newest; the chunks between them; for
    compressed audio ``_times``, the milliseconds at which chunks ended; how loud it was in ``_halves`` of seconds, up
    to ``_measured``.
    """

    def __init__(self, bytes_per_second: int, keep_seconds: float, *, compressed: bool = False) -> None:
        self.compressed = compressed
        self.floor = 0
        self.end = 0
        self._per_ms = bytes_per_second / 1000
        self._keep = int(keep_seconds * bytes_per_second)
        self._keep_ms = keep_seconds * 1000
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._times: deque[tuple[int, float]] = deque()
        self._began: float | None = None
        self._measured = 0
        self._halves: deque[int] = deque(maxlen=6)

    def __repr__(self) -> str:
        return f"ReplayBuffer({self.ms(self.floor):.0f}-{self.ms(self.end):.0f} ms, {len(self._chunks)} chunks)"

    def append(self, data: bytes, now: float) -> None:
        """Add audio."""
        self._chunks.append((self.end, data))
        self.end += len(data)
        if self.compressed:
            if self._began is None:
                self._began = now
            self._times.append((self.end, (now - self._began) * 1000))

    def trim(self) -> None:
        """Let go of the oldest audio beyond the bound."""
        while self._chunks and self._too_long():
            start, data = self._chunks.popleft()
            self.floor = start + len(data)

    def release(self, offset: int) -> None:
        """Let go of what lies wholly before ``offset``."""
        chunks = self._chunks
        while chunks and chunks[0][0] + len(chunks[0][1]) <= offset:
            start, data = chunks.popleft()
            self.floor = start + len(data)
        while len(self._times) > 1 and self._times[1][0] <= self.floor:
            self._times.popleft()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Give the audio between two offsets, as it came but cut at both."""
        if start >= end:
            return
        # What is read is nearly always the newest, so it is looked for from that end.
        found: list[bytes] = []
        for first, data in reversed(self._chunks):
            last = first + len(data)
            if last <= start:
                break
            if first < end:
                found.append(data if first >= start and last <= end else data[max(0, start - first) : end - first])
        yield from reversed(found)

    def ms(self, offset: int) -> float:
        """Give the millisecond at which an offset lies."""
        if not self.compressed:
            return offset / self._per_ms
        index = bisect_left(self._times, offset, key=lambda time: time[0])
        if index < len(self._times):
            return self._times[index][1]
        return self._times[-1][1] if self._times else 0.0

    def duration(self, size: int) -> float:
        """Give about how many milliseconds so many bytes last."""
        return size / self._per_ms

    def offset_at(self, ms: float) -> int:
        """Give the offset of a millisecond: a whole sample, or the last end of a message that is not after it."""
        if not self.compressed:
            return min(self.end, round(ms * self._per_ms) // _SAMPLE * _SAMPLE)
        index = bisect_right(self._times, ms, key=lambda time: time[1])
        return self._times[index - 1][0] if index else self.floor

    def aligned(self, offset: int) -> int:
        """Give the beginning of the sample in which an offset lies, or of the first one that is still whole.

        Messages may end within a sample; what goes to another connection must not begin there.
        """
        if self.compressed:
            return offset
        start = offset - offset % _SAMPLE
        return start if start >= self.floor else start + _SAMPLE

    def back(self, offset: int, ms: float) -> int:
        """Give the offset that lies ``ms`` before another one, at the earliest the floor's."""
        return max(self.aligned(self.floor), self.offset_at(self.ms(offset) - ms))

    # What can be heard in it, where it is PCM

    def is_silent(self, start: int, end: int) -> bool:
        """Tell whether no frame between two offsets is speech; of compressed audio that is not known: False."""
        return not self.compressed and not any(self._loud(start, end))

    def speech_ms(self, start: int, end: int) -> float:
        """Give how much between two offsets is nearly as loud as speech was; 0 for compressed audio."""
        return 0.0 if self.compressed else FRAME_MS * sum(self._loud(start, end, _CLEAR))

    def has_pause(self, start: int, end: int, ms: float) -> bool:
        """Tell whether speech between two offsets stops for at least ``ms`` and goes on; False for compressed audio."""
        if self.compressed:
            return False
        quiet, spoken = 0, False
        for loud in self._loud(start, end):
            if loud:
                if spoken and quiet * FRAME_MS >= ms:
                    return True
                quiet, spoken = 0, True
            else:
                quiet += 1
        return False

    def quietest(self, start: int, end: int) -> int:
        """Give the offset of the softest frame's middle between two offsets, the latest among equals."""
        start = self.aligned(start)
        peaks = [] if self.compressed else self._peaks(start, end)[: (end - start) // self._frame]
        if not peaks:
            return self.aligned(end)
        softest = min(range(len(peaks)), key=lambda index: (peaks[index], -index))
        return start + (softest * self._frame + self._frame // 2) // _SAMPLE * _SAMPLE

    def silence_before(self, offset: int, ms: float) -> int | None:
        """Give the latest silent moment within ``ms`` before an offset; None where there is none.

        Of compressed audio that is not known: the offset itself.
        """
        if self.compressed:
            return offset
        start = self.back(offset, ms)
        loud = self._loud(start, offset)[: max(0, offset - start) // self._frame]
        for index in range(len(loud) - 1, -1, -1):
            if not loud[index]:
                return start + (index * self._frame + self._frame // 2) // _SAMPLE * _SAMPLE
        return None

    @property
    def _frame(self) -> int:
        return max(_SAMPLE, int(FRAME_MS * self._per_ms) // _SAMPLE * _SAMPLE)

    def _loud(self, start: int, end: int, share: float = _SOFT) -> list[bool]:
        peaks = self._peaks(start, end)
        limit = max(_SILENCE, share * max(self._loudest(), max(peaks, default=0)))
        return [peak > limit for peak in peaks]

    def _loudest(self) -> int:
        """Give the highest amplitude of about the last 3 s; kept by the half second, as it is asked for often."""
        half = self._frame * 25
        while self._measured + half <= self.end:
            self._halves.append(max(self._peaks(self._measured, self._measured + half), default=0))
            self._measured += half
        return max(self._halves, default=max(self._peaks(self._measured, self.end), default=0))

    def _peaks(self, start: int, end: int) -> list[int]:
        """Give the highest amplitude of each frame; the last one may be a part of one."""
        start = self.aligned(max(start, self.floor))
        pcm = b"".join(self.read(start, end))
        samples = array("h", pcm[: len(pcm) // _SAMPLE * _SAMPLE])
        if byteorder == "big":
            samples.byteswap()
        step = self._frame // _SAMPLE
        frames = (samples[index : index + step : _EVERY] for index in range(0, len(samples), step))
        return [max(max(frame), -min(frame)) for frame in frames]

    def _too_long(self) -> bool:
        start, data = self._chunks[0]
        if self.end - start > self._keep:
            return True
        return self.compressed and self.ms(self.end) - self.ms(start + len(data)) > self._keep_ms
