"""Words that come twice because their audio went up twice: what a lost connection had told already.

Pure. The sidecar takes such repeats out where upstream was lost; where the sidecar itself was lost, only this side
knows what it had told.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"[^\w']+")
# More than are spoken in the 30 s that go again at most.
_MOST_WORDS = 120


class ReplayDeduplicator:
    """What was told of audio that may go up again.

    ``_told`` is that, as words without case and marks. ``_due`` is what a new connection may repeat of it, from the
    place on that it has come to; ``None`` where it repeats nothing any more.
    """

    def __init__(self) -> None:
        self._told: list[str] = []
        self._due: list[str] | None = None

    def tell(self, text: str, *, done_with: bool) -> None:
        """Note a final; ``done_with`` where all audio up to its last word is known to be covered."""
        self._told = [] if done_with else [*self._told, *map(_plain, text.split())][-_MOST_WORDS:]

    def lost(self) -> None:
        """Hear that the connection was lost, or was not had: what was told may come again."""
        self._due = [*(self._due or []), *self._told][-_MOST_WORDS:] or None
        self._told = []

    def new_part(self, text: str) -> str:
        """Give a final without the words at its beginning that were told before."""
        if self._due is None:
            return text
        words = text.split()
        plain = [_plain(word) for word in words]
        # The replay may begin within a word, which is then heard as another one.
        for skip in (0, 1):
            for start in range(len(self._due)):
                length = min(len(self._due) - start, len(plain) - skip)
                if length > 0 and plain[skip : skip + length] == self._due[start : start + length]:
                    self._due = self._due[start + length :] or None
                    return " ".join(words[skip + length :])
        # A single word may be such a piece on its own; it cannot be told from a new one, and is given.
        if len(words) > 1:
            self._due = None
        return text


def _plain(word: str) -> str:
    return _MARKS.sub("", word).casefold()
