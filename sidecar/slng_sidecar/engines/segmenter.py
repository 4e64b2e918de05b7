"""Finds speech in a stream of audio, with the voice activity detector that comes with PocketSphinx."""

from __future__ import annotations

from typing import Any

from slng_sidecar.engines.interface import SpeechSegment

_FRAME_S = 0.02
# Speech starts once this much of the last 100 ms is speech, so that a click is none.
_ONSET_FRAMES, _ONSET_WINDOW = 3, 5
_MARGIN_MS = 200
# A segment is ended here at the latest, so that memory and decoding time stay bounded.
_MAX_SEGMENT_MS = 30_000


class SpeechSegmenter:
    """Cuts a stream at its silences.

    Attributes:
        position_ms: milliseconds of audio that were fed.
    """

    def __init__(self, rate: int, endpoint_ms: float) -> None:
        """Create a segmenter.

        Args:
            rate: the sample rate in Hz.
            endpoint_ms: the silence that ends a segment; 0 if only ``finish`` does.

        Raises:
            ImportError: PocketSphinx is not installed.
        """
        self._vad = _vad(rate)
        self._rate = rate
        self._frame = self._vad.frame_bytes
        self._frame_ms = self._frame / 2 / rate * 1000
        self._endpoint_ms = endpoint_ms
        self._margin = round(_MARGIN_MS / self._frame_ms) * self._frame
        self._rest = b""
        self._kept = bytearray()
        self._kept_from = 0  # the byte that self._kept begins with
        self._recent: list[bool] = []
        self._speech_end: int | None = None  # in bytes, while a segment is open

    @property
    def position_ms(self) -> float:
        """Milliseconds of audio that were fed."""
        return self._ms(self._kept_from + len(self._kept) + len(self._rest))

    @property
    def in_speech(self) -> bool:
        """Whether a segment is open."""
        return self._speech_end is not None

    def feed(self, pcm: bytes) -> list[SpeechSegment]:
        """Process more audio, and return the segments that ended in it."""
        data = self._rest + pcm
        whole = len(data) - len(data) % self._frame
        self._rest = data[whole:]
        frames = (data[at : at + self._frame] for at in range(0, whole, self._frame))
        return [segment for frame in frames if (segment := self._take(frame)) is not None]

    def partial(self) -> SpeechSegment | None:
        """Return the open segment as far as it came; None if there is none."""
        return self._segment(self._end) if self.in_speech else None

    def finish(self) -> SpeechSegment | None:
        """End the open segment and return it; None if there is none."""
        if self._speech_end is None:
            return None
        # The silence after the last speech has the same length as at an endpoint, whatever ended the segment.
        segment = self._segment(self._speech_end + self._margin)
        self._close(min(self._speech_end, self._end))
        return segment

    def _take(self, frame: bytes) -> SpeechSegment | None:
        self._kept += frame
        speech = self._vad.is_speech(frame)
        self._recent = [*self._recent[1 - _ONSET_WINDOW :], speech]
        if self._speech_end is None:
            if sum(self._recent) >= _ONSET_FRAMES:
                self._speech_end = self._end
            else:
                self._forget(self._end - self._margin - _ONSET_WINDOW * self._frame)
            return None
        if speech:
            self._speech_end = self._end
        silence = self._ms(self._end - self._speech_end)
        if (self._endpoint_ms and silence >= self._endpoint_ms) or self._ms(len(self._kept)) >= _MAX_SEGMENT_MS:
            return self.finish()
        return None

    @property
    def _end(self) -> int:
        return self._kept_from + len(self._kept)

    def _segment(self, until: int) -> SpeechSegment:
        pcm = bytes(self._kept[: until - self._kept_from])
        pcm += bytes(until - self._kept_from - len(pcm))
        return SpeechSegment(pcm, self._rate, self._ms(self._kept_from))

    def _close(self, at: int) -> None:
        self._speech_end = None
        self._recent = []
        self._forget(at)

    def _forget(self, before: int) -> None:
        if (count := before - self._kept_from) > 0:
            del self._kept[:count]
            self._kept_from += count

    def _ms(self, count: int) -> float:
        return count / 2 / self._rate * 1000


def _vad(rate: int) -> Any:
    from pocketsphinx import Vad

    return Vad(2, rate, _FRAME_S)
