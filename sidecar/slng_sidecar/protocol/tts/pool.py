"""The upstream connections of a TTS session: which one may carry the next text, and when another one is opened.

Upstream's sound bears no label, so a line carries one unfinished part of a context at most, and takes the next one only
after that one's terminal and a moment of quiet.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from slng_sidecar.protocol.commands import Command, Dial, Retire, SendUpstream
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.reconnect import QUICK_SECONDS, Recovery
from slng_sidecar.protocol.tts.settings import Shape

QUIET = 0.1
"""Seconds without a message after a terminal before a line is used again (LiveKit's newest client's number)."""

# LiveKit's newest client waits this long for the acknowledgement of a clear.
_CLEARED_TIMEOUT = 1.0
# A clean close so soon after a turn is the route's manner (Rime's came after 20 ms), not an idle timeout.
_CLOSES_WITHIN = 1.0
# Routes of which it is recorded that a session takes one turn only.
_ONE_TURN = ("rime/", "soniox/tts-rt")


class LineState(enum.Enum):
    """What a line is there for."""

    OPENING = "opening"
    READY = "ready"  # takes the next part, once ``quiet_at`` is past
    BUSY = "busy"  # carries the part that is being said
    CLEARING = "clearing"  # its part was cleared; the acknowledgement is awaited


@dataclass(slots=True, eq=False)
class Line:
    """One upstream connection.

    Attributes:
        ready_at, turn_ended_at: when it became ready, and when a turn last ended on it; None before.
        quiet_at: when it may be used again.
        clear_by: when the acknowledgement of a clear is awaited no longer.
        clears_owed: how many ``cleared`` it has still to send, in order.
        cleared_turn_ended: whether a terminal came since the last clear.
        spent: whether it was seen to take one turn only, and had it.
    """

    number: int
    shape: Shape
    state: LineState = LineState.OPENING
    ready_at: float | None = None
    turn_ended_at: float | None = None
    quiet_at: float = 0.0
    clear_by: float | None = None
    clears_owed: int = 0
    cleared_turn_ended: bool = False
    spent: bool = False

    def __repr__(self) -> str:
        return f"{self.state.value} {self.number}"


class Lines:
    """All lines of a session that were dialled and neither lost nor retired.

    Mutable: ``_lines``, by number; ``_dialled``, how many there were; ``_one_turn``, models whose lines were seen to
    end with a turn; ``_recoveries`` and ``_redial_at``, for the shapes whose lines were lost.
    """

    def __init__(
        self,
        model: str,
        reconnect_seconds: float,
        rotate: float | None,
        jitter: Callable[[], float],
        counts: Counter[str],
        *,
        standby: bool = False,
    ) -> None:
        """Begin without a line.

        Args:
            standby: whether another connection may be at hand: then a part does not wait for a line that is being
                cleared, where another one is ready sooner.
        """
        self._model = model
        self._standby = standby
        self._reconnect_seconds = reconnect_seconds
        self._rotate = rotate
        self._jitter = jitter
        self._counts = counts
        self._lines: dict[int, Line] = {}
        self._dialled = 0
        self._one_turn: set[str] = set()
        self._recoveries: dict[Shape, Recovery] = {}
        self._redial_at: dict[Shape, float] = {}

    def __repr__(self) -> str:
        return ", ".join(map(repr, self._lines.values())) or "no line"

    def __iter__(self) -> Iterator[Line]:
        return iter(tuple(self._lines.values()))

    def get(self, number: int) -> Line | None:
        return self._lines.get(number)

    def recovery(self, shape: Shape) -> Recovery:
        """Give the policy of trying a shape again."""
        if shape not in self._recoveries:
            self._recoveries[shape] = Recovery(self._reconnect_seconds, self._jitter)
        return self._recoveries[shape]

    def deadline(self, needed: Iterable[Shape]) -> float | None:
        """Give when ``wake`` is due, or ``take`` may give a line for one of the shapes that are needed."""
        times = [line.clear_by for line in self._lines.values() if line.clear_by is not None]
        if self._rotate is not None:
            times += [
                line.ready_at + self._rotate
                for line in self._lines.values()
                if line.state is LineState.READY and line.ready_at is not None
            ]
        for shape in needed:
            lines = self._of(shape)
            times += [line.quiet_at for line in lines if line.state is LineState.READY]
            if not lines and shape in self._redial_at:
                times.append(self._redial_at[shape])
        return min(times, default=None)

    def wake(self, now: float) -> list[Command]:
        """Give up clears that are not acknowledged, and lines that are old."""
        commands: list[Command] = []
        for line in self:
            if line.clear_by is not None and now >= line.clear_by:
                if line.cleared_turn_ended:
                    # Some routes acknowledge by the turn's terminal only.
                    commands += self.free(line, now)
                else:
                    self._counts["clears_unanswered"] += 1
                    commands += self.retire(line)
            elif line.state is LineState.READY and self._is_old(line, now):
                commands += self.retire(line)
        return commands

    # Finding one

    def take(self, shape: Shape, now: float) -> tuple[Line | None, list[Command]]:
        """Give a line that may carry a part now, busy from here on; else what is to be done to get one."""
        for line in self._of(shape):
            if line.state is LineState.READY and now >= line.quiet_at:
                line.state = LineState.BUSY
                return line, []
        return None, self.bring(shape, now)

    def bring(self, shape: Shape, now: float) -> list[Command]:
        """See to it that there is a line, or will be."""
        waits = [line for line in self._of(shape) if not self._standby or line.state is not LineState.CLEARING]
        if waits or now < self._redial_at.get(shape, now):
            return []
        line = Line(self._dialled, shape)
        self._dialled += 1
        self._lines[line.number] = line
        return [Dial(line.number, shape.init, None if shape.model == self._model else shape.model)]

    def stands(self, shape: Shape) -> bool:
        """Tell whether upstream has taken this shape on a line that is still there."""
        return any(line.state is not LineState.OPENING for line in self._of(shape))

    def one_turn(self, shape: Shape) -> bool:
        """Tell whether a line of this shape ends with its turn: by its route, or as was seen."""
        name = shape.model.lower().removeprefix("slng/")
        return name.startswith(_ONE_TURN) or shape.model in self._one_turn

    # What becomes of one

    def ready(self, line: Line, now: float, since: float | None = None) -> None:
        """Note that upstream has taken its ``init``, ``since`` when where it was a spare."""
        line.state, line.ready_at, line.quiet_at = LineState.READY, now if since is None else since, now
        self.recovery(line.shape).ready()
        self._redial_at.pop(line.shape, None)

    def turn_ended(self, line: Line, now: float) -> list[Command]:
        """Note that its part was said."""
        line.turn_ended_at = now
        return self.free(line, now)

    def free(self, line: Line, now: float) -> list[Command]:
        """Let it be used again after some quiet, if it can be."""
        # Where a part did not wait for it, another one has taken its place.
        replaced = any(
            other is not line and other.state in (LineState.READY, LineState.BUSY) for other in self._of(line.shape)
        )
        if self.one_turn(line.shape) or self._is_old(line, now) or replaced:
            return self.retire(line)
        line.state, line.clear_by, line.quiet_at = LineState.READY, None, now + QUIET
        return []

    def disturbed(self, line: Line, now: float) -> None:
        """Let the quiet begin anew: something came that nobody waited for."""
        line.quiet_at = now + QUIET

    def clear(self, line: Line, now: float) -> list[Command]:
        """Interrupt the part that it carries; what still comes of that is nobody's."""
        if self.one_turn(line.shape):
            return self.retire(line)
        line.state, line.clear_by = LineState.CLEARING, now + _CLEARED_TIMEOUT
        line.clears_owed += 1
        line.cleared_turn_ended = False
        return [SendUpstream(line.number, dump({"type": "clear"}))]

    def cleared(self, line: Line, now: float) -> list[Command]:
        """Take upstream's acknowledgement of the oldest clear."""
        if not line.clears_owed:
            self._counts["stray_cleared"] += 1
            return []
        line.clears_owed -= 1
        return self.free(line, now) if line.state is LineState.CLEARING and not line.clears_owed else []

    def retire(self, line: Line) -> list[Command]:
        """Close it; nothing more is heard of it."""
        del self._lines[line.number]
        return [Retire(line.number)]

    def retire_others(self, shapes: set[Shape], *, opening: bool) -> list[Command]:
        """Close those that carry nothing and are of none of the shapes; ``opening``: also those not yet open."""
        kept = (LineState.BUSY,) if opening else (LineState.BUSY, LineState.OPENING)
        others = [line for line in self if line.state not in kept and line.shape not in shapes]
        return [command for line in others for command in self.retire(line)]

    def retire_all(self) -> list[Command]:
        return [command for line in self for command in self.retire(line)]

    def ended(self, line: Line, error: GatewayError, now: float) -> None:
        """Note that it is gone, and learn from the manner of its end."""
        del self._lines[line.number]
        if line.turn_ended_at is not None and now <= line.turn_ended_at + _CLOSES_WITHIN and closed_cleanly(error):
            self.spent(line)

    def spent(self, line: Line) -> None:
        """Remember that this line took one turn and no second one, and that others of its route will not either."""
        line.spent = True
        self._one_turn.add(line.shape.model)

    def plan_redial(self, line: Line, error: GatewayError, now: float) -> None:
        """Decide when a line that is gone, and needed, is dialled again.

        Raises:
            GatewayError: it is not; this is why.
        """
        lived = None if line.ready_at is None else now - line.ready_at
        if lived is not None and line.turn_ended_at is not None:
            lived = max(lived, QUICK_SECONDS)  # it did what it was there for
        self._redial_at[line.shape] = self.recovery(line.shape).lost(error, lived, now)

    def forget_others(self, shapes: set[Shape]) -> None:
        """Keep what is known of trying again for these shapes only."""
        for known in (self._recoveries, self._redial_at):
            for shape in known.keys() - shapes:
                del known[shape]

    def _of(self, shape: Shape) -> list[Line]:
        return [line for line in self._lines.values() if line.shape == shape]

    def _is_old(self, line: Line, now: float) -> bool:
        return self._rotate is not None and line.ready_at is not None and now >= line.ready_at + self._rotate
