"""Recognizers: what turns the audio of one connection into words.

A recognizer belongs to one connection. It finds utterances in the audio as it comes, and recognizes each one when its
words are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from slng_sidecar.engines import signal
from slng_sidecar.engines.interface import RecognizedWord, SpeechSegment
from slng_sidecar.engines.pcm import samples_of
from slng_sidecar.engines.segmenter import SpeechSegmenter
from slng_sidecar.engines.workers import Workers

_LOUD = 1500
# Compressed audio has no length of its own: a message counts as one frame of 20 ms.
_COMPRESSED_MESSAGE_MS = 20
_SCRIPTED_WORD_MS = 300


@dataclass(frozen=True, slots=True)
class RecognizedUtterance:
    """One utterance: its words, or the audio in which they are still to be recognized."""

    words: tuple[RecognizedWord, ...] = ()
    segment: SpeechSegment | None = None


def mean_confidence(words: Sequence[RecognizedWord]) -> float | None:
    """Return the mean confidence of the words that have one; None if none has."""
    scores = [word.confidence for word in words if word.confidence is not None]
    return round(sum(scores) / len(scores), 3) if scores else None


class Recognizer(Protocol):
    """Recognizes the audio of one connection."""

    @property
    def position_ms(self) -> float:
        """Milliseconds of audio that were fed."""

    def feed(self, audio: bytes) -> list[RecognizedUtterance]:
        """Process one message of audio, and return the utterances that ended in it."""

    def partial(self) -> RecognizedUtterance | None:
        """Return the current utterance as far as it came; None if there is none."""

    def finish(self, *, last: bool = False) -> RecognizedUtterance | None:
        """End the current utterance and return it; None if there is none.

        Args:
            last: whether no audio follows.
        """

    async def words(self, utterance: RecognizedUtterance) -> Sequence[RecognizedWord]:
        """Return the words of an utterance.

        Raises:
            WorkerFailed: it could not be recognized.
        """

    @property
    def is_free(self) -> bool:
        """Whether ``words`` would start at once and leave room for another call, so that a partial delays no final."""


class SignalRecognizer(Recognizer):
    """Recognizes the numbered signal. A final covers the words that have ended by then."""

    is_free = True

    def __init__(self, rate: int, endpoint_ms: float) -> None:
        self._decoder = signal.Decoder(rate)
        self._endpoint_ms = endpoint_ms
        self._step = 2 * (rate // 50)
        self._pending: list[RecognizedWord] = []

    @property
    @override
    def position_ms(self) -> float:
        return self._decoder.position_ms

    @override
    def feed(self, audio: bytes) -> list[RecognizedUtterance]:
        utterances = []
        for at in range(0, len(audio), self._step):
            self._add(self._decoder.feed(audio[at : at + self._step]))
            silence = self._decoder.position_ms - self._decoder.last_frame_ms
            if self._pending and self._endpoint_ms and silence >= self._endpoint_ms:
                utterances.append(self._end())
        return utterances

    @override
    def partial(self) -> RecognizedUtterance | None:
        return RecognizedUtterance(tuple(self._pending)) if self._pending else None

    @override
    def finish(self, *, last: bool = False) -> RecognizedUtterance | None:
        if last:
            self._add(self._decoder.end())
        return self._end() if self._pending or self._decoder.in_word else None

    @override
    async def words(self, utterance: RecognizedUtterance) -> Sequence[RecognizedWord]:
        return utterance.words

    def _add(self, words: list[signal.DecodedWord]) -> None:
        self._pending += (RecognizedWord(word.text, word.start_ms / 1000, word.end_ms / 1000) for word in words)

    def _end(self) -> RecognizedUtterance:
        utterance = RecognizedUtterance(tuple(self._pending))
        self._pending = []
        return utterance


class SpeechRecognizer(Recognizer):
    """Recognizes speech with an engine. A worker process decodes each utterance as a whole."""

    def __init__(self, rate: int, endpoint_ms: float, engine: str, workers: Workers) -> None:
        self._segmenter = SpeechSegmenter(rate, endpoint_ms)
        self._engine = engine
        self._workers = workers

    @property
    @override
    def position_ms(self) -> float:
        return self._segmenter.position_ms

    @property
    @override
    def is_free(self) -> bool:
        return self._workers.has_spare

    @override
    def feed(self, audio: bytes) -> list[RecognizedUtterance]:
        return [RecognizedUtterance(segment=segment) for segment in self._segmenter.feed(audio)]

    @override
    def partial(self) -> RecognizedUtterance | None:
        segment = self._segmenter.partial()
        return RecognizedUtterance(segment=segment) if segment else None

    @override
    def finish(self, *, last: bool = False) -> RecognizedUtterance | None:
        segment = self._segmenter.finish()
        return RecognizedUtterance(segment=segment) if segment else None

    @override
    async def words(self, utterance: RecognizedUtterance) -> Sequence[RecognizedWord]:
        if utterance.segment is None:
            return ()
        words: list[RecognizedWord] = await self._workers.call(self._engine, "recognize", utterance.segment)
        return words


class ScriptRecognizer(Recognizer):
    """Takes anything loud for the next line of a script, over and over.

    Compressed audio (``rate`` None) is not decoded: every message is loud, and only ``finish`` ends an utterance.
    """

    is_free = True
    position_ms = 0.0

    def __init__(self, script: Sequence[str], rate: int | None, endpoint_ms: float) -> None:
        self._lines = itertools.cycle(script)
        self._line = next(self._lines)
        self._rate = rate
        self._endpoint_ms = endpoint_ms if rate else 0
        self._step = 2 * (rate // 50) if rate else 1 << 30
        self._start_ms: float | None = None
        self._end_ms = 0.0
        self.position_ms = 0.0

    @override
    def feed(self, audio: bytes) -> list[RecognizedUtterance]:
        utterances = []
        for at in range(0, len(audio), self._step):
            piece = audio[at : at + self._step]
            start = self.position_ms
            self.position_ms += len(piece) / 2 / self._rate * 1000 if self._rate else _COMPRESSED_MESSAGE_MS
            if self._rate is None or max(map(abs, samples_of(piece)), default=0) > _LOUD:
                self._start_ms = start if self._start_ms is None else self._start_ms
                self._end_ms = self.position_ms
            elif self._start_ms is not None and 0 < self._endpoint_ms <= self.position_ms - self._end_ms:
                utterances.append(self._end(self._start_ms))
        return utterances

    @override
    def partial(self) -> RecognizedUtterance | None:
        if self._start_ms is None:
            return None
        tokens = self._line.split()
        return self._spread(tokens[: 1 + int((self._end_ms - self._start_ms) / _SCRIPTED_WORD_MS)], self._start_ms)

    @override
    def finish(self, *, last: bool = False) -> RecognizedUtterance | None:
        return self._end(self._start_ms) if self._start_ms is not None else None

    @override
    async def words(self, utterance: RecognizedUtterance) -> Sequence[RecognizedWord]:
        return utterance.words

    def _end(self, start_ms: float) -> RecognizedUtterance:
        utterance = self._spread(self._line.split(), start_ms)
        self._line = next(self._lines)
        self._start_ms = None
        return utterance

    def _spread(self, tokens: list[str], start_ms: float) -> RecognizedUtterance:
        """Spread the words of a line evenly over the loud audio."""
        each = (self._end_ms - start_ms) / max(1, len(tokens))
        return RecognizedUtterance(
            tuple(
                RecognizedWord(token, (start_ms + i * each) / 1000, (start_ms + (i + 1) * each) / 1000)
                for i, token in enumerate(tokens)
            )
        )
