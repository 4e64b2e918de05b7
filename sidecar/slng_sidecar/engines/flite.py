"""English speech with the program flite, if it is on the path."""

from __future__ import annotations

import shutil
import subprocess
import wave
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from slng_sidecar.engines.interface import Timbre
from slng_sidecar.engines.pcm import resample

NAME = "flite"
TITLE = "flite"

# PocketSphinx understands the first best.
_VOICES: dict[Timbre, str] = {"neutral": "kal16", "deep": "rms", "bright": "slt"}
_TIMEOUT = 30


@cache
def installed() -> bool:
    """Return whether flite is on the path."""
    return shutil.which("flite") is not None


def languages() -> frozenset[str]:
    """Return English."""
    return frozenset({"en"})


def load() -> None:
    """Do nothing: a process speaks each text."""


def speak(text: str, language: str, timbre: Timbre, rate: int) -> bytes:
    """Return a text as 16-bit mono PCM at ``rate`` Hz.

    Raises:
        RuntimeError: flite failed.
    """
    # The text is passed in a file, because everyone on the machine can see the arguments of a process.
    with TemporaryDirectory(prefix="slng-simulator-") as folder:
        text_file, wav_file = Path(folder, "text"), Path(folder, "speech.wav")
        text_file.write_text(text, encoding="utf-8")
        command = ["flite", "-voice", _VOICES[timbre], "-f", str(text_file), "-o", str(wav_file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT)
        if done.returncode or not wav_file.exists():
            raise RuntimeError(f"flite failed: {done.stderr.decode(errors='replace')[:200]}")
        with wave.open(BytesIO(wav_file.read_bytes())) as file:
            return resample(file.readframes(file.getnframes()), file.getframerate(), rate)
