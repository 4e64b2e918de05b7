"""Real voices and ears, offline: flite or eSpeak NG to speak, PocketSphinx to hear.

Everything here blocks and takes CPU; ``workers`` runs it beside the event loop.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
import wave
from array import array
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from slng_sidecar.engines.pcm import bytes_of, resample

RECOGNIZER_RATE = 16_000
"""What the recogniser's model hears."""

_FLITE_VOICE = "kal16"
_ESPEAK_VOICE = b"en-us+f5"
_SPEAK_TIMEOUT = 30
_FRAME_S = 0.02
# Speech begins with this much of the last 100 ms, so that a click is none.
_ONSET_FRAMES, _ONSET_WINDOW = 3, 5
_MARGIN_MS = 200
# A segment that nothing ends is cut here, so that memory and decoding stay bounded.
_MAX_SEGMENT_MS = 30_000

VoiceName = Literal["flite", "espeak"]


@dataclass(frozen=True, slots=True)
class RecognizedWord:
    """A recognised word; ``start`` and ``end`` in seconds from the first byte of the sound it was heard in."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechSegment:
    """Sound with speech in it, ``start_ms`` after the stream's first byte."""

    pcm: bytes
    rate: int
    start_ms: float


@cache
def voice_installed() -> VoiceName | None:
    """Tell which voice there is: flite, else eSpeak NG, else none; looked up once, as that reads the disk."""
    if shutil.which("flite"):
        return "flite"
    return "espeak" if find_spec("espeakng_loader") else None


@cache
def recognizer_installed() -> bool:
    """Tell whether there is a recogniser; looked up once."""
    return find_spec("pocketsphinx") is not None


def speak(text: str, rate: int = RECOGNIZER_RATE) -> bytes:
    """Say ``text``: 16-bit mono at ``rate`` samples a second.

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


def recognize(pcm: bytes, rate: int = RECOGNIZER_RATE, endpoint_ms: float = 300) -> str:
    """Recognise the speech in a whole piece of 16-bit mono sound.

    It is cut at its silences and decoded segment by segment as a session does, so the same sound gives the same words.

    Args:
        endpoint_ms: the silence that ends a segment, in milliseconds; 0 cuts only what is longer than 30 s.

    Raises:
        RuntimeError: no recogniser is installed.
    """
    segmenter = SpeechSegmenter(rate, endpoint_ms)
    segments = segmenter.feed(pcm)
    if (last := segmenter.cut()) is not None:
        segments.append(last)
    return " ".join(word.text for segment in segments for word in recognize_segment(segment))


def recognize_segment(segment: SpeechSegment) -> list[RecognizedWord]:
    """Recognise one segment whole.

    Raises:
        RuntimeError: no recogniser is installed.
    """
    decoder = _decoder()
    # The noise estimate starts anew, so that a segment's words do not depend on those decoded before it.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(resample(segment.pcm, segment.rate, RECOGNIZER_RATE), full_utt=True)
    decoder.end_utt()
    frames_a_second = 100
    first = segment.start_ms / 1000
    return [
        RecognizedWord(
            part.word.split("(")[0],
            round(first + part.start_frame / frames_a_second, 3),
            round(first + (part.end_frame + 1) / frames_a_second, 3),
            round(min(1.0, part.prob), 3),
        )
        for part in decoder.seg() or ()
        if part.word[0] not in "<["
    ]


class SpeechSegmenter:
    """Cuts a stream at its silences.

    Attributes:
        position_ms: how much was fed.
    """

    def __init__(self, rate: int, endpoint_ms: float) -> None:
        """Take the stream's rate, and the silence that ends a segment in milliseconds (0: nothing but ``cut`` does).

        Raises:
            RuntimeError: no recogniser is installed.
        """
        self._vad = _vad(rate)
        self._rate = rate
        self._frame = self._vad.frame_bytes
        self._frame_ms = self._frame / 2 / rate * 1000
        self._endpoint_ms = endpoint_ms
        self._margin = round(_MARGIN_MS / self._frame_ms) * self._frame
        self._rest = b""
        self._kept = bytearray()
        self._kept_from = 0  # the byte that self._kept begins with
        self._recent: list[bool] = []
        self._speech_end: int | None = None  # in bytes, while a segment is open

    @property
    def position_ms(self) -> float:
        return self._ms(self._kept_from + len(self._kept) + len(self._rest))

    @property
    def in_speech(self) -> bool:
        """Whether a segment is open."""
        return self._speech_end is not None

    def feed(self, pcm: bytes) -> list[SpeechSegment]:
        """Take more sound, and give the segments that ended in it."""
        data = self._rest + pcm
        whole = len(data) - len(data) % self._frame
        self._rest = data[whole:]
        frames = (data[at : at + self._frame] for at in range(0, whole, self._frame))
        return [segment for frame in frames if (segment := self._take(frame)) is not None]

    def so_far(self) -> SpeechSegment | None:
        """Give the open segment as far as it was heard; None where there is none."""
        return self._segment(self._end) if self.in_speech else None

    def cut(self) -> SpeechSegment | None:
        """End the open segment here; None where there is none."""
        if self._speech_end is None:
            return None
        # As at an endpoint: the silence after the last speech is the same length, whatever ended the segment.
        segment = self._segment(self._speech_end + self._margin)
        self._close(min(self._speech_end, self._end))
        return segment

    def _take(self, frame: bytes) -> SpeechSegment | None:
        self._kept += frame
        speech = self._vad.is_speech(frame)
        self._recent = [*self._recent[1 - _ONSET_WINDOW :], speech]
        if self._speech_end is None:
            if sum(self._recent) >= _ONSET_FRAMES:
                self._speech_end = self._end
            else:
                self._forget(self._end - self._margin - _ONSET_WINDOW * self._frame)
            return None
        if speech:
            self._speech_end = self._end
        silence = self._ms(self._end - self._speech_end)
        if (self._endpoint_ms and silence >= self._endpoint_ms) or self._ms(len(self._kept)) >= _MAX_SEGMENT_MS:
            return self.cut()
        return None

    @property
    def _end(self) -> int:
        return self._kept_from + len(self._kept)

    def _segment(self, until: int) -> SpeechSegment:
        pcm = bytes(self._kept[: until - self._kept_from])
        pcm += bytes(until - self._kept_from - len(pcm))
        return SpeechSegment(pcm, self._rate, self._ms(self._kept_from))

    def _close(self, at: int) -> None:
        self._speech_end = None
        self._recent = []
        self._forget(at)

    def _forget(self, before: int) -> None:
        if (count := before - self._kept_from) > 0:
            del self._kept[:count]
            self._kept_from += count

    def _ms(self, count: int) -> float:
        return count / 2 / self._rate * 1000


def prepare_recognizer() -> None:
    """Load the recogniser's model, which takes a third of a second."""
    _decoder()


@lru_cache(maxsize=1)
def _decoder() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise RuntimeError("No recogniser is installed: install slng-sidecar[simulator].") from None
    return Decoder(logfn="/dev/null", cmn="batch")


def _vad(rate: int) -> Any:
    try:
        from pocketsphinx import Vad
    except ImportError:
        raise RuntimeError("No recogniser is installed: install slng-sidecar[simulator].") from None
    return Vad(2, rate, _FRAME_S)


def _flite(text: str) -> tuple[bytes, int]:
    # The text goes by a file: arguments can be seen by everyone on the machine.
    with TemporaryDirectory(prefix="slng-simulator-") as folder:
        said, sound = Path(folder, "text"), Path(folder, "sound.wav")
        said.write_text(text, encoding="utf-8")
        command = ["flite", "-voice", _FLITE_VOICE, "-f", str(said), "-o", str(sound)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SPEAK_TIMEOUT)
        if done.returncode or not sound.exists():
            raise RuntimeError(f"flite failed: {done.stderr.decode(errors='replace')[:200]}")
        with wave.open(BytesIO(sound.read_bytes())) as file:
            return file.readframes(file.getnframes()), file.getframerate()


class _Espeak:
    """eSpeak NG's library, through its C interface (speak_lib.h). It has one state for the process, hence the lock."""

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
        # eSpeak NG makes the noise of breath at random, and takes the seed from the clock. With a fixed seed, processes
        # that say the same texts in the same order make the same sound.
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
