"""The upstream connections of a TTS session: which one may carry the next turn, and when another one is opened.

Upstream's audio has no label, so a connection carries one turn at a time. It takes the next turn only after the
terminal of the last one and a moment of quiet.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from slng_sidecar.protocol.commands import Command, Dial, Retire, SendUpstream
from slng_sidecar.protocol.errors import Close, GatewayError
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.reconnect import SHORT_LIFE_SECONDS, ReconnectPolicy
from slng_sidecar.protocol.tts.contexts import Context, Turn
from slng_sidecar.protocol.tts.settings import ConnectionKey

QUIET_SECONDS = 0.1
"""Seconds without a message after a terminal before a connection is used again (as in LiveKit's newest client)."""

# LiveKit's newest client waits this long for the acknowledgement of a clear.
_CLEARED_TIMEOUT = 1.0
# A clean close this soon after a turn is how the route ends turns (Rime's came after 20 ms), not an idle timeout.
_CLOSES_WITHIN = 1.0
# Routes whose sessions are known to take one turn only.
_ONE_TURN = ("rime/", "soniox/tts-rt")


class PooledState(enum.Enum):
    """What a connection is doing."""

    OPENING = "opening"
    READY = "ready"  # takes the next turn, once ``quiet_at`` is past
    BUSY = "busy"  # carries a turn
    CLEARING = "clearing"  # its turn was cleared, and the acknowledgement is awaited


@dataclass(slots=True, eq=False)
class PooledConnection:
    """One upstream connection. The pool writes it.

    Attributes:
        context: the context whose turn it carries, while it is busy.
        ready_at: when it became ready; None before.
        turn_ended_at: when a turn last ended on it; None before.
        quiet_at: when it may be used again.
        clear_by: until when the acknowledgement of a clear is awaited.
        clears_owed: how many ``cleared`` it has still to send, in order.
        cleared_turn_ended: whether a terminal came since the last clear.
        is_spent: whether it was seen to take one turn only, and had it.
    """

    number: int
    key: ConnectionKey
    state: PooledState = PooledState.OPENING
    context: Context | None = None
    ready_at: float | None = None
    turn_ended_at: float | None = None
    quiet_at: float = 0.0
    clear_by: float | None = None
    clears_owed: int = 0
    cleared_turn_ended: bool = False
    is_spent: bool = False

    def __repr__(self) -> str:
        return f"{self.state.value} {self.number}"

    @property
    def carried(self) -> tuple[Context, Turn]:
        """The context and the turn that it carries. It must be busy."""
        assert self.context is not None
        turn = self.context.turn
        assert turn is not None
        return self.context, turn


class ConnectionPool:
    """All connections of a session that were dialled and neither lost nor retired.

    Mutable: ``_connections``, by number; ``_dialled``, how many there ever were; ``_one_turn``, models whose
    connections were seen to end with a turn; ``_policies`` and ``_redial_at``, by the keys of lost connections.
    """

    def __init__(
        self,
        model: str,
        reconnect_seconds: float,
        rotate_seconds: float | None,
        jitter: Callable[[], float],
        counts: Counter[str],
        *,
        standby: bool = False,
    ) -> None:
        """Create an empty pool.

        Args:
            model: the model that the session began with.
            reconnect_seconds: how long an outage may last.
            rotate_seconds: the age at which an idle connection is closed; None for never.
            standby: whether another connection may be at hand. Then a turn does not wait for a connection that is
                being cleared if another one is ready sooner.
        """
        self._model = model
        self._standby = standby
        self._reconnect_seconds = reconnect_seconds
        self._rotate_seconds = rotate_seconds
        self._jitter = jitter
        self._counts = counts
        self._connections: dict[int, PooledConnection] = {}
        self._dialled = 0
        self._one_turn: set[str] = set()
        self._policies: dict[ConnectionKey, ReconnectPolicy] = {}
        self._redial_at: dict[ConnectionKey, float] = {}

    def __repr__(self) -> str:
        return ", ".join(map(repr, self._connections.values())) or "no connection"

    def __iter__(self) -> Iterator[PooledConnection]:
        return iter(tuple(self._connections.values()))

    def get(self, number: int) -> PooledConnection | None:
        """Return a connection, unless it was lost or retired."""
        return self._connections.get(number)

    def policy(self, key: ConnectionKey) -> ReconnectPolicy:
        """Return the policy for reconnecting with a key."""
        if key not in self._policies:
            self._policies[key] = ReconnectPolicy(self._reconnect_seconds, self._jitter)
        return self._policies[key]

    def deadline(self, needed: Iterable[ConnectionKey]) -> float | None:
        """Return when ``wake`` is due, or ``take`` may return a connection for one of the keys that are needed."""
        times = [pooled.clear_by for pooled in self._connections.values() if pooled.clear_by is not None]
        if self._rotate_seconds is not None:
            times += [
                pooled.ready_at + self._rotate_seconds
                for pooled in self._connections.values()
                if pooled.state is PooledState.READY and pooled.ready_at is not None
            ]
        for key in needed:
            candidates = self._of(key)
            times += [pooled.quiet_at for pooled in candidates if pooled.state is PooledState.READY]
            if not candidates and key in self._redial_at:
                times.append(self._redial_at[key])
        return min(times, default=None)

    def wake(self, now: float) -> list[Command]:
        """End clears that are not acknowledged in time, and close connections that are old."""
        commands: list[Command] = []
        for pooled in self:
            if pooled.clear_by is not None and now >= pooled.clear_by:
                if pooled.cleared_turn_ended:
                    # Some routes acknowledge a clear by the turn's terminal only.
                    commands += self.release(pooled, now)
                else:
                    self._counts["clears_unanswered"] += 1
                    commands += self.retire(pooled)
            elif pooled.state is PooledState.READY and self._is_old(pooled, now):
                commands += self.retire(pooled)
        return commands

    # Getting a connection

    def take(self, key: ConnectionKey, context: Context, now: float) -> tuple[PooledConnection | None, list[Command]]:
        """Return a connection that carries a turn of ``context`` from now on, or what must be done to get one."""
        for pooled in self._of(key):
            if pooled.state is PooledState.READY and now >= pooled.quiet_at:
                pooled.state, pooled.context = PooledState.BUSY, context
                return pooled, []
        return None, self.provide(key, now)

    def provide(self, key: ConnectionKey, now: float) -> list[Command]:
        """Open a connection, unless one of this key exists or must not be dialled yet."""
        usable = [each for each in self._of(key) if not self._standby or each.state is not PooledState.CLEARING]
        if usable or now < self._redial_at.get(key, now):
            return []
        pooled = PooledConnection(self._dialled, key)
        self._dialled += 1
        self._connections[pooled.number] = pooled
        return [Dial(pooled.number, key.init, None if key.model == self._model else key.model)]

    def is_accepted(self, key: ConnectionKey) -> bool:
        """Return whether upstream has accepted the settings of a key on a connection that still exists."""
        return any(pooled.state is not PooledState.OPENING for pooled in self._of(key))

    def takes_one_turn(self, key: ConnectionKey) -> bool:
        """Return whether a connection of this key ends with its turn: by its route, or as was seen."""
        name = key.model.lower().removeprefix("slng/")
        return name.startswith(_ONE_TURN) or key.model in self._one_turn

    # What becomes of a connection

    def ready(self, pooled: PooledConnection, now: float, since: float | None = None) -> None:
        """Record its ``ready``, which came at ``since`` if the connection waited in standby."""
        pooled.state, pooled.quiet_at = PooledState.READY, now
        pooled.ready_at = now if since is None else since
        self.policy(pooled.key).connected()
        self._redial_at.pop(pooled.key, None)

    def turn_ended(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Record that its turn is said."""
        pooled.turn_ended_at = now
        return self.release(pooled, now)

    def release(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Make it available again after some quiet, or close it if it cannot be used again."""
        # If a turn did not wait for it, another connection has taken its place.
        is_replaced = any(
            other is not pooled and other.state in (PooledState.READY, PooledState.BUSY)
            for other in self._of(pooled.key)
        )
        if self.takes_one_turn(pooled.key) or self._is_old(pooled, now) or is_replaced:
            return self.retire(pooled)
        pooled.state, pooled.context = PooledState.READY, None
        pooled.clear_by, pooled.quiet_at = None, now + QUIET_SECONDS
        return []

    def terminal_while_clearing(self, pooled: PooledConnection) -> None:
        """Record a terminal after a clear. Upstream may have sent it before it got the clear."""
        pooled.cleared_turn_ended = True

    def disturbed(self, pooled: PooledConnection, now: float) -> None:
        """Start the quiet anew: a message came that nothing waited for."""
        pooled.quiet_at = now + QUIET_SECONDS

    def clear(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Interrupt the turn that it carries. Audio that still comes of it belongs to no context."""
        if self.takes_one_turn(pooled.key):
            return self.retire(pooled)
        pooled.state, pooled.context = PooledState.CLEARING, None
        pooled.clear_by = now + _CLEARED_TIMEOUT
        pooled.clears_owed += 1
        pooled.cleared_turn_ended = False
        return [SendUpstream(pooled.number, dump({"type": "clear"}))]

    def cleared(self, pooled: PooledConnection, now: float) -> list[Command]:
        """Handle upstream's acknowledgement of the oldest clear."""
        if not pooled.clears_owed:
            self._counts["stray_cleared"] += 1
            return []
        pooled.clears_owed -= 1
        if pooled.state is PooledState.CLEARING and not pooled.clears_owed:
            return self.release(pooled, now)
        return []

    def retire(self, pooled: PooledConnection) -> list[Command]:
        """Close it."""
        del self._connections[pooled.number]
        return [Retire(pooled.number)]

    def retire_others(self, keys: set[ConnectionKey], *, opening: bool) -> list[Command]:
        """Close those that carry no turn and have none of the keys.

        Args:
            opening: whether to close also those that are not open yet.
        """
        kept = (PooledState.BUSY,) if opening else (PooledState.BUSY, PooledState.OPENING)
        others = [pooled for pooled in self if pooled.state not in kept and pooled.key not in keys]
        return [command for pooled in others for command in self.retire(pooled)]

    def retire_all(self) -> list[Command]:
        """Close all connections."""
        return [command for pooled in self for command in self.retire(pooled)]

    def lost(self, pooled: PooledConnection, close: Close, now: float) -> None:
        """Remove a connection that upstream ended, and learn from when it did."""
        del self._connections[pooled.number]
        if pooled.turn_ended_at is not None and now <= pooled.turn_ended_at + _CLOSES_WITHIN and close.is_clean:
            self.spent(pooled)

    def spent(self, pooled: PooledConnection) -> None:
        """Remember that connections of this model take one turn only."""
        pooled.is_spent = True
        self._one_turn.add(pooled.key.model)

    def plan_redial(self, pooled: PooledConnection, error: GatewayError, now: float) -> None:
        """Decide when a lost connection that is needed is dialled again.

        Raises:
            GatewayError: it must not be dialled again. The error says why.
        """
        lived = None if pooled.ready_at is None else now - pooled.ready_at
        if lived is not None and pooled.turn_ended_at is not None:
            lived = max(lived, SHORT_LIFE_SECONDS)  # it carried a turn, so its life was not too short
        self._redial_at[pooled.key] = self.policy(pooled.key).next_attempt(error, lived, now)

    def forget_others(self, keys: set[ConnectionKey]) -> None:
        """Forget when and how often all other keys were dialled."""
        for known in (self._policies, self._redial_at):
            for key in known.keys() - keys:
                del known[key]

    def _of(self, key: ConnectionKey) -> list[PooledConnection]:
        return [pooled for pooled in self._connections.values() if pooled.key == key]

    def _is_old(self, pooled: PooledConnection, now: float) -> bool:
        limit = self._rotate_seconds
        return limit is not None and pooled.ready_at is not None and now >= pooled.ready_at + limit
