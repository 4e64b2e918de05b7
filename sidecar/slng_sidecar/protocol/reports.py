"""What a session machine reports of itself, for metrics and traces: sizes and times, never words."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

_MOST = 1000


@dataclass(frozen=True, slots=True)
class TurnReport:
    """A context that has ended, or a finalize that was answered.

    Attributes:
        outcome: of a context ``completed``, ``cleared``, ``failed`` or ``abandoned``; of a finalize ``final``,
            ``empty``, ``dropped`` or ``timeout``.
        began: when its first text, or the finalize, came.
        first_sound: when its first sound came; of a finalize never.
        characters: of its texts.
        audio_seconds: of its sound; 0 where that cannot be told, as it is compressed.
    """

    what: Literal["context", "finalize"]
    outcome: str
    began: float
    first_sound: float | None = None
    characters: int = 0
    audio_seconds: float = 0.0


def new_reports() -> deque[TurnReport]:
    """Give the place where a machine leaves its turns until the shell takes them."""
    return deque(maxlen=_MOST)
