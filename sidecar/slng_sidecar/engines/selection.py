"""Chooses the engines: by name, or the best that are installed, and by the language of a connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

from slng_sidecar.engines import espeak, flite, hibari, moonshine, pocketsphinx
from slng_sidecar.engines.interface import Engine, RecognizerEngine, SpeechSegment, SynthesizerEngine, Timbre
from slng_sidecar.engines.recognizers import Recognizer, ScriptRecognizer, SignalRecognizer, SpeechRecognizer
from slng_sidecar.engines.segmenter import SpeechSegmenter
from slng_sidecar.engines.sentences import pieces_of
from slng_sidecar.engines.synthesizers import SignalSynthesizer, SpeechSynthesizer, Synthesizer, ToneSynthesizer
from slng_sidecar.engines.workers import Workers

Speech = Literal["auto", "real", "signal", "tone"]

SIGNAL_MODELS = "simulator/signal"
"""Models of this name, with or without ``slng/`` before it, use the numbered signal whatever was chosen."""

_BEST_SYNTHESIZERS: tuple[SynthesizerEngine, ...] = (hibari, flite, espeak)
_BEST_RECOGNIZERS: tuple[RecognizerEngine, ...] = (moonshine, pocketsphinx)

SYNTHESIZERS: Mapping[str, SynthesizerEngine] = {engine.NAME: engine for engine in _BEST_SYNTHESIZERS}
"""The synthesizers by name, the best first."""

RECOGNIZERS: Mapping[str, RecognizerEngine] = {engine.NAME: engine for engine in _BEST_RECOGNIZERS}
"""The recognizers by name, the best first."""

SYNTHESIZER_NAMES = (*SYNTHESIZERS, "signal", "tone")
"""What ``Engines`` accepts as its synthesizer."""

RECOGNIZER_NAMES = (*RECOGNIZERS, "signal", "script")
"""What ``Engines`` accepts as its recognizer."""

DEFAULT_LANGUAGE = "en"

_TITLES = {"signal": "the numbered signal", "tone": "a tone", "script": "a script"}
_EXTRA = "install slng-sidecar[simulator-neural] or slng-sidecar[simulator]"
# Values of a language option that ask the provider to find out.
_ANY_LANGUAGE = ("multi", "auto", "detect")
# A language at the end of a name: aura-2-thalia-en, nova:3-en.
_LANGUAGE_SUFFIX = re.compile(r"-([a-z]{2})$")
# Synthesizing takes a hundredth of the sound's duration, and recognizing up to a tenth.
_SYNTHESIZING, _RECOGNIZING = 1, 2


class NotInstalled(RuntimeError):
    """Raised when an engine was chosen that is not installed. The text says what to install."""


class LanguageUnsupported(ValueError):
    """Raised for a language that no engine has. The text lists those that there are."""


class Engines:
    """The synthesizers and the recognizer in use, and the processes that they run in.

    Attributes:
        synthesizer_title: the synthesizer in use, for people.
        recognizer_title: the recognizer in use, for people.
    """

    def __init__(
        self, speech: Speech = "auto", *, synthesizer: str | None = None, recognizer: str | None = None
    ) -> None:
        """Choose the engines. They are loaded later, by ``load`` or by the first text or segment.

        Args:
            speech: ``auto`` takes the best real engines that are installed, and where there is none, a tone and a
                script; ``real`` requires real ones; ``signal`` is the numbered signal; ``tone`` a tone and a script.
            synthesizer: one of ``SYNTHESIZER_NAMES``, in place of what ``speech`` means.
            recognizer: one of ``RECOGNIZER_NAMES``, likewise.

        Raises:
            NotInstalled: what was asked for is not installed.
        """
        self._synthesizer = synthesizer or _choice(speech, SYNTHESIZERS, "tone")
        self._recognizer = recognizer or _choice(speech, RECOGNIZERS, "script")
        for name, engines in ((self._synthesizer, SYNTHESIZERS), (self._recognizer, RECOGNIZERS)):
            if name in engines and not engines[name].installed():
                raise NotInstalled(f"{engines[name].TITLE} is not installed: {_EXTRA}.")
        # Languages that the chosen synthesizer lacks are spoken by the next best.
        others = [] if synthesizer else [engine for engine in _BEST_SYNTHESIZERS if engine.installed()]
        chosen = SYNTHESIZERS.get(self._synthesizer)
        self._speaking = dict.fromkeys([chosen, *others]) if chosen else {}
        self.synthesizer_title = chosen.TITLE if chosen else _TITLES[self._synthesizer]
        if chosen and (further := [engine for engine in self._speaking if engine.languages() - chosen.languages()]):
            self.synthesizer_title += f" and {further[0].TITLE}"
        known = RECOGNIZERS.get(self._recognizer)
        self.recognizer_title = known.TITLE if known else _TITLES[self._recognizer]
        self._synthesizing = Workers(_SYNTHESIZING)
        self._recognizing = Workers(_RECOGNIZING)

    async def load(self) -> None:
        """Load the engines that English is spoken and recognized with. Calls that come meanwhile wait.

        Raises:
            WorkerFailed: an engine could not be loaded.
        """
        synthesizer = self._synthesizer in SYNTHESIZERS
        recognizer = self._recognizer in RECOGNIZERS
        await asyncio.gather(
            self._synthesizing.load([self._synthesizer] if synthesizer else []),
            self._recognizing.load([self._recognizer] if recognizer else []),
        )

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(self._synthesizing.close(), self._recognizing.close())

    def recognizer(
        self, model: str, language: str | None, rate: int | None, endpoint_ms: float, script: Sequence[str]
    ) -> Recognizer:
        """Return the recognizer of a connection.

        Args:
            model: the model's name, which may end with a language.
            language: the language that was asked for, such as ``en`` or ``en-US``.
            rate: the sample rate in Hz; None for compressed audio, which no engine decodes.
            endpoint_ms: the silence that ends an utterance; 0 if only a finalize does.
            script: the lines of the scripted recognizer.

        Raises:
            LanguageUnsupported: the engine does not have the language.
        """
        if rate is None:
            return ScriptRecognizer(script, None, endpoint_ms)
        if is_signal(model) or self._recognizer == "signal":
            return SignalRecognizer(rate, endpoint_ms)
        if self._recognizer == "script":
            return ScriptRecognizer(script, rate, endpoint_ms)
        engine = RECOGNIZERS[self._recognizer]
        if language not in _ANY_LANGUAGE:
            _check_language(_language(language, model), engine.languages(), "recognizes")
        return SpeechRecognizer(rate, endpoint_ms, engine.NAME, self._recognizing)

    def synthesizer(
        self, model: str, language: str | None = None, voice: str | None = None, timbre: Timbre = "neutral"
    ) -> Synthesizer:
        """Return the synthesizer of a connection.

        Args:
            model: the model's name, which may end with a language.
            language: the language that was asked for, such as ``en`` or ``en-US``.
            voice: the name of the voice, which may end with a language.
            timbre: how the voice sounds.

        Raises:
            LanguageUnsupported: no engine speaks the language.
        """
        if is_signal(model) or self._synthesizer == "signal":
            return SignalSynthesizer()
        if self._synthesizer == "tone":
            return ToneSynthesizer()
        code = _language(language, voice, model)
        _check_language(code, {code for engine in self._speaking for code in engine.languages()}, "speaks")
        engine = next(engine for engine in self._speaking if code in engine.languages())
        return SpeechSynthesizer(engine.NAME, code, timbre, self._synthesizing)


def is_signal(model: str) -> bool:
    """Return whether a model is that of the numbered signal."""
    return model.removeprefix("slng/").split(":")[0] == SIGNAL_MODELS


def speak(text: str, rate: int = 16_000) -> bytes:
    """Return an English text as 16-bit mono PCM at ``rate`` Hz, by the best synthesizer that is installed.

    Raises:
        NotInstalled: none is installed.
    """
    engine = SYNTHESIZERS[_choice("real", SYNTHESIZERS, "")]
    return b"".join(engine.speak(piece, DEFAULT_LANGUAGE, "neutral", rate) for piece in pieces_of(text))


def recognize(pcm: bytes, rate: int = 16_000, endpoint_ms: float = 300) -> str:
    """Return the words in a whole piece of 16-bit mono PCM, by the best recognizer that is installed.

    The audio is cut at its silences and decoded segment by segment, as in a session, so the words are the same.

    Args:
        endpoint_ms: the silence that ends a segment, in milliseconds; 0 cuts only what is longer than 30 s.

    Raises:
        NotInstalled: none is installed.
    """
    engine = RECOGNIZERS[_choice("real", RECOGNIZERS, "")]
    segmenter = SpeechSegmenter(rate, endpoint_ms)
    segments: list[SpeechSegment] = segmenter.feed(pcm)
    if (last := segmenter.finish()) is not None:
        segments.append(last)
    return " ".join(word.text for segment in segments for word in engine.recognize(segment))


def _choice(speech: Speech, engines: Mapping[str, Engine], otherwise: str) -> str:
    """Return the name of the engine that ``speech`` means; ``otherwise`` is what to use where there is none."""
    if speech == "signal":
        return "signal"
    best = next((name for name, engine in engines.items() if engine.installed()), None)
    if speech == "real" and best is None:
        raise NotInstalled(f"None of {', '.join(engine.TITLE for engine in engines.values())} is installed: {_EXTRA}.")
    return otherwise if speech == "tone" or best is None else best


def _language(asked: str | None, *names: str | None) -> str:
    """Return the language that was asked for, or that a name ends with, without its region."""
    if asked:
        return re.split("[-_]", asked.lower())[0]
    found = (suffix.group(1) for name in names if name and (suffix := _LANGUAGE_SUFFIX.search(name)))
    return next(found, DEFAULT_LANGUAGE)


def _check_language(code: str, languages: AbstractSet[str], does: str) -> None:
    if code not in languages:
        raise LanguageUnsupported(f"the simulator {does} {', '.join(sorted(languages))}, not {code!r}")
