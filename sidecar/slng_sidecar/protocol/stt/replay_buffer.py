"""A session's audio, from the oldest byte that a replay may need to the newest one.

Offsets count the bytes of the session's audio from 0. ``ms`` and ``offset_at`` convert between offsets and
milliseconds. The length of compressed audio cannot be derived from its size, so its milliseconds are the clock's at its
arrival, and it is only ever cut between messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator

from slng_sidecar.protocol.stt.loudness import FRAME_MS, SAMPLE, PeakMemory, frame_size, peaks_of

# A frame whose peak is below this is silence, and so is one below this share of the loudest frame.
_SILENCE = 300
_SOFT = 0.08
# Noise must not count as speech that is still to be transcribed, so such speech must reach this share of the loudest.
_CLEAR = 0.3


class ReplayBuffer:
    """A ring of audio, bounded in duration.

    Mutable: ``floor``, the oldest byte that is kept; ``end``, one past the newest; ``_chunks``, the audio between them;
    ``_times``, for compressed audio, the milliseconds at which chunks ended; ``_peaks_by_half``, the peak of each of
    the last half seconds, measured up to ``_measured``; ``_trimmed``, how loud the audio was that ``trim`` removed.
    """

    def __init__(self, bytes_per_second: int, keep_seconds: float, *, compressed: bool = False) -> None:
        """Create an empty buffer.

        Args:
            bytes_per_second: of the audio; an estimate if it is compressed.
            keep_seconds: how much audio ``trim`` keeps.
            compressed: whether the audio is something else than 16-bit mono PCM.
        """
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
        self._peaks_by_half: deque[int] = deque(maxlen=6)
        self._frame = frame_size(self._per_ms)
        self._trimmed = PeakMemory(self._frame)

    def __repr__(self) -> str:
        return f"ReplayBuffer({self.ms(self.floor):.0f}-{self.ms(self.end):.0f} ms, {len(self._chunks)} chunks)"

    @property
    def is_full(self) -> bool:
        """Whether ``trim`` would remove something."""
        return bool(self._chunks) and self._too_long()

    def append(self, data: bytes, now: float) -> None:
        """Add audio."""
        self._chunks.append((self.end, data))
        self.end += len(data)
        if self.compressed:
            if self._began is None:
                self._began = now
            self._times.append((self.end, (now - self._began) * 1000))

    def trim(self) -> None:
        """Remove the oldest audio beyond the bound. How loud it was is remembered until ``release``."""
        while self._chunks and self._too_long():
            start, data = self._chunks.popleft()
            self.floor = start + len(data)
            if not self.compressed:
                self._trimmed.remember(start, data)

    def release(self, offset: int) -> None:
        """Remove the chunks that end at or before ``offset``, and forget what was remembered before it."""
        chunks = self._chunks
        self._trimmed.forget(offset)
        while chunks and chunks[0][0] + len(chunks[0][1]) <= offset:
            start, data = chunks.popleft()
            self.floor = start + len(data)
        while len(self._times) > 1 and self._times[1][0] <= self.floor:
            self._times.popleft()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Return the audio between two offsets, in the chunks in which it came, cut at both ends."""
        if start >= end:
            return
        # Reads are nearly always of the newest audio, so the search starts there.
        found: list[bytes] = []
        for first, data in reversed(self._chunks):
            last = first + len(data)
            if last <= start:
                break
            if first < end:
                found.append(data if first >= start and last <= end else data[max(0, start - first) : end - first])
        yield from reversed(found)

    def ms(self, offset: int) -> float:
        """Return the millisecond at which an offset lies."""
        if not self.compressed:
            return offset / self._per_ms
        index = bisect_left(self._times, offset, key=lambda time: time[0])
        if index < len(self._times):
            return self._times[index][1]
        return self._times[-1][1] if self._times else 0.0

    def duration(self, size: int) -> float:
        """Return how many milliseconds ``size`` bytes last, an estimate for compressed audio."""
        return size / self._per_ms

    def offset_at(self, ms: float) -> int:
        """Return the offset at a millisecond: that of a whole sample, or of the last message that ends by then."""
        if not self.compressed:
            return min(self.end, round(ms * self._per_ms) // SAMPLE * SAMPLE)
        index = bisect_right(self._times, ms, key=lambda time: time[1])
        return self._times[index - 1][0] if index else self.floor

    def aligned(self, offset: int) -> int:
        """Return the start of the sample in which an offset lies, or of the first sample that is still whole.

        Messages may end within a sample, but the audio of another connection must not start there.
        """
        if self.compressed:
            return offset
        start = offset - offset % SAMPLE
        return start if start >= self.floor else start + SAMPLE

    def back(self, offset: int, ms: float) -> int:
        """Return the offset ``ms`` before another one, or the floor's if that is later."""
        return max(self.aligned(self.floor), self.offset_at(self.ms(offset) - ms))

    # How loud it is, if it is PCM

    def is_silent(self, start: int, end: int) -> bool:
        """Return whether no frame between two offsets is speech. Return False for compressed audio."""
        return not self.compressed and not any(self._loud(start, end))

    def speech_ms(self, start: int, end: int) -> float:
        """Return how many milliseconds between two offsets are as loud as speech. Return 0 for compressed audio."""
        return 0.0 if self.compressed else FRAME_MS * sum(self._loud(start, end, _CLEAR))

    def has_pause(self, start: int, end: int, ms: float) -> bool:
        """Return whether speech between two offsets pauses for ``ms`` or more. Return False for compressed audio."""
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
        """Return the offset of the middle of the softest frame between two offsets, the last one among equals."""
        start = self.aligned(start)
        peaks = [] if self.compressed else self._peaks(start, end)[: (end - start) // self._frame]
        if not peaks:
            return self.aligned(end)
        softest = min(range(len(peaks)), key=lambda index: (peaks[index], -index))
        return start + (softest * self._frame + self._frame // 2) // SAMPLE * SAMPLE

    def silence_before(self, offset: int, ms: float) -> int | None:
        """Return the last silent moment within ``ms`` before an offset; None if there is none.

        Return the offset itself for compressed audio, whose silence is unknown.
        """
        if self.compressed:
            return offset
        start = self.back(offset, ms)
        loud = self._loud(start, offset)[: max(0, offset - start) // self._frame]
        for index in range(len(loud) - 1, -1, -1):
            if not loud[index]:
                return start + (index * self._frame + self._frame // 2) // SAMPLE * SAMPLE
        return None

    def _loud(self, start: int, end: int, share: float = _SOFT) -> list[bool]:
        peaks = [*self._trimmed.peaks(start, min(end, self.floor)), *self._peaks(start, end)]
        limit = max(_SILENCE, share * max(self._loudest(), max(peaks, default=0)))
        return [peak > limit for peak in peaks]

    def _loudest(self) -> int:
        """Return the highest amplitude of about the last 3 s. It is needed often, so it is kept by the half second."""
        half = self._frame * 25
        while self._measured + half <= self.end:
            self._peaks_by_half.append(max(self._peaks(self._measured, self._measured + half), default=0))
            self._measured += half
        return max(self._peaks_by_half, default=max(self._peaks(self._measured, self.end), default=0))

    def _peaks(self, start: int, end: int) -> list[int]:
        """Return the highest amplitude of each frame of the audio that is there. The last frame may be shorter."""
        start = self.aligned(max(start, self.floor))
        return peaks_of(b"".join(self.read(start, end)), self._frame)

    def _too_long(self) -> bool:
        start, data = self._chunks[0]
        if self.end - start > self._keep:
            return True
        return self.compressed and self.ms(self.end) - self.ms(start + len(data)) > self._keep_ms
