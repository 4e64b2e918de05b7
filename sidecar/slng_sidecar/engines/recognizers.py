"""How a session hears and speaks: really, the numbered signal, or a tone and a script."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from slng_sidecar.engines import signal, speech
from slng_sidecar.engines.pcm import samples_of, tone
from slng_sidecar.engines.speech import RecognizedWord, SpeechSegment
from slng_sidecar.engines.workers import Workers

Speech = Literal["auto", "real", "signal", "tone"]

SIGNAL_MODELS = "simulator/signal"
"""Models of this name, with ``slng/`` before it or not, use the numbered signal whatever the ``speech`` option."""

_LOUD = 1500
_TONE_MS_A_LETTER = 60


@dataclass(frozen=True, slots=True)
class Cut:
    """What one final will say: the words, or the sound that they are still to be recognised in."""

    words: tuple[RecognizedWord, ...] = ()
    segment: SpeechSegment | None = None


class Recognizer(Protocol):
    """What hears one connection's audio."""

    @property
    def position_ms(self) -> float:
        """How much audio was heard."""

    def feed(self, audio: bytes) -> list[Cut]:
        """Take one message of audio; give the utterances that an endpoint ended in it."""

    def so_far(self) -> Cut | None:
        """Give what the current utterance has been until here; None where nothing was said."""

    def cut(self, *, last: bool = False) -> Cut | None:
        """End the current utterance; None where nothing was said. ``last``: no audio follows."""

    async def words(self, cut: Cut) -> Sequence[RecognizedWord]:
        """Recognise.

        Raises:
            WorkerFailed: it cannot be.
        """

    @property
    def free(self) -> bool:
        """Whether ``words`` would begin at once, so that a partial delays no final."""


class Synthesizer(Protocol):
    """What speaks for one connection."""

    async def say(self, text: str, rate: int) -> bytes:
        """Give 16-bit mono sound.

        Raises:
            WorkerFailed: it cannot be said.
        """


class SignalRecognizer:
    """Hears the numbered signal: finals cover the words that had ended by then."""

    free = True

    def __init__(self, rate: int, endpoint_ms: float) -> None:
        self._decoder = signal.Decoder(rate)
        self._endpoint_ms = endpoint_ms
        self._step = 2 * (rate // 50)
        self._pending: list[RecognizedWord] = []

    @property
    def position_ms(self) -> float:
        return self._decoder.position_ms

    def feed(self, audio: bytes) -> list[Cut]:
        cuts = []
        for at in range(0, len(audio), self._step):
            self._take(self._decoder.feed(audio[at : at + self._step]))
            silence = self._decoder.position_ms - self._decoder.last_frame_ms
            if self._pending and self._endpoint_ms and silence >= self._endpoint_ms:
                cuts.append(self._cut())
        return cuts

    def so_far(self) -> Cut | None:
        return Cut(tuple(self._pending)) if self._pending else None

    def cut(self, *, last: bool = False) -> Cut | None:
        if last:
            self._take(self._decoder.end())
        return self._cut() if self._pending or self._decoder.in_word else None

    async def words(self, cut: Cut) -> Sequence[RecognizedWord]:
        return cut.words

    def _take(self, heard: list[signal.DecodedWord]) -> None:
        self._pending += (RecognizedWord(word.text, word.start_ms / 1000, word.end_ms / 1000) for word in heard)

    def _cut(self) -> Cut:
        cut = Cut(tuple(self._pending))
        self._pending = []
        return cut


class SpeechRecognizer:
    """Hears English: each utterance is decoded whole in a worker."""

    def __init__(self, rate: int, endpoint_ms: float, workers: Workers) -> None:
        self._segmenter = speech.SpeechSegmenter(rate, endpoint_ms)
        self._workers = workers

    @property
    def position_ms(self) -> float:
        return self._segmenter.position_ms

    @property
    def free(self) -> bool:
        return self._workers.idle

    def feed(self, audio: bytes) -> list[Cut]:
        return [Cut(segment=segment) for segment in self._segmenter.feed(audio)]

    def so_far(self) -> Cut | None:
        segment = self._segmenter.so_far()
        return Cut(segment=segment) if segment else None

    def cut(self, *, last: bool = False) -> Cut | None:
        segment = self._segmenter.cut()
        return Cut(segment=segment) if segment else None

    async def words(self, cut: Cut) -> Sequence[RecognizedWord]:
        return await self._workers.recognize(cut.segment) if cut.segment else ()


class ScriptRecognizer:
    """Hears that something loud was said, and says the next line of the script, over and over.

    Compressed audio (``rate`` None) is not decoded: every message is something said, and only ``cut`` ends it.
    """

    free = True

    def __init__(self, script: Sequence[str], rate: int | None, endpoint_ms: float) -> None:
        self._lines = itertools.cycle(script)
        self._line = next(self._lines)
        self._rate = rate
        self._endpoint_ms = endpoint_ms if rate else 0
        self._step = 2 * (rate // 50) if rate else 1 << 30
        self._start_ms: float | None = None
        self._end_ms = 0.0
        self.position_ms = 0.0

    def feed(self, audio: bytes) -> list[Cut]:
        cuts = []
        for at in range(0, len(audio), self._step):
            piece = audio[at : at + self._step]
            begun = self.position_ms
            self.position_ms += len(piece) / 2 / self._rate * 1000 if self._rate else 20
            if self._rate is None or max(map(abs, samples_of(piece)), default=0) > _LOUD:
                self._start_ms = begun if self._start_ms is None else self._start_ms
                self._end_ms = self.position_ms
            elif self._start_ms is not None and 0 < self._endpoint_ms <= self.position_ms - self._end_ms:
                cuts.append(self._cut(self._start_ms))
        return cuts

    def so_far(self) -> Cut | None:
        if self._start_ms is None:
            return None
        tokens = self._line.split()
        return self._spread(tokens[: 1 + int((self._end_ms - self._start_ms) / 300)], self._start_ms)

    def cut(self, *, last: bool = False) -> Cut | None:
        return self._cut(self._start_ms) if self._start_ms is not None else None

    async def words(self, cut: Cut) -> Sequence[RecognizedWord]:
        return cut.words

    def _cut(self, start_ms: float) -> Cut:
        cut = self._spread(self._line.split(), start_ms)
        self._line = next(self._lines)
        self._start_ms = None
        return cut

    def _spread(self, tokens: list[str], start_ms: float) -> Cut:
        each = (self._end_ms - start_ms) / max(1, len(tokens))
        return Cut(
            tuple(
                RecognizedWord(token, (start_ms + i * each) / 1000, (start_ms + (i + 1) * each) / 1000)
                for i, token in enumerate(tokens)
            )
        )


class SignalSynthesizer:
    """Says each token of a text as a word of the numbered signal; running numbers go on over the connection."""

    def __init__(self) -> None:
        self._next = signal.FIRST_RUNNING_NUMBER

    async def say(self, text: str, rate: int) -> bytes:
        words = signal.words_of_text(text, self._next)
        self._next = max([self._next, *(word.number + 1 for word in words if word.number >= self._next)])
        return signal.encode(words, rate)


class SpeechSynthesizer:
    """Says it in English."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def say(self, text: str, rate: int) -> bytes:
        return await self._workers.speak(text, rate)


class ToneSynthesizer:
    """Hums, 60 ms a letter."""

    async def say(self, text: str, rate: int) -> bytes:
        return tone(_TONE_MS_A_LETTER * len(text.strip()), rate)


def recognizer_for(
    choice: Speech, model: str, rate: int | None, endpoint_ms: float, script: Sequence[str], workers: Workers
) -> Recognizer:
    """Give what hears a connection; ``rate`` None is compressed audio."""
    if rate is None:
        return ScriptRecognizer(script, None, endpoint_ms)
    match _settled(choice, model, speech.recognizer_installed()):
        case "signal":
            return SignalRecognizer(rate, endpoint_ms)
        case "real":
            return SpeechRecognizer(rate, endpoint_ms, workers)
    return ScriptRecognizer(script, rate, endpoint_ms)


def synthesizer_for(choice: Speech, model: str, workers: Workers) -> Synthesizer:
    """Give what speaks for a connection."""
    match _settled(choice, model, speech.voice_installed() is not None):
        case "signal":
            return SignalSynthesizer()
        case "real":
            return SpeechSynthesizer(workers)
    return ToneSynthesizer()


def recognizes_speech(choice: Speech) -> bool:
    """Tell whether audio is recognised."""
    return _settled(choice, "", speech.recognizer_installed()) == "real"


def describe(choice: Speech) -> tuple[str, str]:
    """Say which voice and which ear are in use, for people.

    Raises:
        RuntimeError: ``real`` was asked for and is not installed.
    """
    voice, ear = speech.voice_installed(), speech.recognizer_installed()
    if choice == "real" and not (voice and ear):
        missing = "a voice" if not voice else "a recogniser"
        raise RuntimeError(f"Real speech needs {missing}: install slng-sidecar[simulator].")
    match choice:
        case "signal":
            return "the numbered signal", "the numbered signal"
        case "tone":
            return "a tone", "a script"
    return {"flite": "flite", "espeak": "eSpeak NG", None: "a tone"}[voice], "PocketSphinx" if ear else "a script"


def _settled(choice: Speech, model: str, installed: bool) -> Literal["real", "signal", "tone"]:
    if model.removeprefix("slng/").split(":")[0] == SIGNAL_MODELS:
        return "signal"
    if choice == "auto":
        return "real" if installed else "tone"
    return choice
