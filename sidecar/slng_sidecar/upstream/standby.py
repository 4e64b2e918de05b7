"""Standby connections: opened before they are needed, and handed over whole.

Everything about a connection is fixed at its upgrade and its ``init``, so a standby connection can only replace one
with the same gateway, model, keys, region, tracking ids and settings. A session with a session id therefore gets no
standby connections but its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from slng_sidecar.net.tasks import SeparateTasks
from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
from slng_sidecar.protocol.reports import StandbyResult, UpstreamObserver
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.connection import ConnectionOwner, Dialler, UpstreamConnection

log = logging.getLogger(__name__)

# A standby connection is closed well before upstream's longest duration, 30 min from its upgrade (LiveKit's numbers).
MAX_AGE = 1200.0
# Settings that no session needed for this long get no standby connections any more.
UNUSED = 300.0
# How many settings of sessions without a session id are remembered.
MOST_KEYS = 8
# After a standby connection did not open, or was lost while it waited, none is dialled for this long.
PAUSE = 30.0
_TIDY_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class StandbyKey:
    """Everything that is fixed about a connection. ``init`` is JSON with its fields in order."""

    target: Target
    init: str

    @classmethod
    def of(cls, target: Target, init: str) -> StandbyKey:
        """Return the key of a connection with an ``init`` in any order."""
        return cls(target, json.dumps(json.loads(init), sort_keys=True))

    def __repr__(self) -> str:
        return f"StandbyKey({self.target})"


class StandbyConnection:
    """A connection that waits for a session, and its owner until it is claimed.

    Upstream has nothing to send it but ``ready``. It is closed if another message comes, since that message could
    belong to nobody.
    """

    def __init__(
        self,
        key: StandbyKey,
        dialler: Dialler,
        now: float,
        observer: UpstreamObserver,
        gone: Callable[[StandbyConnection, GatewayError | None], None],
    ) -> None:
        self.connection = UpstreamConnection(-1, key.target, key.init, dialler, self)
        self.key = key
        self.dialled_at = now
        self.observer = observer
        self.ready: str | None = None
        self._gone = gone

    def __repr__(self) -> str:
        return f"StandbyConnection({'ready' if self.ready is not None else 'opening'}, {self.key})"

    def upstream_opened(self, connection: int) -> None:
        """Handle the open connection."""
        self.observer.opened()

    def upstream_ready(self, connection: int, text: str) -> None:
        """Keep the ``ready`` for the session that claims the connection."""
        self.ready = text
        self.observer.ready(asyncio.get_running_loop().time() - self.dialled_at)

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        """Close: no message is expected."""
        self._gone(self, GatewayError(ErrorCode.UPSTREAM_CLOSED, "upstream sent a standby connection a message"))
        self.connection.retire()

    def upstream_lost(self, connection: int, close: Close) -> None:
        """Handle the end of the connection."""
        self._gone(self, close.error)


@dataclass(slots=True)
class _Held:
    """What is held for one key.

    Attributes:
        count: how many standby connections.
        leases: the sessions that they are held for; empty if they are for any session.
        used: when one was last needed.
        not_before: until when none is dialled.
        connections: those that exist, oldest first.
    """

    count: int
    used: float
    leases: set[int] = field(default_factory=set)
    not_before: float = 0.0
    connections: list[StandbyConnection] = field(default_factory=list)


class Standby:
    """Holds standby connections for the settings that sessions used last.

    Mutable: ``_held``, by key, the least recently needed first.
    """

    def __init__(
        self,
        dialler: Dialler,
        per_shape: int,
        rotate_seconds: float,
        tasks: SeparateTasks,
        observe: Callable[[Target], UpstreamObserver],
    ) -> None:
        """Create a pool that holds nothing yet.

        Args:
            dialler: opens the connections.
            per_shape: how many connections to hold for each key; 0 holds some only for sessions that ask for them.
            rotate_seconds: the age at which sessions replace a connection. None is kept beyond four fifths of it.
            tasks: owns the tasks of the connections.
            observe: returns the observer of a connection to a target.
        """
        self.per_shape = per_shape
        self._most_age = 0.8 * rotate_seconds
        self._dialler = dialler
        self._tasks = tasks
        self._observe = observe
        self._held: dict[StandbyKey, _Held] = {}

    def __repr__(self) -> str:
        return f"Standby({self.counts})"

    @property
    def counts(self) -> dict[str, int]:
        """How many standby connections there are in each state, and for how many keys."""
        connections = [standby for held in self._held.values() for standby in held.connections]
        ready = sum(standby.ready is not None for standby in connections)
        return {"shapes": len(self._held), "ready": ready, "opening": len(connections) - ready}

    def count(self, what: str) -> int:
        """Return one of the ``counts``."""
        return self.counts[what]

    async def look_after(self) -> None:
        """Tidy at regular intervals until cancelled."""
        while True:
            await asyncio.sleep(_TIDY_EVERY)
            self.tidy()

    def claim(
        self, target: Target, init: str, owner: ConnectionOwner, number: int
    ) -> tuple[StandbyConnection | None, StandbyResult]:
        """Transfer a connection to a session.

        A connection that is still opening is handed over, too, since one dial is enough. ``owner`` gets its
        ``upstream_ready`` soon, or as soon as it comes.

        Returns:
            The connection, or None, and what was found.
        """
        held = self._held.get(StandbyKey.of(target, init))
        connections = held.connections if held is not None else []
        ready = (standby for standby in connections if standby.ready is not None)
        standby = next(ready, connections[0] if connections else None)
        result: StandbyResult
        if standby is not None:
            result = "opening" if standby.ready is None else "ready"
            connections.remove(standby)
            standby.connection.give_to(owner, number, standby.ready)
        elif held is None:
            result = "new_shape"
        else:
            result = "paused" if asyncio.get_running_loop().time() < held.not_before else "taken"
        return standby, result

    def want(self, target: Target, init: str, lease: int | None = None) -> None:
        """Hold connections like one that a session has just taken into use.

        Args:
            lease: the session, for which nothing else is held from now on; None to hold them for any session.
        """
        key, now = StandbyKey.of(target, init), asyncio.get_running_loop().time()
        held = self._held.pop(key, None) or _Held(max(1, self.per_shape), now)
        self._held[key] = held
        held.used = now
        if lease is not None and (target.session_id is not None or not self.per_shape):
            self.release(lease, besides=key)
            held.leases.add(lease)
        self._forget_oldest()
        self._fill(key, held)

    def release(self, lease: int, besides: StandbyKey | None = None) -> None:
        """Hold nothing for a session any more, or nothing ``besides`` this key."""
        for key, held in tuple(self._held.items()):
            if lease in held.leases and key != besides:
                held.leases.discard(lease)
                if not held.leases:
                    self._drop(key)

    def tidy(self) -> None:
        """Retire connections that are old or unused, and open those that are missing."""
        now = asyncio.get_running_loop().time()
        for key, held in tuple(self._held.items()):
            if not held.leases and now >= held.used + UNUSED:
                self._drop(key)
                continue
            for standby in tuple(held.connections):
                if now >= standby.dialled_at + min(MAX_AGE, self._most_age):
                    held.connections.remove(standby)
                    standby.connection.retire()
            self._fill(key, held)

    def close(self) -> None:
        """Retire all connections."""
        for key in tuple(self._held):
            self._drop(key)

    def _fill(self, key: StandbyKey, held: _Held) -> None:
        now = asyncio.get_running_loop().time()
        while len(held.connections) < held.count and now >= held.not_before:
            observer = self._observe(key.target)
            standby = StandbyConnection(key, self._dialler, now, observer, self._gone)
            held.connections.append(standby)
            observer.dialled()
            standby.connection.task = self._tasks.start(standby.connection.run(), "standby connection")
            standby.connection.task.add_done_callback(partial(self._over, standby))

    def _over(self, standby: StandbyConnection, _: asyncio.Task[None]) -> None:
        self._gone(standby, None)

    def _gone(self, standby: StandbyConnection, error: GatewayError | None) -> None:
        held = self._held.get(standby.key)
        if held is None or standby not in held.connections:
            return
        held.connections.remove(standby)
        held.not_before = asyncio.get_running_loop().time() + PAUSE
        if error is None:
            return
        if standby.ready is None:
            standby.observer.not_opened(error.known_code)
        else:
            standby.observer.lost(error.known_code)
        target = standby.key.target
        fields = {"event": "spare_lost", "kind": target.kind, "code": error.known_code}
        log.info("standby connection to %s lost: %s", target, error.for_log, extra={"fields": fields})

    def _drop(self, key: StandbyKey) -> None:
        for standby in self._held.pop(key).connections:
            standby.connection.retire()

    def _forget_oldest(self) -> None:
        free = [key for key, held in self._held.items() if not held.leases]
        for key in free[: max(0, len(free) - MOST_KEYS)]:
            self._drop(key)
