"""Splits a text into pieces that are synthesized one after the other, so that the first is heard soon."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 300
"""The most characters of a piece, which bounds the memory and the time that one call of an engine takes."""

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"”’')\]]*\s+|\s*\n\s*|(?<=[。！？])")  # noqa: RUF001 # the full-width marks
# "Dr. Smith" and "J. K. Rowling" are no ends of sentences.
_ABBREVIATION = re.compile(r"\b([A-Z]|Dr|Mr|Mrs|Ms|Prof|St)\.$")
_PAUSE = re.compile(r"(?<=[,;:—])\s+")


def pieces_of(text: str, longest: int = LONGEST) -> Iterator[str]:
    """Yield the sentences of a text, and the parts of each sentence that is longer than ``longest`` characters."""
    at = 0
    for end in _SENTENCE_END.finditer(text):
        sentence = text[at : end.end()].strip()
        if _ABBREVIATION.search(sentence) and "\n" not in end.group():
            continue
        at = end.end()
        yield from _parts_of(sentence, longest)
    yield from _parts_of(text[at:].strip(), longest)


def _parts_of(sentence: str, longest: int) -> Iterator[str]:
    while len(sentence) > longest:
        head = sentence[:longest]
        pauses = [pause.start() for pause in _PAUSE.finditer(head)]
        cut = pauses[-1] if pauses else head.rfind(" ")
        if cut <= 0:
            cut = longest
        yield sentence[:cut].rstrip()
        sentence = sentence[cut:].lstrip()
    if sentence:
        yield sentence
