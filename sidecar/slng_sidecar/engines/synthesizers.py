"""Synthesizers: what turns the texts of one connection into audio, a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from typing_extensions import override

from slng_sidecar.engines import signal
from slng_sidecar.engines.interface import Timbre
from slng_sidecar.engines.pcm import tone
from slng_sidecar.engines.sentences import pieces_of
from slng_sidecar.engines.workers import Workers

_TONE_MS_PER_LETTER = 60
_WORDS_A_PIECE = 100


class Synthesizer(Protocol):
    """Synthesizes the texts of one connection."""

    def synthesize(self, text: str, rate: int) -> AsyncGenerator[bytes, None]:
        """Yield a text as pieces of 16-bit mono PCM at ``rate`` Hz, each as soon as it is asked for.

        Raises:
            WorkerFailed: a piece could not be synthesized.
        """


class SignalSynthesizer(Synthesizer):
    """Turns each token of a text into a word of the numbered signal. Running numbers continue over the connection."""

    def __init__(self) -> None:
        self._next = signal.FIRST_RUNNING_NUMBER

    @override
    async def synthesize(self, text: str, rate: int) -> AsyncGenerator[bytes, None]:
        words = signal.words_of_text(text, self._next)
        self._next = max([self._next, *(word.number + 1 for word in words if word.number >= self._next)])
        for at in range(0, len(words), _WORDS_A_PIECE):
            yield signal.encode(words[at : at + _WORDS_A_PIECE], rate)


class SpeechSynthesizer(Synthesizer):
    """Speaks a text sentence by sentence with an engine, in a worker process."""

    def __init__(self, engine: str, language: str, timbre: Timbre, workers: Workers) -> None:
        self._engine = engine
        self._language = language
        self._timbre = timbre
        self._workers = workers

    @override
    async def synthesize(self, text: str, rate: int) -> AsyncGenerator[bytes, None]:
        for piece in pieces_of(text):
            yield await self._workers.call(self._engine, "speak", piece, self._language, self._timbre, rate)


class ToneSynthesizer(Synthesizer):
    """Plays a tone of 60 ms for each letter."""

    @override
    async def synthesize(self, text: str, rate: int) -> AsyncGenerator[bytes, None]:
        for piece in pieces_of(text):
            yield tone(_TONE_MS_PER_LETTER * len(piece), rate)
