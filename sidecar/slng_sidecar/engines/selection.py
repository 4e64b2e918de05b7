"""Chooses the recognizer and the synthesizer of a connection, by what was asked for and what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from slng_sidecar.engines import pocketsphinx, voices
from slng_sidecar.engines.recognizers import Recognizer, ScriptRecognizer, SignalRecognizer, SpeechRecognizer
from slng_sidecar.engines.synthesizers import SignalSynthesizer, SpeechSynthesizer, Synthesizer, ToneSynthesizer
from slng_sidecar.engines.workers import Workers

Speech = Literal["auto", "real", "signal", "tone"]

SIGNAL_MODELS = "simulator/signal"
"""Models of this name, with or without ``slng/`` before it, use the numbered signal whatever the ``speech`` option."""


def recognizer_for(
    choice: Speech, model: str, rate: int | None, endpoint_ms: float, script: Sequence[str], workers: Workers
) -> Recognizer:
    """Return the recognizer of a connection.

    Args:
        rate: the sample rate in Hz; None for compressed audio.
        endpoint_ms: the silence that ends an utterance; 0 if only a finalize does.
        script: the lines of the scripted recognizer.
    """
    if rate is None:
        return ScriptRecognizer(script, None, endpoint_ms)
    match _resolve(choice, model, pocketsphinx.recognizer_installed()):
        case "signal":
            return SignalRecognizer(rate, endpoint_ms)
        case "real":
            return SpeechRecognizer(rate, endpoint_ms, workers)
    return ScriptRecognizer(script, rate, endpoint_ms)


def synthesizer_for(choice: Speech, model: str, workers: Workers) -> Synthesizer:
    """Return the synthesizer of a connection."""
    match _resolve(choice, model, voices.voice_installed() is not None):
        case "signal":
            return SignalSynthesizer()
        case "real":
            return SpeechSynthesizer(workers)
    return ToneSynthesizer()


def recognizes_speech(choice: Speech) -> bool:
    """Return whether real speech is recognized."""
    return _resolve(choice, "", pocketsphinx.recognizer_installed()) == "real"


def describe(choice: Speech) -> tuple[str, str]:
    """Return the names of the synthesizer and the recognizer in use, for people.

    Raises:
        RuntimeError: ``real`` was asked for and is not installed.
    """
    voice, recognizer = voices.voice_installed(), pocketsphinx.recognizer_installed()
    if choice == "real" and not (voice and recognizer):
        missing = "a voice" if not voice else "a recognizer"
        raise RuntimeError(f"Real speech needs {missing}: install slng-sidecar[simulator].")
    match choice:
        case "signal":
            return "the numbered signal", "the numbered signal"
        case "tone":
            return "a tone", "a script"
    names = {"flite": "flite", "espeak": "eSpeak NG", None: "a tone"}
    return names[voice], "PocketSphinx" if recognizer else "a script"


def _resolve(choice: Speech, model: str, installed: bool) -> Literal["real", "signal", "tone"]:
    if model.removeprefix("slng/").split(":")[0] == SIGNAL_MODELS:
        return "signal"
    if choice == "auto":
        return "real" if installed else "tone"
    return choice
