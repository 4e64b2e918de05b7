"""The places for sessions, and the drain that waits for them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.lifecycle import drain_expired
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.services import Services
from slng_sidecar.sessions.runner import SessionRunner
from slng_sidecar.telemetry.log import SessionLog

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LiveSession:
    """A session that holds one of the places.

    Attributes:
        peer: the client's address, to which the place counts.
        since: when it started, on ``time.monotonic``.
        runner: the session itself; None before it runs, and for a request that needs no session.
        drains: whether it would not end by itself, so that a drain has to end it.
        fail: ends a request before its time.
    """

    number: int
    target: Target
    peer: str
    since: float
    runner: SessionRunner | None = None
    drains: bool = False
    fail: Callable[[GatewayError], None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an end now would cut something."""
        return not self.drains or (self.runner is not None and self.runner.is_busy)

    def log(self) -> SessionLog:
        """Return the log of the session."""
        target = self.target
        return SessionLog(
            log,
            session=self.number,
            kind=target.kind,
            model=target.model,
            session_id=target.session_id,
            agent_id=target.agent_id,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the session as the status shows it."""
        return {
            "session": self.number,
            "kind": self.target.kind,
            "model": self.target.model,
            "gateway": self.target.base_url,
            "session_id": self.target.session_id,
            "agent_id": self.target.agent_id,
            "seconds": round(time.monotonic() - self.since, 1),
            "dials": self.runner.dials if self.runner else 0,
            "dropped_or_ignored": dict(self.runner.counts) if self.runner else {},
        }


class Gateway:
    """Gives sessions their places and drains them.

    Mutable: ``_live``, the sessions by number, with ``_freed``, set when one ends; ``_drain_by``, once the sidecar is
    to stop.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._live: dict[int, LiveSession] = {}
        self._freed = asyncio.Event()
        self._drain_by: float | None = None
        self._numbers = itertools.count(1)
        services.metrics.draining.set_function(lambda: float(self.is_draining))

    @property
    def live(self) -> list[LiveSession]:
        """The sessions that run now."""
        return list(self._live.values())

    @property
    def is_draining(self) -> bool:
        """Whether the sidecar is about to stop."""
        return self._drain_by is not None

    def refused(self, error: GatewayError, peer: str) -> None:
        """Count and log a request that was refused before upstream was dialled."""
        self.services.metrics.refused.labels(error.known_code).inc()
        fields = {"event": "refused", "code": error.known_code, "client": peer}
        log.info("refused a request from %s: %s", peer, error.known_code, extra={"fields": fields})

    def take_place(self, target: Target, peer: str) -> LiveSession:
        """Reserve one of the places for sessions, until ``free_place``.

        Args:
            peer: the client's address (``guard.peer_of``).

        Raises:
            GatewayError: ``session_limit``, if all are taken, or all that one client may have.
        """
        limit = self.services.settings.sidecar_max_sessions
        if len(self._live) >= limit:
            text = f"All {limit} sessions of this sidecar are in use (SIDECAR_MAX_SESSIONS)."
            raise GatewayError(ErrorCode.SESSION_LIMIT, text)
        share = self.services.settings.sidecar_max_sessions_per_client
        if share and sum(live.peer == peer for live in self._live.values()) >= share:
            raise GatewayError(
                ErrorCode.SESSION_LIMIT,
                f"The client at {peer} uses all {share} sessions that one client may have "
                "(SIDECAR_MAX_SESSIONS_PER_CLIENT).",
            )
        live = LiveSession(next(self._numbers), target, peer, time.monotonic())
        self._live[live.number] = live
        return live

    def free_place(self, live: LiveSession) -> None:
        """Return a place."""
        del self._live[live.number]
        self._freed.set()

    def attach(self, live: LiveSession, runner: SessionRunner) -> None:
        """Set the runner of a session, and drain it if the sidecar is about to stop."""
        live.runner = runner
        if self._drain_by is not None and live.drains:
            runner.drain(self._drain_by)

    async def drain(self, seconds: float) -> None:
        """End every session at its next moment that cuts nothing, and wait for that for ``seconds`` at most."""
        loop = asyncio.get_running_loop()
        self._drain_by = loop.time() + seconds
        self.services.standby.close()
        log.info("draining: %d sessions, %g s at most", len(self._live), seconds)
        for live in self.live:
            if live.runner is not None and live.drains:
                live.runner.drain(self._drain_by)
        before, ended = set(self._live), None
        try:
            async with asyncio.timeout_at(self._drain_by):
                while True:
                    if ended is None and not before & self._live.keys():
                        ended = time.monotonic()
                    # A bot that is not shutting down itself opens a session as soon as another one has ended, so later
                    # sessions are waited for only while they are busy.
                    if ended is not None and not any(live.since <= ended or live.is_busy for live in self.live):
                        return
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            log.warning("the time to drain is over: %d sessions are cut off", len(self._live))

    def cut_off(self) -> None:
        """End every HTTP request that is left with an error, because the time to finish is over."""
        for live in self.live:
            if live.fail is not None:
                live.fail(drain_expired())
