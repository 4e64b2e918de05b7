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
from slng_sidecar.protocol.reconnect import QUICK_SECONDS, ReconnectPolicy
from slng_sidecar.protocol.tts.settings import ConnectionKey

QUIET = 0.1
"""Seconds without a message after a terminal before a line is used again (LiveKit's newest client's number)."""

# LiveKit's newest client waits this long for the acknowledgement of a clear.
_CLEARED_TIMEOUT = 1.0
# A clean close so soon after a turn is the route's manner (Rime's came after 20 ms), not an idle timeout.
_CLOSES_WITHIN = 1.0
# Routes of which it is recorded that a session takes one turn only.
_ONE_TURN = ("rime/", "soniox/tts-rt")


class PooledState(enum.Enum):
    """What a line is there for."""

    OPENING = "opening"
    READY = "ready"  # takes the next part, once ``quiet_at`` is past
    BUSY = "busy"  # carries the part that is being said
    CLEARING = "clearing"  # its part was cleared; the acknowledgement is awaited


@dataclass(slots=True, eq=False)
class PooledConnection:
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
    key: ConnectionKey
    state: PooledState = PooledState.OPENING
    ready_at: float | None = None
    turn_ended_at: float | None = None
    quiet_at: float = 0.0
    clear_by: float | None = None
    clears_owed: int = 0
    cleared_turn_ended: bool = False
    spent: bool = False

    def __repr__(self) -> str:
        return f"{self.state.value} {self.number}"


class ConnectionPool:
    """All lines of a session that were dialled and neither lost nor retired.

    Mutable: ``_connections``, by number; ``_dialled``, how many there were; ``_one_turn``, models whose lines were seen
    to end with a turn; ``_recoveries`` and ``_redial_at``, for the shapes whose lines were lost.
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
        self._connections: dict[int, PooledConnection] = {}
        self._dialled = 0
        self._one_turn: set[str] = set()
        self._recoveries: dict[ConnectionKey, ReconnectPolicy] = {}
        self._redial_at: dict[ConnectionKey, float] = {}

    def __repr__(self) -> str:
        return ", ".join(map(repr, self._connections.values())) or "no line"

    def __iter__(self) -> Iterator[PooledConnection]:
        return iter(tuple(self._connections.values()))

    def get(self, number: int) -> PooledConnection | None:
        return self._connections.get(number)

    def recovery(self, key: ConnectionKey) -> ReconnectPolicy:
        """Give the policy of trying a shape again."""
        if key not in self._recoveries:
            self._recoveries[key] = ReconnectPolicy(self._reconnect_seconds, self._jitter)
        return self._recoveries[key]

    def deadline(self, needed: Iterable[ConnectionKey]) -> float | None:
        """Give when ``wake`` is due, or ``take`` may give a line for one of the shapes that are needed."""
        times = [pooled.clear_by for pooled in self._connections.values() if pooled.clear_by is not None]
        if self._rotate is not None:
            times += [
                pooled.ready_at + self._rotate
                for pooled in self._connections.values()
                if pooled.state is PooledState.READY and pooled.ready_at is not None
            ]
        for key in needed:
            pool = self._of(key)
            times += [pooled.quiet_at for pooled in pool if pooled.state is PooledState.READY]
            if not pool and key in self._redial_at:
                times.append(self._redial_at[key])
        return min(times, default=None)

    def wake(self, now: float) -> list[Command]:
        """Give up clears that are not acknowledged, and lines that are old."""
        commands: list[Command] = []
        for pooled in self:
            if pooled.clear_by is not None and now >= pooled.clear_by:
                if pooled.cleared_turn_ended:
                    # Some routes acknowledge by the turn's terminal only.
                    commands += self.free(pooled, now)
                else:
                    self._counts["clears_unanswered"] += 1
                    commands += self.retire(pooled)
            elif pooled.state is PooledState.READY and self._is_old(pooled, now):
                commands += self.retire(pooled)
        return commands

    # Finding one

    def take(self, key: ConnectionKey, now: float) -> tuple[PooledConnection | None, list[Command]]:
        """Give a line that may carry a part now, busy from here on; else what is to be done to get one."""
        for pooled in self._of(key):
            if pooled.state is PooledState.READY and now >= pooled.quiet_at:
                pooled.state = PooledState.BUSY
                return pooled, []
        return None, self.bring(key, now)

    def bring(self, key: ConnectionKey, now: float) -> list[Command]:
        """See to it that there is a line, or will be."""
        waits = [pooled for pooled in self._of(key) if not self._standby or pooled.state is not PooledState.CLEARING]
        if waits or now < self._redial_at.get(key, now):
            return []
        pooled = PooledConnection(self._dialled, key)
        self._dialled += 1
        self._connections[pooled.number] = pooled
        return [Dial(pooled.number, key.init, None if key.model == self._model else key.model)]

    def stands(self, key: ConnectionKey) -> bool:
        """Tell whether upstream has taken this shape on a line that is still there."""
        return any(pooled.state is not PooledState.OPENING for pooled in self._of(key))

    def one_turn(self, key: ConnectionKey) -> bool:
        """Tell whether a line of this shape ends with its turn: by its route, or as was seen."""
        name = key.model.lower().removeprefix("slng/")
        return name.startswith(_ONE_TURN) or key.model in self._one_turn

    # What becomes of one

    def ready(self, pooled: PooledConnection, now: float, since: float | None = None) -> None:
        """Note that upstream has taken its ``init``, ``since`` when where it was a spare."""
        pooled.state, pooled.ready_at, pooled.quiet_at = PooledState.READY, now if since is None else since, now
        self.recovery(pooled.key).ready()
        self._redial_at.pop(pooled.key, None)

    def turn_ended(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Note that its part was said."""
        pooled.turn_ended_at = now
        return self.free(pooled, now)

    def free(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Let it be used again after some quiet, if it can be."""
        # Where a part did not wait for it, another one has taken its place.
        replaced = any(
            other is not pooled and other.state in (PooledState.READY, PooledState.BUSY)
            for other in self._of(pooled.key)
        )
        if self.one_turn(pooled.key) or self._is_old(pooled, now) or replaced:
            return self.retire(pooled)
        pooled.state, pooled.clear_by, pooled.quiet_at = PooledState.READY, None, now + QUIET
        return []

    def disturbed(self, pooled: PooledConnection, now: float) -> None:
        """Let the quiet begin anew: something came that nobody waited for."""
        pooled.quiet_at = now + QUIET

    def clear(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Interrupt the part that it carries; what still comes of that is nobody's."""
        if self.one_turn(pooled.key):
            return self.retire(pooled)
        pooled.state, pooled.clear_by = PooledState.CLEARING, now + _CLEARED_TIMEOUT
        pooled.clears_owed += 1
        pooled.cleared_turn_ended = False
        return [SendUpstream(pooled.number, dump({"type": "clear"}))]

    def cleared(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Take upstream's acknowledgement of the oldest clear."""
        if not pooled.clears_owed:
            self._counts["stray_cleared"] += 1
            return []
        pooled.clears_owed -= 1
        return self.free(pooled, now) if pooled.state is PooledState.CLEARING and not pooled.clears_owed else []

    def retire(self, pooled: PooledConnection) -> list[Command]:
        """Close it; nothing more is heard of it."""
        del self._connections[pooled.number]
        return [Retire(pooled.number)]

    def retire_others(self, keys: set[ConnectionKey], *, opening: bool) -> list[Command]:
        """Close those that carry nothing and are of none of the shapes; ``opening``: also those not yet open."""
        kept = (PooledState.BUSY,) if opening else (PooledState.BUSY, PooledState.OPENING)
        others = [pooled for pooled in self if pooled.state not in kept and pooled.key not in keys]
        return [command for pooled in others for command in self.retire(pooled)]

    def retire_all(self) -> list[Command]:
        return [command for pooled in self for command in self.retire(pooled)]

    def ended(self, pooled: PooledConnection, error: GatewayError, now: float) -> None:
        """Note that it is gone, and learn from the manner of its end."""
        del self._connections[pooled.number]
        if pooled.turn_ended_at is not None and now <= pooled.turn_ended_at + _CLOSES_WITHIN and closed_cleanly(error):
            self.spent(pooled)

    def spent(self, pooled: PooledConnection) -> None:
        """Remember that this line took one turn and no second one, and that others of its route will not either."""
        pooled.spent = True
        self._one_turn.add(pooled.key.model)

    def plan_redial(self, pooled: PooledConnection, error: GatewayError, now: float) -> None:
        """Decide when a line that is gone, and needed, is dialled again.

        Raises:
            GatewayError: it is not; this is why.
        """
        lived = None if pooled.ready_at is None else now - pooled.ready_at
        if lived is not None and pooled.turn_ended_at is not None:
            lived = max(lived, QUICK_SECONDS)  # it did what it was there for
        self._redial_at[pooled.key] = self.recovery(pooled.key).lost(error, lived, now)

    def forget_others(self, keys: set[ConnectionKey]) -> None:
        """Keep what is known of trying again for these shapes only."""
        for known in (self._recoveries, self._redial_at):
            for key in known.keys() - keys:
                del known[key]

    def _of(self, key: ConnectionKey) -> list[PooledConnection]:
        return [pooled for pooled in self._connections.values() if pooled.key == key]

    def _is_old(self, pooled: PooledConnection, now: float) -> bool:
        return self._rotate is not None and pooled.ready_at is not None and now >= pooled.ready_at + self._rotate
