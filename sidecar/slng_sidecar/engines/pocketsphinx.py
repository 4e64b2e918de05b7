"""Offline recognition of English speech with PocketSphinx.

Everything here blocks and takes CPU time. ``workers`` runs it beside the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any

from slng_sidecar.engines.pcm import resample

RECOGNIZER_RATE = 16_000
"""The sample rate of the recognizer's model."""

_FRAME_S = 0.02
# Speech starts once this much of the last 100 ms is speech, so that a click is none.
_ONSET_FRAMES, _ONSET_WINDOW = 3, 5
_MARGIN_MS = 200
# A segment is ended here at the latest, so that memory and decoding time stay bounded.
_MAX_SEGMENT_MS = 30_000


@dataclass(frozen=True, slots=True)
class RecognizedWord:
    """A recognized word. ``start`` and ``end`` are seconds from the first byte of the connection's audio."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """Audio that contains speech, ``start_ms`` after the stream's first byte."""

    pcm: bytes
    rate: int
    start_ms: float


@cache
def recognizer_installed() -> bool:
    """Return whether the recognizer is installed. The answer is cached."""
    return find_spec("pocketsphinx") is not None


def recognize(pcm: bytes, rate: int = RECOGNIZER_RATE, endpoint_ms: float = 300) -> str:
    """Return the words in a whole piece of 16-bit mono PCM.

    The audio is cut at its silences and decoded segment by segment, as in a session, so the words are the same.

    Args:
        endpoint_ms: the silence that ends a segment, in milliseconds; 0 cuts only what is longer than 30 s.

    Raises:
        RuntimeError: no recognizer is installed.
    """
    segmenter = SpeechSegmenter(rate, endpoint_ms)
    segments = segmenter.feed(pcm)
    if (last := segmenter.finish()) is not None:
        segments.append(last)
    return " ".join(word.text for segment in segments for word in recognize_segment(segment))


def recognize_segment(segment: SpeechSegment) -> list[RecognizedWord]:
    """Return the words of one segment.

    Raises:
        RuntimeError: no recognizer is installed.
    """
    decoder = _decoder()
    # The noise estimate starts anew, so that a segment's words do not depend on the segments before it.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(resample(segment.pcm, segment.rate, RECOGNIZER_RATE), full_utt=True)
    decoder.end_utt()
    frames_a_second = 100
    first = segment.start_ms / 1000
    return [
        RecognizedWord(
            part.word.split("(")[0],
            round(first + part.start_frame / frames_a_second, 3),
            round(first + (part.end_frame + 1) / frames_a_second, 3),
            round(min(1.0, part.prob), 3),
        )
        for part in decoder.seg() or ()
        if part.word[0] not in "<["
    ]


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
            RuntimeError: no recognizer is installed.
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


def prepare_recognizer() -> None:
    """Load the recognizer's model, which takes a third of a second."""
    _decoder()


@lru_cache(maxsize=1)
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise RuntimeError("No recognizer is installed: install slng-sidecar[simulator].") from None
    return Decoder(logfn="/dev/null", cmn="batch")


def _vad(rate: int) -> Any:
    try:
        from pocketsphinx import Vad
    except ImportError:
        raise RuntimeError("No recognizer is installed: install slng-sidecar[simulator].") from None
    return Vad(2, rate, _FRAME_S)
