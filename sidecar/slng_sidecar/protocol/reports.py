"""What sessions report for metrics, traces, the status and timing headers: sizes and times, never words."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

_MOST_REPORTS = 1000


@dataclass(frozen=True, slots=True)
class TurnReport:
    """A context that has ended, or a finalize that was answered. Times are the machine's.

    Attributes:
        what: which of the two.
        outcome: of a context ``completed``, ``cleared``, ``failed`` or ``abandoned``; of a finalize ``final``,
            ``empty``, ``dropped`` or ``timeout``.
        began: when its first text, or the finalize, came.
        first_audio: when its first audio came; None for a finalize.
        characters: the length of its texts.
        audio_seconds: the length of its audio; 0 if it is compressed, since its length is then unknown.
    """

    what: Literal["context", "finalize"]
    outcome: str
    began: float
    first_audio: float | None = None
    characters: int = 0
    audio_seconds: float = 0.0


def new_reports() -> deque[TurnReport]:
    """Return an empty queue of reports, which drops the oldest once the shell does not read it."""
    return deque(maxlen=_MOST_REPORTS)


StandbyResult = Literal["ready", "opening", "new_shape", "taken", "paused"]
"""What a session found when it needed a connection: a standby connection that was ready or opening, or why none.

``new_shape``: none with these settings was held; ``taken``: other sessions had them all; ``paused``: one failed to open
just before.
"""


class UpstreamObserver:
    """Follows the upstream connections of a session or a request. Every method does nothing unless overridden.

    Times are seconds of the event loop's clock. No method gets a key, a text or a transcript.
    """

    def dialled(self) -> None:
        """Handle the start of a dial."""

    def joined(self) -> None:
        """Handle the use of a standby connection that is still opening, in place of a dial."""

    def opened(self) -> None:
        """Handle the end of the dial: the connection is open, and upstream is asked for a session."""

    def ready(self, seconds: float) -> None:
        """Handle upstream's ``ready``, or its answer to a request, ``seconds`` after the dial."""

    def not_opened(self, code: str) -> None:
        """Handle a connection that did not get ready, with the code of the error."""

    def lost(self, cause: str) -> None:
        """Handle the end of a ready connection: ``closed`` for a clean close, else the code of the error."""

    def standby_used(self, result: StandbyResult) -> None:
        """Handle what a session found in standby when it needed a connection."""

    def turn(self, report: TurnReport, now: float) -> None:
        """Handle the end of a context or the answer to a finalize."""

    def progress(self, counts: Counter[str], audio_seconds: float) -> None:
        """Handle the session's present counts and the seconds of audio that its client sent."""
