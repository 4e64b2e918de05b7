"""Speech in about a hundred languages with eSpeak NG, whose library is in the package ``espeakng-loader``."""

from __future__ import annotations

import ctypes
from array import array
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slng_sidecar.engines.interface import Timbre
from slng_sidecar.engines.pcm import bytes_of, resample

NAME = "espeak"
TITLE = "eSpeak NG"

_VARIANTS: dict[Timbre, str] = {"neutral": "f5", "deep": "m3", "bright": "f2"}
# American English, as of the other engines. A language without an entry here has one voice of its own name.
_VOICES = {"en": "en-us", "no": "nb", "zh": "cmn"}


@cache
def installed() -> bool:
    """Return whether eSpeak NG is installed."""
    return find_spec("espeakng_loader") is not None


@cache
def languages() -> frozenset[str]:
    """Return the languages of the voices in the package."""
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    named = {
        line.split()[1].partition("-")[0]
        for file in (data / "lang").rglob("*")
        if file.is_file()
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("language ")
    }
    # The package lacks the dictionaries of some languages.
    return frozenset({*(name for name in named if (data / f"{name}_dict").is_file()), *_VOICES})


def load() -> None:
    """Load the library."""
    _library()


def speak(text: str, language: str, timbre: Timbre, rate: int) -> bytes:
    """Return a text as 16-bit mono PCM at ``rate`` Hz.

    Raises:
        RuntimeError: eSpeak NG failed, or has no voice for the language.
    """
    pcm, own_rate = _library().speak(text, f"{_VOICES.get(language, language)}+{_VARIANTS[timbre]}")
    return resample(pcm, own_rate, rate)


class _Library:
    """eSpeak NG's library, through its C interface (speak_lib.h), for one thread."""

    _RETRIEVAL = 1
    _UTF8 = 1
    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._samples = array("h")
        # ctypes keeps no reference of its own to a callback.
        self._callback = self._CALLBACK(self._take)
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(self._RETRIEVAL, 0, data, 0)
        if self._rate <= 0:
            raise RuntimeError("eSpeak NG did not start")
        # eSpeak NG adds random breath noise, seeded from the clock. With a fixed seed, processes that synthesize the
        # same texts in the same order make the same audio.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str) -> tuple[bytes, int]:
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RuntimeError(f"eSpeak NG has no voice {voice}")
        encoded = text.encode()
        self._samples = array("h")
        failed = self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, self._UTF8, None, None)
        if failed:
            raise RuntimeError("eSpeak NG failed")
        self._library.espeak_Synchronize()
        return bytes_of(self._samples), self._rate

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._samples.extend(samples[:count])
        return 0


@cache
def _library() -> _Library:
    return _Library()
