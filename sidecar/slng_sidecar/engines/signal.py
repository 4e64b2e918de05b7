"""The numbered signal: audio that spells numbered words, so that a test sees exactly what was lost, repeated or moved.

A word is 5 to 25 frames of 20 ms; some words are followed by frames of silence. Every frame carries 64 bits: 16 of a
mark, 20 of the word's number, 6 of the frame's index in the word, 6 of the word's frame count, and 16 of a checksum,
highest bit first. A bit is a run of equal samples, positive for 1 and negative for 0. The rest of the frame is silence.
Both bytes of a sample carry the sign, so audio that lost an odd byte, or that was cut at any sample, is readable from
the next whole frame on. The level survives mu-law and A-law.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

FRAME_MS = 20
"""The length of a frame, in milliseconds."""

MIN_FRAMES, MAX_FRAMES = 5, 25
MAX_NUMBER = (1 << 20) - 1
FIRST_RUNNING_NUMBER = 500_000
"""The number of the first word that does not have the form ``n17``."""

_BITS = 64
_MARK = 0b1111_1110_0001_0110
_MARK_BITS = 16
_LEVEL = 0x2020
_HIGH = _LEVEL.to_bytes(2, "little")
_LOW = (-_LEVEL).to_bytes(2, "little", signed=True)
_TOKEN = re.compile(r"n(\d{1,7})[.,;:!?]*", re.IGNORECASE)
# A sample's high byte becomes "1", "0" or, near silence, "_".
_SIGNS = bytes(ord("1") if 4 <= byte < 128 else ord("0") if 128 <= byte < 252 else ord("_") for byte in range(256))


@dataclass(frozen=True, slots=True)
class SignalWord:
    """A word to encode.

    Attributes:
        number: 0 to ``MAX_NUMBER``.
        frames: its length in frames of 20 ms, 5 to 25; None for the length of ``frames_of``.
        gap: frames of silence after it.
    """

    number: int
    frames: int | None = None
    gap: int = 0


@dataclass(frozen=True, slots=True)
class DecodedWord:
    """A word that was decoded, whole or in part.

    Attributes:
        number: the word's number.
        frames: how many of its frames were decoded.
        count: how many frames it has.
        whole: whether all frames came, in order and without a break.
        start_ms: where it starts, from the first byte of the audio.
        end_ms: where it ends.
    """

    number: int
    frames: int
    count: int
    whole: bool
    start_ms: float
    end_ms: float

    @property
    def text(self) -> str:
        """``n17`` for a whole word, ``frag:17`` for a part of one."""
        return f"n{self.number}" if self.whole else f"frag:{self.number}"


def frames_of(number: int) -> int:
    """Return the length of a word in frames, unless another one is asked for."""
    return MIN_FRAMES + number * 7 % (MAX_FRAMES - MIN_FRAMES + 1)


def encode(words: Iterable[SignalWord | int], rate: int = 16_000) -> bytes:
    """Return words as 16-bit mono PCM.

    Args:
        words: a plain number is a word of its usual length without a gap after it.
        rate: the sample rate in Hz, at least 8000.

    Raises:
        ValueError: a number, a length or the rate is out of range.
    """
    return b"".join(_encode_word(SignalWord(word) if isinstance(word, int) else word, rate) for word in words)


def words_of_text(text: str, first: int = FIRST_RUNNING_NUMBER) -> list[SignalWord]:
    """Turn each token of a text into a word: ``n17`` into number 17, any other into a running number.

    Every third number has two frames of silence after it.

    Args:
        first: the number of the first token that does not have the form ``n17``.
    """
    words = []
    for token in text.split():
        match = _TOKEN.fullmatch(token)
        if match and int(match[1]) <= MAX_NUMBER:
            number = int(match[1])
        else:
            number, first = first, first + 1
        words.append(SignalWord(number, gap=2 if number % 3 == 0 else 0))
    return words


def decode(sound: bytes, rate: int = 16_000) -> list[DecodedWord]:
    """Return all words in one piece of audio."""
    decoder = Decoder(rate)
    return decoder.feed(sound) + decoder.end()


class Decoder:
    """Decodes words from audio that comes in pieces of any length.

    Attributes:
        position_ms: milliseconds of audio that were fed.
        last_frame_ms: where the last decoded frame ended; 0 before any.
    """

    def __init__(self, rate: int = 16_000) -> None:
        self._run = _run_of(rate)
        self._frame = rate * FRAME_MS // 1000
        self._rate = rate
        self._mark = "".join(bit * self._run for bit in f"{_MARK:0{_MARK_BITS}b}").encode()
        self._signs = bytearray()
        self._first = 0  # the sample that self._signs begins with
        self._odd = b""
        self._word: _Open | None = None
        self.last_frame_ms = 0.0

    @property
    def position_ms(self) -> float:
        """Milliseconds of audio that were fed."""
        return self._ms(self._first + len(self._signs))

    @property
    def in_word(self) -> bool:
        """Whether a word has started and not ended."""
        return self._word is not None

    def feed(self, audio: bytes) -> list[DecodedWord]:
        """Decode more audio, and return the words that ended in it."""
        audio = self._odd + audio
        self._odd = audio[len(audio) & ~1 :]
        self._signs += audio[1::2].translate(_SIGNS)
        decoded: list[DecodedWord] = []
        at = 0
        spoken = _BITS * self._run
        while True:
            found = self._signs.find(self._mark, at)
            if found < 0 or found + spoken > len(self._signs):
                break
            frame = self._read(found)
            if frame is None:
                at = found + 1
                continue
            decoded += self._take(*frame, start=self._first + found)
            at = found + spoken
        # Samples that can no longer start a frame are dropped. The end may be the start of a mark.
        keep_from = found if found >= 0 else max(at, len(self._signs) - len(self._mark) + 1)
        del self._signs[:keep_from]
        self._first += keep_from
        return decoded + self._give_up(self._first)

    def end(self) -> list[DecodedWord]:
        """End the audio, and return a word that had only started, as a fragment."""
        decoded = [self._word.decoded(self._ms, whole=False)] if self._word else []
        self._word = None
        return decoded

    def _read(self, at: int) -> tuple[int, int, int] | None:
        middle = self._run // 2
        bits = bytes(self._signs[at + middle : at + _BITS * self._run : self._run])
        if b"_" in bits:
            return None
        value = int(bits, 2)
        body, checksum = value >> 16 & 0xFFFF_FFFF, value & 0xFFFF
        if _checksum(body) != checksum:
            return None
        return body >> 12, body >> 6 & 0x3F, body & 0x3F

    def _take(self, number: int, index: int, count: int, *, start: int) -> list[DecodedWord]:
        decoded = []
        word = self._word
        if word and not word.continued_by(number, index, count, start, self._frame):
            decoded.append(word.decoded(self._ms, whole=False))
            word = None
        if word is None:
            word = self._word = _Open(number, index, count, start)
        word.take(index, start + self._frame)
        self.last_frame_ms = self._ms(word.end)
        if index == count - 1:
            decoded.append(word.decoded(self._ms, whole=word.frames == count))
            self._word = None
        return decoded

    def _give_up(self, reached: int) -> list[DecodedWord]:
        """End a word whose next frame should have come by now."""
        if self._word and reached - self._word.end > 2 * self._frame:
            return self.end()
        return []

    def _ms(self, sample: int) -> float:
        return sample * 1000 / self._rate


class _Open:
    """A word that has started."""

    def __init__(self, number: int, index: int, count: int, start: int) -> None:
        self.number, self.count = number, count
        self.start = self.end = start
        self.next = index
        self.frames = 0

    def continued_by(self, number: int, index: int, count: int, start: int, frame: int) -> bool:
        same = (number, count, index) == (self.number, self.count, self.next)
        return same and abs(start - self.end) <= frame // 2

    def take(self, index: int, end: int) -> None:
        self.frames += 1
        self.next = index + 1
        self.end = end

    def decoded(self, ms: Callable[[int], float], *, whole: bool) -> DecodedWord:
        return DecodedWord(self.number, self.frames, self.count, whole, ms(self.start), ms(self.end))


def _encode_word(word: SignalWord, rate: int) -> bytes:
    count = frames_of(word.number) if word.frames is None else word.frames
    if not 0 <= word.number <= MAX_NUMBER:
        raise ValueError(f"a word's number is 0 to {MAX_NUMBER}, not {word.number}")
    if not MIN_FRAMES <= count <= MAX_FRAMES or word.gap < 0:
        raise ValueError(f"a word has {MIN_FRAMES} to {MAX_FRAMES} frames and a gap of 0 or more, not {word}")
    frames = (_encode_frame(word.number, index, count, rate) for index in range(count))
    return b"".join(frames) + bytes(2 * word.gap * (rate * FRAME_MS // 1000))


def _encode_frame(number: int, index: int, count: int, rate: int) -> bytes:
    body = number << 12 | index << 6 | count
    value = _MARK << 48 | body << 16 | _checksum(body)
    run = _run_of(rate)
    audio = b"".join((_HIGH if bit == "1" else _LOW) * run for bit in f"{value:0{_BITS}b}")
    return audio + bytes(2 * (rate * FRAME_MS // 1000) - len(audio))


def _checksum(body: int) -> int:
    return zlib.crc32(body.to_bytes(4, "big")) & 0xFFFF


def _run_of(rate: int) -> int:
    """Return the samples of one bit. 64 bits fill about 16 of a frame's 20 ms."""
    if rate < 8000:
        raise ValueError(f"the signal needs 8000 samples a second or more, not {rate}")
    return rate // 4000
