"""What an offline speech engine is: a module of this package with the functions of one of two interfaces.

To add an engine, write such a module and list it in ``selection``. The functions block and take CPU time, so
``workers`` runs them in other processes; only ``installed`` and ``languages`` are called beside the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Timbre = Literal["neutral", "deep", "bright"]
"""The voices that every synthesizer has for each of its languages. A listener tells them apart."""


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


class Engine(Protocol):
    """What both kinds of engines have.

    Attributes:
        NAME: the name in options and the name of the module.
        TITLE: the name for people.
    """

    NAME: str
    TITLE: str

    def installed(self) -> bool:
        """Return whether it can be used here. The answer is cached."""

    def languages(self) -> frozenset[str]:
        """Return the languages that it has, as ISO 639 codes without a region. The answer is cached."""

    def load(self) -> None:
        """Load what it needs, so that the first call is not late.

        Raises:
            ImportError: it is not installed.
        """


class RecognizerEngine(Engine, Protocol):
    """Turns speech into words."""

    def recognize(self, segment: SpeechSegment) -> list[RecognizedWord]:
        """Return the words of one segment.

        Raises:
            ImportError: it is not installed.
        """


class SynthesizerEngine(Engine, Protocol):
    """Turns text into speech."""

    def speak(self, text: str, language: str, timbre: Timbre, rate: int) -> bytes:
        """Return a text as 16-bit mono PCM at ``rate`` Hz; nothing if the text has nothing to pronounce.

        Raises:
            ImportError: it is not installed.
            RuntimeError: it failed.
        """
