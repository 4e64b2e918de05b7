"""Offline voices: flite, or eSpeak NG.

Everything here blocks and takes CPU time. ``workers`` runs it beside the event loop.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import wave
from array import array
from functools import cache, lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from slng_sidecar.engines.pcm import bytes_of, resample

DEFAULT_RATE = 16_000

_FLITE_VOICE = "kal16"
_ESPEAK_VOICE = b"en-us+f5"
_SPEAK_TIMEOUT = 30

VoiceName = Literal["flite", "espeak"]


@cache
def voice_installed() -> VoiceName | None:
    """Return the voice that is installed: flite, otherwise eSpeak NG, otherwise None. The answer is cached."""
    if shutil.which("flite"):
        return "flite"
    return "espeak" if find_spec("espeakng_loader") else None


def speak(text: str, rate: int = DEFAULT_RATE) -> bytes:
    """Return a text as 16-bit mono PCM at ``rate`` Hz.

    Raises:
        RuntimeError: no voice is installed, or it failed.
    """
    match voice_installed():
        case "flite":
            pcm, own_rate = _flite(text)
        case "espeak":
            pcm, own_rate = _espeak().say(text)
        case None:
            raise RuntimeError("No voice is installed: install flite, or slng-sidecar[simulator].")
    return resample(pcm, own_rate, rate)


def _flite(text: str) -> tuple[bytes, int]:
    # The text is passed in a file, because everyone on the machine can see the arguments of a process.
    with TemporaryDirectory(prefix="slng-simulator-") as folder:
        text_file, wav_file = Path(folder, "text"), Path(folder, "speech.wav")
        text_file.write_text(text, encoding="utf-8")
        command = ["flite", "-voice", _FLITE_VOICE, "-f", str(text_file), "-o", str(wav_file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SPEAK_TIMEOUT)
        if done.returncode or not wav_file.exists():
            raise RuntimeError(f"flite failed: {done.stderr.decode(errors='replace')[:200]}")
        with wave.open(BytesIO(wav_file.read_bytes())) as file:
            return file.readframes(file.getnframes()), file.getframerate()


class _Espeak:
    """eSpeak NG's library, through its C interface (speak_lib.h). A lock protects its one state."""

    _RETRIEVAL = 1
    _UTF8 = 1
    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._lock = threading.Lock()
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
        self._library.espeak_SetVoiceByName(_ESPEAK_VOICE)

    def say(self, text: str) -> tuple[bytes, int]:
        encoded = text.encode()
        with self._lock:
            self._samples = array("h")
            failed = self._library.espeak_Synth(
                encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, self._UTF8, None, None
            )
            if failed:
                raise RuntimeError("eSpeak NG failed")
            self._library.espeak_Synchronize()
            return bytes_of(self._samples), self._rate

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._samples.extend(samples[:count])
        return 0


@lru_cache(maxsize=1)
def _espeak() -> _Espeak:
    return _Espeak()
