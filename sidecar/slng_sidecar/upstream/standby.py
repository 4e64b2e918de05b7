"""Spare upstream connections: opened before they are needed, and handed over whole.

Everything about a connection is fixed at its upgrade and its ``init``, so a spare stands in only for a connection of
the very same shape: gateway, model, keys, region, tracking ids and settings. A session with a session id therefore gets
no spares but its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

from slng_sidecar.net.tasks import SeparateTasks
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.connection import ConnectionOwner, Dialler, UpstreamConnection

log = logging.getLogger(__name__)

# A spare is closed well before upstream's longest duration, 30 min, which counts from its upgrade (LiveKit's numbers).
MAX_AGE = 1200.0
# A shape that nobody needed for so long has no spares any more.
UNUSED = 300.0
# Shapes of sessions without a session id that are remembered, the last ones seen.
MOST_SHAPES = 8
# After a spare that did not open, or was lost while it waited, its shape is left alone for so long.
PAUSE = 30.0
_LOOK_EVERY = 5.0

StandbyResult = Literal["ready", "opening", "new_shape", "taken", "paused"]
"""What a need of a connection found: a spare that was ready or still opening, or why there was none.

``new_shape``: no spare of it was held; ``taken``: others had all there were; ``paused``: one did not open just before.
"""


class StandbyObserver(Protocol):
    """Who hears of what the pool does."""

    def needed(self, target: Target, found: StandbyResult) -> None: ...
    def dialled(self, target: Target) -> None: ...
    def opened(self, target: Target, seconds: float) -> None:
        """Note that a spare was ready so long after it was dialled."""

    def gone(self, target: Target, code: str, *, opening: bool) -> None:
        """Note that a spare did not open, or ended by itself while it waited, by the error's code."""


@dataclass(frozen=True, slots=True)
class StandbyKey:
    """All that is fixed about a connection; ``init`` is as JSON with its fields in order."""

    target: Target
    init: str

    @classmethod
    def of(cls, target: Target, init: str) -> StandbyKey:
        return cls(target, json.dumps(json.loads(init), sort_keys=True))

    def __repr__(self) -> str:
        return f"Shape({self.target})"


class StandbyConnection:
    """A connection that waits for somebody: its owner until it is claimed.

    Whatever upstream sends it but ``ready`` was not asked for, so nobody could tell whose it is: it is closed then.
    """

    def __init__(
        self,
        shape: StandbyKey,
        dialler: Dialler,
        now: float,
        watcher: StandbyObserver,
        gone: Callable[[StandbyConnection, GatewayError | None], None],
    ) -> None:
        self.connection = UpstreamConnection(-1, shape.target, shape.init, dialler, self)
        self.shape = shape
        self.dialled = now
        self.ready: str | None = None
        self._watcher = watcher
        self._gone = gone

    def __repr__(self) -> str:
        return f"Spare({'ready' if self.ready is not None else 'opening'}, {self.shape})"

    def upstream_ready(self, connection: int, text: str) -> None:
        self.ready = text
        self._watcher.opened(self.shape.target, asyncio.get_running_loop().time() - self.dialled)

    async def upstream_message(self, connection: int, data: str | bytes) -> None:
        self._gone(self, GatewayError("upstream_closed", "a spare was sent what nobody asked for"))
        self.connection.retire()

    def upstream_lost(self, connection: int, error: GatewayError) -> None:
        self._gone(self, error)


@dataclass(slots=True)
class _Wanted:
    """A shape that spares are held for.

    Attributes:
        count: how many.
        leases: the sessions that it is held for; empty for one that is held for whoever comes.
        used: when it was needed last.
        not_before: until when no spare is dialled for it.
        spares: those there are, the oldest first.
    """

    count: int
    used: float
    leases: set[int] = field(default_factory=set)
    not_before: float = 0.0
    spares: list[StandbyConnection] = field(default_factory=list)


class Standby:
    """The pool: an asynchronous context that must be entered before anything is claimed.

    Mutable: ``_wanted``, by shape, the least recently needed first.
    """

    def __init__(
        self,
        dialler: Dialler,
        per_shape: int,
        rotate_seconds: float,
        tasks: SeparateTasks,
        watcher: StandbyObserver,
    ) -> None:
        """Make a pool, which holds nothing yet.

        Args:
            per_shape: spares for each shape; 0 holds none but for sessions that ask for them.
            rotate_seconds: the age at which sessions give a connection up; no spare gets older than four fifths of it.
            tasks: own the spares' lives.
            watcher: hears of it all.
        """
        self.per_shape = per_shape
        self._most_age = 0.8 * rotate_seconds
        self._dialler = dialler
        self._tasks = tasks
        self._watcher = watcher
        self._wanted: dict[StandbyKey, _Wanted] = {}

    def __repr__(self) -> str:
        return f"Standby({self.counts})"

    @property
    def counts(self) -> dict[str, int]:
        """How many spares there are, and in which state."""
        spares = [spare for wanted in self._wanted.values() for spare in wanted.spares]
        ready = sum(spare.ready is not None for spare in spares)
        return {"shapes": len(self._wanted), "ready": ready, "opening": len(spares) - ready}

    def count(self, what: str) -> int:
        """Give one of the ``counts``."""
        return self.counts[what]

    async def look_after(self) -> None:
        """Retire what is old or unused and open what is missing, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            self.tidy()

    def claim(
        self, target: Target, init: str, owner: ConnectionOwner, number: int
    ) -> tuple[StandbyConnection | None, StandbyResult]:
        """Give a spare of this shape to a session, whose it is from here on, and what there was; None for no spare.

        A spare that is still opening is given, too: dialling once is enough. ``owner`` hears ``upstream_ready`` soon,
        or as soon as upstream has said it.
        """
        wanted = self._wanted.get(StandbyKey.of(target, init))
        spares = wanted.spares if wanted is not None else []
        spare = next((each for each in spares if each.ready is not None), spares[0] if spares else None)
        found: StandbyResult
        if spare is not None:
            found = "opening" if spare.ready is None else "ready"
            spares.remove(spare)
            spare.connection.give_to(owner, number, spare.ready)
        elif wanted is None:
            found = "new_shape"
        else:
            found = "paused" if asyncio.get_running_loop().time() < wanted.not_before else "taken"
        self._watcher.needed(target, found)
        return spare, found

    def want(self, target: Target, init: str, lease: int | None = None) -> None:
        """Hold spares of this shape, of which a session has just taken a connection into use, and of no other for it.

        Args:
            lease: the session's; None where no session asked, and the shape is held for whoever comes.
        """
        shape, now = StandbyKey.of(target, init), asyncio.get_running_loop().time()
        wanted = self._wanted.pop(shape, None) or _Wanted(max(1, self.per_shape), now)
        self._wanted[shape] = wanted
        wanted.used = now
        if lease is not None and (target.session_id is not None or not self.per_shape):
            self.release(lease, besides=shape)
            wanted.leases.add(lease)
        self._forget_oldest()
        self._fill(shape, wanted)

    def release(self, lease: int, besides: StandbyKey | None = None) -> None:
        """Hold nothing any more for a session, or nothing ``besides`` this shape."""
        for shape, wanted in tuple(self._wanted.items()):
            if lease in wanted.leases and shape != besides:
                wanted.leases.discard(lease)
                if not wanted.leases:
                    self._drop(shape)

    def tidy(self) -> None:
        """Retire what is old or unused, and open what is missing."""
        now = asyncio.get_running_loop().time()
        for shape, wanted in tuple(self._wanted.items()):
            if not wanted.leases and now >= wanted.used + UNUSED:
                self._drop(shape)
                continue
            for spare in tuple(wanted.spares):
                if now >= spare.dialled + min(MAX_AGE, self._most_age):
                    wanted.spares.remove(spare)
                    spare.connection.retire()
            self._fill(shape, wanted)

    def close(self) -> None:
        """Let go of all."""
        for shape in tuple(self._wanted):
            self._drop(shape)

    def _fill(self, shape: StandbyKey, wanted: _Wanted) -> None:
        now = asyncio.get_running_loop().time()
        while len(wanted.spares) < wanted.count and now >= wanted.not_before:
            spare = StandbyConnection(shape, self._dialler, now, self._watcher, self._gone)
            wanted.spares.append(spare)
            self._watcher.dialled(shape.target)
            spare.connection.task = self._tasks.start(spare.connection.run(), "spare")
            spare.connection.task.add_done_callback(partial(self._over, spare))

    def _over(self, spare: StandbyConnection, _: asyncio.Task[None]) -> None:
        self._gone(spare, None)

    def _gone(self, spare: StandbyConnection, error: GatewayError | None) -> None:
        wanted = self._wanted.get(spare.shape)
        if wanted is None or spare not in wanted.spares:
            return
        wanted.spares.remove(spare)
        wanted.not_before = asyncio.get_running_loop().time() + PAUSE
        if error is not None:
            self._watcher.gone(spare.shape.target, error.known_code, opening=spare.ready is None)
            fields = {"event": "spare_lost", "kind": spare.shape.target.kind, "code": error.known_code}
            log.info("a spare of %s is gone: %s", spare.shape.target, error.for_log, extra={"fields": fields})

    def _drop(self, shape: StandbyKey) -> None:
        for spare in self._wanted.pop(shape).spares:
            spare.connection.retire()

    def _forget_oldest(self) -> None:
        free = [shape for shape, wanted in self._wanted.items() if not wanted.leases]
        for shape in free[: max(0, len(free) - MOST_SHAPES)]:
            self._drop(shape)
