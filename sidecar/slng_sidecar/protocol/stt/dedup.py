"""Words said twice where audio was replayed: recognised by their likeness, and taken out."""

from __future__ import annotations

import re

_MARKS = re.compile(r"[^\w']+")
# So many words fit into the longest replay.
TAIL_WORDS = 120


def plain_word(word: str) -> str:
    """Give a word without case and punctuation, for comparing."""
    return _MARKS.sub("", word).casefold()


class ReplayDeduplicator:
    """What had been told when a connection was lost, held against what its successor tells.

    Only ``_next`` is mutable: which of the told words is to come next, once the two were found to overlap.
    """

    def __init__(self, told: list[str]) -> None:
        self._told = [plain_word(word) for word in told[-TAIL_WORDS:]]
        self._next: int | None = None
        self.over = not self._told

    def __repr__(self) -> str:
        return f"Seam({len(self._told)} words, {'over' if self.over else self._next})"

    def repeated(self, text: str) -> int:
        """Give how many of a final's first words were told before; the seam is over with the first new word.

        The replay may begin within a word, which is then heard as another one: a first word that is followed by told
        ones belongs to them.
        """
        words = [plain_word(word) for word in text.split()]
        if self.over or not words:
            return 0
        for skip in (0, 1) if self._next is None else (0,):
            found = self._overlap(words[skip:])
            if found:
                count = skip + found
                self.over = count < len(words) or self._next == len(self._told)
                return count
        self.over = True
        return 0

    def _overlap(self, words: list[str]) -> int:
        """Give the longest run of words that continues the told ones, up to either's end."""
        starts = range(len(self._told)) if self._next is None else (self._next,)
        best, best_start = 0, 0
        for start in starts:
            rest = self._told[start:]
            length = min(len(rest), len(words))
            if length > best and rest[:length] == words[:length]:
                best, best_start = length, start
        if best:
            self._next = best_start + best
        return best


def without_first_words(text: str, count: int) -> str:
    """Give a text without its first words."""
    return text.split(None, count)[count] if len(text.split(None, count)) > count else ""
