"""Recognition of English speech with PocketSphinx, and the alignment of known words to their sound.

PocketSphinx is small and installs everywhere, but understands only clear speech. ``moonshine`` uses its alignment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from slng_sidecar.engines.interface import RecognizedWord, SpeechSegment
from slng_sidecar.engines.pcm import resample

NAME = "pocketsphinx"
TITLE = "PocketSphinx"

RATE = 16_000
"""The sample rate of the model, in Hz."""

_FRAMES_A_SECOND = 100
# Rough pronunciations, in the phones of the model, of the letters and digits of a word that its dictionary lacks. They
# are good enough to find where the word is.
_PHONES = {
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K",
    "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V",
    "w": "W", "x": "K S", "y": "IY", "z": "Z", "0": "Z IH R OW", "1": "W AH N", "2": "T UW", "3": "TH R IY",
    "4": "F AO R", "5": "F AY V", "6": "S IH K S", "7": "S EH V AH N", "8": "EY T", "9": "N AY N",
}  # fmt: skip


@cache
def installed() -> bool:
    """Return whether PocketSphinx is installed."""
    return find_spec("pocketsphinx") is not None


def languages() -> frozenset[str]:
    """Return English, the language of the model in the package."""
    return frozenset({"en"})


def load() -> None:
    """Load the recognizer's model, which takes a third of a second."""
    _decoder()


def recognize(segment: SpeechSegment) -> list[RecognizedWord]:
    """Return the words of one segment. A word's confidence is its posterior probability in the lattice."""
    decoder = _decoder()
    _decode(decoder, resample(segment.pcm, segment.rate, RATE))
    first = segment.start_ms / 1000
    return [
        RecognizedWord(
            part.word.split("(")[0],
            round(first + part.start_frame / _FRAMES_A_SECOND, 3),
            round(first + (part.end_frame + 1) / _FRAMES_A_SECOND, 3),
            round(min(1.0, part.prob), 3),
        )
        for part in decoder.seg() or ()
        if part.word[0] not in "<["
    ]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where known words are in their sound.

    Attributes:
        times: the start and the end of each word, in seconds.
        fit: how well the words fit the sound: the logarithm of the acoustic score, per frame of a word. The best
            possible value is 0, and PocketSphinx scores each frame relative to the best sound that it knows.
    """

    times: tuple[tuple[float, float], ...]
    fit: float


def align(pcm: bytes, words: Sequence[str]) -> Alignment | None:
    """Find words in their sound.

    Args:
        pcm: 16-bit mono PCM at ``RATE`` Hz.
        words: words in any spelling, each with a letter or a digit.

    Returns:
        None if the words cannot have made this sound.
    """
    decoder = _aligner()
    spelled = [_in_dictionary(decoder, word) for word in words]
    try:
        decoder.set_align_text(" ".join(spelled))
        _decode(decoder, pcm)
    except RuntimeError:  # PocketSphinx raises it where the search finds no path.
        return None
    parts = [part for part in decoder.seg() or () if part.word[0] not in "<[("]
    if not words or len(parts) != len(words):
        return None
    frames = sum(part.end_frame + 1 - part.start_frame for part in parts)
    fit = sum(math.log(max(part.ascore, 1e-300)) for part in parts) / frames
    times = ((part.start_frame / _FRAMES_A_SECOND, (part.end_frame + 1) / _FRAMES_A_SECOND) for part in parts)
    return Alignment(tuple(times), fit)


def _in_dictionary(decoder: Any, word: str) -> str:
    """Return the spelling of a word in the dictionary, to which it is added if it is missing."""
    spelled = "".join(letter for letter in word.lower().replace("\u2019", "'") if letter.isalnum() or letter == "'")
    spelled = spelled.strip("'")
    if decoder.lookup_word(spelled) is None:
        phones = " ".join(_PHONES.get(letter, "AH") for letter in spelled if letter != "'")
        decoder.add_word(spelled, phones, update=True)
    return spelled


def _decode(decoder: Any, pcm: bytes) -> None:
    # The noise estimate starts anew, so that a segment's words do not depend on the segments before it.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


@cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(logfn="/dev/null", cmn="batch")


@cache
def _aligner() -> Any:
    from pocketsphinx import Decoder

    # With wider beams, and the default ones are wider, some alignments lack the last words of clear speech.
    return Decoder(logfn="/dev/null", cmn="batch", lm=None, beam=1e-20, pbeam=1e-20, wbeam=1e-14)
