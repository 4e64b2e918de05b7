"""Removes words that are transcribed a second time because their audio was sent again.

The sidecar removes such repeats when it loses its upstream. When the sidecar itself is lost, only the plugin knows
which words were already delivered. The module does no I/O and reads no clock.
"""

from __future__ import annotations

import re

_PUNCTUATION = re.compile(r"[^\w']+")
# More words than anybody speaks in the 30 s of audio that the plugin replays at most.
_MOST_WORDS = 120


class ReplayDeduplicator:
    """Removes from finals the words that were delivered before the connection was replaced.

    Mutable: ``_recent``, the delivered words whose audio may be replayed; ``_expected``, the words that the current
    connection may still repeat, or None if it can repeat none. Both hold words without case and punctuation.
    """

    def __init__(self) -> None:
        self._recent: list[str] = []
        self._expected: list[str] | None = None

    def record(self, text: str, *, is_exact: bool) -> None:
        """Record a delivered final.

        Args:
            text: the text that was delivered.
            is_exact: whether the sidecar's coverage includes all audio up to the last word, so that none is replayed.
        """
        self._recent = [] if is_exact else [*self._recent, *map(_plain, text.split())][-_MOST_WORDS:]

    def restart(self) -> None:
        """Expect repeats, because the connection was lost or a connection attempt failed."""
        self._expected = [*(self._expected or []), *self._recent][-_MOST_WORDS:] or None
        self._recent = []

    def remove_repeats(self, text: str) -> str:
        """Return a final's text without the words at its beginning that were delivered before."""
        if self._expected is None:
            return text
        words = text.split()
        plain = [_plain(word) for word in words]
        # The replay may begin within a word, which is then recognized as another word.
        for skip in (0, 1):
            for start in range(len(self._expected)):
                length = min(len(self._expected) - start, len(plain) - skip)
                if length > 0 and plain[skip : skip + length] == self._expected[start : start + length]:
                    self._expected = self._expected[start + length :] or None
                    return " ".join(words[skip + length :])
        # A single unknown word may be such a fragment or a new word, so it is delivered. The next final may still begin
        # with repeats.
        if len(words) > 1:
            self._expected = None
        return text


def _plain(word: str) -> str:
    return _PUNCTUATION.sub("", word).casefold()
