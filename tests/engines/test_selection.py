"""The engines are chosen by name, or the best that are installed, and by the language of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from slng_sidecar.cli import simulation
from slng_sidecar.engines import espeak, flite, hibari, moonshine, pocketsphinx
from slng_sidecar.engines.recognizers import ScriptRecognizer, SignalRecognizer, SpeechRecognizer
from slng_sidecar.engines.selection import (
    RECOGNIZER_NAMES,
    SYNTHESIZER_NAMES,
    Engines,
    LanguageUnsupported,
    NotInstalled,
)
from slng_sidecar.engines.synthesizers import SignalSynthesizer, SpeechSynthesizer, ToneSynthesizer
from support.engines import need_engine

ALL = (hibari, flite, espeak, moonshine, pocketsphinx)


def install(patch: pytest.MonkeyPatch, engines: Iterable[object]) -> None:
    """Let only some engines be installed."""
    chosen = list(engines)
    for engine in ALL:
        patch.setattr(engine, "installed", lambda engine=engine: engine in chosen)


@pytest.mark.parametrize(
    ("installed", "titles"),
    [
        (ALL, ("Hibari and eSpeak NG", "Moonshine")),
        ((hibari, moonshine, pocketsphinx), ("Hibari", "Moonshine")),
        ((flite, espeak, pocketsphinx), ("flite and eSpeak NG", "PocketSphinx")),
        ((espeak, pocketsphinx), ("eSpeak NG", "PocketSphinx")),
        ((), ("a tone", "a script")),
    ],
)
def test_the_best_engines_are_in_use_and_named(
    monkeypatch: pytest.MonkeyPatch, installed: Iterable[object], titles: tuple[str, str]
) -> None:
    need_engine(espeak)
    install(monkeypatch, installed)
    engines = Engines("auto")
    assert (engines.synthesizer_title, engines.recognizer_title) == titles


def test_the_shorthand_chooses_both_engines() -> None:
    assert (Engines("signal").synthesizer_title, Engines("signal").recognizer_title) == ("the numbered signal",) * 2
    assert (Engines("tone").synthesizer_title, Engines("tone").recognizer_title) == ("a tone", "a script")


def test_each_engine_can_be_chosen_by_its_name() -> None:
    need_engine(espeak, pocketsphinx)
    engines = Engines("signal", synthesizer="espeak")
    assert (engines.synthesizer_title, engines.recognizer_title) == ("eSpeak NG", "the numbered signal")
    engines = Engines("signal", recognizer="pocketsphinx")
    assert (engines.synthesizer_title, engines.recognizer_title) == ("the numbered signal", "PocketSphinx")


def test_real_speech_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [espeak])
    with pytest.raises(NotInstalled, match=r"Moonshine, PocketSphinx.*slng-sidecar\[simulator\]"):
        Engines("real")
    with pytest.raises(NotInstalled, match="Hibari is not installed"):
        Engines(synthesizer="hibari")


def test_the_command_line_accepts_the_names_of_the_engines() -> None:
    assert simulation._SYNTHESIZERS == SYNTHESIZER_NAMES
    assert simulation._RECOGNIZERS == RECOGNIZER_NAMES


def engine_of(engines: Engines, language: str | None = None, voice: str | None = None) -> tuple[str, str]:
    synthesizer = engines.synthesizer("slng/deepgram/aura:2", language, voice)
    assert isinstance(synthesizer, SpeechSynthesizer)
    return synthesizer._engine, synthesizer._language


@pytest.mark.parametrize(
    ("asked", "engine"),
    [
        ({}, ("hibari", "en")),
        ({"language": "en-US"}, ("hibari", "en")),
        ({"language": "ES_mx"}, ("espeak", "es")),
        ({"voice": "aura-2-celeste-es"}, ("espeak", "es")),
        ({"voice": "aura-2-celeste-es", "language": "en"}, ("hibari", "en")),
        ({"voice": "María José"}, ("hibari", "en")),
    ],
)
def test_the_language_decides_who_speaks(asked: dict[str, str], engine: tuple[str, str]) -> None:
    need_engine(hibari, espeak)
    assert engine_of(Engines(synthesizer=None), **asked) == engine


def test_a_synthesizer_that_was_chosen_by_name_speaks_its_own_languages_only() -> None:
    need_engine(hibari)
    with pytest.raises(LanguageUnsupported, match="speaks en, not 'es'"):
        Engines(synthesizer="hibari").synthesizer("deepgram/aura:2", "es")


def test_a_language_that_nobody_speaks_is_refused_with_those_that_are() -> None:
    need_engine(hibari, espeak)
    with pytest.raises(LanguageUnsupported, match=r"speaks af, .* de, .* zh, not 'tlh'"):
        Engines().synthesizer("deepgram/aura:2", "tlh")


@pytest.mark.parametrize(("model", "language"), [("deepgram/nova:3", "es"), ("deepgram/nova:3-de", None)])
def test_a_language_that_the_recognizer_lacks_is_refused(model: str, language: str | None) -> None:
    need_engine(moonshine)
    with pytest.raises(LanguageUnsupported, match=r"recognizes en, not '(es|de)'"):
        Engines().recognizer(model, language, 16_000, 300, ())


@pytest.mark.parametrize("language", [None, "en", "en-GB", "multi", "auto"])
def test_english_and_any_language_are_recognized(language: str | None) -> None:
    need_engine(moonshine)
    assert isinstance(Engines().recognizer("deepgram/nova:3-multi", language, 16_000, 300, ()), SpeechRecognizer)


def test_the_signal_tone_and_script_have_every_language() -> None:
    for engines in (Engines("signal"), Engines("tone")):
        engines.recognizer("deepgram/nova:3", "xx", 16_000, 300, ("hello",))
        engines.synthesizer("deepgram/aura:2", "xx")


def test_the_models_of_the_signal_use_it_whatever_was_chosen() -> None:
    engines = Engines("tone")
    assert isinstance(engines.synthesizer("slng/simulator/signal:1"), SignalSynthesizer)
    assert isinstance(engines.synthesizer("deepgram/aura:2"), ToneSynthesizer)
    assert isinstance(engines.recognizer("simulator/signal:2", None, 16_000, 300, ()), SignalRecognizer)
    assert isinstance(engines.recognizer("deepgram/nova:3", None, None, 300, ("hello",)), ScriptRecognizer)


@pytest.fixture
async def loaded() -> AsyncIterator[Engines]:
    engines = await asyncio.to_thread(Engines)
    await engines.load()
    yield engines
    await engines.close()


async def test_loaded_engines_speak_a_long_text_piece_by_piece(loaded: Engines) -> None:
    need_engine(hibari)
    pieces = loaded.synthesizer("deepgram/aura:2").synthesize("One thing. " * 20, 16_000)
    first = await anext(pieces)
    assert 0.3 < len(first) / 2 / 16_000 < 3
    assert len([piece async for piece in pieces]) == 19
