"""Words that a replay repeats: recognized by their likeness and removed."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from slng_sidecar.protocol.messages import Transcript

_MARKS = re.compile(r"[^\w']+")
# The longest replay holds fewer words.
_WORDS_COMPARED = 120
_WORDS_KEPT = 200


def plain_word(word: str) -> str:
    """Return a word without case and punctuation, for comparing."""
    return _MARKS.sub("", word).casefold()


class ReplayDeduplicator:
    """Removes from the finals of a segment the words that were delivered before its connection was replaced.

    Mutable: ``_recent``, the last words of its finals; ``_expected``, the plain words that a replay may repeat, None
    without a replay or once a new word came; ``_next``, the index of the word that must come next, once the finals
    were found to overlap with the expected words.
    """

    def __init__(self) -> None:
        self._recent: list[str] = []
        self._expected: list[str] | None = None
        self._next: int | None = None

    def __repr__(self) -> str:
        state = "no replay" if self._expected is None else f"{len(self._expected)} words expected"
        return f"ReplayDeduplicator({state})"

    @property
    def is_pending(self) -> bool:
        """Whether words may still come that were delivered before."""
        return self._expected is not None

    def restart(self, *, replays: bool) -> None:
        """Start another connection.

        Args:
            replays: whether it gets audio again whose words may have been delivered.
        """
        self._next = None
        self._expected = [plain_word(word) for word in self._recent[-_WORDS_COMPARED:]] if replays else None
        if not self._expected:
            self._expected = None

    def remove_repeats(self, message: Transcript) -> tuple[Transcript, int]:
        """Return a final without the words that were delivered before, and how many those are."""
        count = self._count_repeats(message.text)
        self._recent += message.text.split()[count:]
        del self._recent[:-_WORDS_KEPT]
        if not count:
            return message, 0
        raw: dict[str, Any] = {**message.raw, "transcript": without_first_words(message.text, count)}
        if isinstance(raw.get("words"), list):
            raw["words"] = raw["words"][count:]
        return replace(message, text=raw["transcript"], words=message.words[count:], raw=raw), count

    def _count_repeats(self, text: str) -> int:
        """Return how many of the first words were delivered before.

        A replay may begin within a word, which is then recognized as another one. A first word that is followed by
        expected words therefore counts as one of them.
        """
        words = [plain_word(word) for word in text.split()]
        if self._expected is None or not words:
            return 0
        for skip in (0, 1) if self._next is None else (0,):
            found = self._overlap(self._expected, words[skip:])
            if found:
                count = skip + found
                if count < len(words) or self._next == len(self._expected):
                    self._expected = None
                return count
        self._expected = None
        return 0

    def _overlap(self, expected: list[str], words: list[str]) -> int:
        """Return the length of the longest run of ``words`` that continues the expected ones up to either's end."""
        starts = range(len(expected)) if self._next is None else (self._next,)
        best, best_start = 0, 0
        for start in starts:
            rest = expected[start:]
            length = min(len(rest), len(words))
            if length > best and rest[:length] == words[:length]:
                best, best_start = length, start
        if best:
            self._next = best_start + best
        return best


def without_first_words(text: str, count: int) -> str:
    """Return a text without its first ``count`` words."""
    return text.split(None, count)[count] if len(text.split(None, count)) > count else ""
