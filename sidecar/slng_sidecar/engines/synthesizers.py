"""Synthesizers: what turns the texts of one connection into audio."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from slng_sidecar.engines import signal
from slng_sidecar.engines.pcm import tone
from slng_sidecar.engines.workers import Workers

_TONE_MS_PER_LETTER = 60


class Synthesizer(Protocol):
    """Synthesizes the texts of one connection."""

    async def synthesize(self, text: str, rate: int) -> bytes:
        """Return a text as 16-bit mono PCM at ``rate`` Hz.

        Raises:
            WorkerFailed: it could not be synthesized.
        """


class SignalSynthesizer(Synthesizer):
    """Turns each token of a text into a word of the numbered signal. Running numbers continue over the connection."""

    def __init__(self) -> None:
        self._next = signal.FIRST_RUNNING_NUMBER

    @override
    async def synthesize(self, text: str, rate: int) -> bytes:
        words = signal.words_of_text(text, self._next)
        self._next = max([self._next, *(word.number + 1 for word in words if word.number >= self._next)])
        return signal.encode(words, rate)


class SpeechSynthesizer(Synthesizer):
    """Speaks English, in a worker process."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    @override
    async def synthesize(self, text: str, rate: int) -> bytes:
        return await self._workers.speak(text, rate)


class ToneSynthesizer(Synthesizer):
    """Plays a tone of 60 ms for each letter."""

    @override
    async def synthesize(self, text: str, rate: int) -> bytes:
        return tone(_TONE_MS_PER_LETTER * len(text.strip()), rate)
