"""What all routes share: the settings, the dialler, the live sessions and the limit on them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

from slng_sidecar import __version__
from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.net.tasks import SeparateTasks
from slng_sidecar.protocol.commands import cut_off
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.route import Target
from slng_sidecar.protocol.stt.dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.stt.session import SttMachine, SttOptions
from slng_sidecar.protocol.tts.dialects import ExtendedTts, PlainTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from slng_sidecar.server.targets import configured_shapes
from slng_sidecar.sessions.runner import Client, Observer, SessionRunner
from slng_sidecar.telemetry.log import SessionLog
from slng_sidecar.telemetry.metrics import Metrics, SessionMetrics
from slng_sidecar.telemetry.tracing import Tracing
from slng_sidecar.upstream.bridge import HttpBridge
from slng_sidecar.upstream.connection import Dialler, Limits, Moments, TellingDialler
from slng_sidecar.upstream.standby import Standby, StandbyResult

log = logging.getLogger(__name__)

# A file is sent faster than upstream may hear it, so a final says nothing of when its audio was sent, and the end may
# take long. Who reads the transcripts bounds the wait.
_FILE_LAG = 86_400.0
_ERRORS_KEPT = 20
# How a session ended, by the code that its client was closed with.
_OUTCOMES = {1000: "closed", 1012: "drained"}


@dataclass(slots=True)
class LiveSession:
    """A session that holds one of the places, as the status shows it.

    Attributes:
        peer: whose place it is: the client's address.
        drains: whether it would not end by itself.
        fail: ends one that would, before its time.
    """

    number: int
    target: Target
    peer: str
    since: float
    session: SessionRunner | None = field(default=None)
    drains: bool = field(default=False)
    fail: Callable[[GatewayError], None] | None = field(default=None)

    @property
    def is_busy(self) -> bool:
        """Whether an end now would cut something."""
        return not self.drains or (self.session is not None and self.session.is_busy)

    def as_json(self) -> dict[str, Any]:
        return {
            "session": self.number,
            "kind": self.target.kind,
            "model": self.target.model,
            "gateway": self.target.base_url,
            "session_id": self.target.session_id,
            "agent_id": self.target.agent_id,
            "seconds": round(time.monotonic() - self.since, 1),
            "dials": self.session.dials if self.session else 0,
            "dropped_or_ignored": dict(self.session.counts) if self.session else {},
        }


def log_of(live: LiveSession) -> SessionLog:
    """Give the log of a session."""
    target = live.target
    return SessionLog(
        log,
        session=live.number,
        kind=target.kind,
        model=target.model,
        session_id=target.session_id,
        agent_id=target.agent_id,
    )


class RecentErrors:
    """Keeps what went wrong upstream in one session, for the status: codes and times, no words."""

    def __init__(self, live: LiveSession, errors: deque[dict[str, Any]]) -> None:
        self._live = live
        self._errors = errors

    def not_opened(self, code: str) -> None:
        self._note(code)

    def lost(self, cause: str) -> None:
        if cause != "closed":
            self._note(cause)

    def dialled(self) -> None: ...
    def opened(self, seconds: float) -> None: ...
    def turn(self, turn: TurnReport, now: float) -> None: ...
    def progress(self, counts: Counter[str], audio_seconds: float) -> None: ...

    def _note(self, code: str) -> None:
        self._errors.append(trouble(self._live.number, self._live.target, code))


def trouble(session: int | None, target: Target, code: str) -> dict[str, Any]:
    """Give something that went wrong upstream as the status shows it; without a session it was a spare connection."""
    return {
        "at": round(time.time(), 1),
        "session": session,
        "kind": target.kind,
        "model": target.model,
        "code": code,
    }


class StandbyMetrics:
    """Counts what becomes of spare connections, and keeps what went wrong with them."""

    def __init__(self, metrics: Metrics, errors: deque[dict[str, Any]]) -> None:
        self._metrics = metrics
        self._errors = errors

    def needed(self, target: Target, found: StandbyResult) -> None:
        self._metrics.standby.labels(target.kind, found).inc()

    def dialled(self, target: Target) -> None:
        self._metrics.dials.labels(target.kind).inc()

    def opened(self, target: Target, seconds: float) -> None:
        self._metrics.open_seconds.labels(target.kind).observe(seconds)

    def gone(self, target: Target, code: str, *, opening: bool) -> None:
        counter = self._metrics.dial_failures if opening else self._metrics.losses
        counter.labels(target.kind, code).inc()
        self._errors.append(trouble(None, target, code))


class Gateway:
    """The sidecar as its routes see it: an asynchronous context that must be entered before sessions run.

    Mutable: ``_live``, the sessions by number, with ``_freed``, set when one ends; ``_drain_by``, once the sidecar is
    to stop; ``settings``, by ``reload``.

    Attributes:
        bridge: the HTTP way upstream.
        tracing: where spans go, if they do.
        standby: spare connections.
        errors: the last things that went wrong upstream.
        tasks: what outlives the request that asked for it, by as long as closing upstream takes.
    """

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self.settings = settings
        self.secrets = secrets
        self.metrics = Metrics()
        self.metrics.max_sessions.set_function(lambda: self.settings.sidecar_max_sessions)
        self.metrics.draining.set_function(lambda: float(self.draining))
        self.tracing = Tracing.from_environment()
        self.tasks = SeparateTasks()
        self.errors: deque[dict[str, Any]] = deque(maxlen=_ERRORS_KEPT)
        self._live: dict[int, LiveSession] = {}
        self._freed = asyncio.Event()
        self._drain_by: float | None = None
        self._numbers = itertools.count(1)
        limits = Limits(
            open_timeout=settings.sidecar_open_timeout,
            send_timeout=settings.sidecar_send_timeout,
            close_timeout=settings.sidecar_close_timeout,
            max_message=int(settings.sidecar_max_message),
        )
        self._dialler = Dialler(limits, proxy_from_env=settings.slng_proxy_from_env)
        self.standby = Standby(
            self._dialler,
            settings.sidecar_standby,
            settings.sidecar_session_rotate,
            self.tasks,
            StandbyMetrics(self.metrics, self.errors),
        )
        for state in ("ready", "opening"):
            self.metrics.standby_connections.labels(state).set_function(partial(self.standby.count, state))
        self.bridge = HttpBridge(
            limits,
            first_audio_timeout=settings.sidecar_first_audio_timeout,
            silence_timeout=settings.sidecar_terminal_timeout,
            proxy_from_env=settings.slng_proxy_from_env,
        )

    async def __aenter__(self) -> Self:
        await self.tasks.__aenter__()
        self.tasks.start(self.metrics.watch_loop(), "event loop lag")
        self.tasks.start(self.standby.look_after(), "standby")
        if self.standby.per_shape:
            for target, init in configured_shapes(self.settings, self.secrets):
                self.standby.want(target, init)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.tasks.__aexit__(kind, error, trace)
        finally:
            await self.bridge.close()
            if self.tracing is not None:
                await self.tracing.close()

    @property
    def live(self) -> list[LiveSession]:
        """The sessions that run now."""
        return list(self._live.values())

    @property
    def draining(self) -> bool:
        """Whether the sidecar is about to stop."""
        return self._drain_by is not None

    async def drain(self, seconds: float) -> None:
        """Let every session end at its next moment at which nothing is cut; wait for that, ``seconds`` at most."""
        loop = asyncio.get_running_loop()
        self._drain_by = loop.time() + seconds
        self.standby.close()
        log.info("draining: %d sessions, %g s at most", len(self._live), seconds)
        for live in self.live:
            if live.session is not None and live.drains:
                live.session.drain(self._drain_by)
        before, ended = set(self._live), None
        try:
            async with asyncio.timeout_at(self._drain_by):
                while True:
                    if ended is None and not before & self._live.keys():
                        ended = time.monotonic()
                    # Who came after those is waited for only while it says or hears something: a bot that is not
                    # shutting down opens a session as soon as another one has ended.
                    if ended is not None and not any(live.since <= ended or live.is_busy for live in self.live):
                        return
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            log.warning("drained no further: %d sessions are cut off", len(self._live))

    def cut_off(self) -> None:
        """Have every request over HTTP that is left end with an error, as there is no time for it any more."""
        for live in self.live:
            if live.fail is not None:
                live.fail(cut_off())

    def refused(self, error: GatewayError, peer: str) -> None:
        """Count and log a request that was refused before any dial."""
        self.metrics.refused.labels(error.known_code).inc()
        fields = {"event": "refused", "code": error.known_code, "client": peer}
        log.info("refused a request of %s: %s", peer, error.known_code, extra={"fields": fields})

    def take_place(self, target: Target, peer: str) -> LiveSession:
        """Take one of the places for sessions, until ``free_place``.

        Args:
            peer: the client's address (``guard.peer_of``).

        Raises:
            GatewayError: ``session_limit``, where all are taken, or all that one client may take.
        """
        limit = self.settings.sidecar_max_sessions
        if len(self._live) >= limit:
            raise GatewayError(
                "session_limit", f"All {limit} sessions of this sidecar are in use (SIDECAR_MAX_SESSIONS)."
            )
        share = self.settings.sidecar_max_sessions_per_client
        if share and sum(live.peer == peer for live in self._live.values()) >= share:
            raise GatewayError(
                "session_limit",
                f"The client at {peer} has all {share} sessions that one may have (SIDECAR_MAX_SESSIONS_PER_CLIENT).",
            )
        live = LiveSession(next(self._numbers), target, peer, time.monotonic())
        self._live[live.number] = live
        return live

    def free_place(self, live: LiveSession) -> None:
        """Give a place back."""
        del self._live[live.number]
        self._freed.set()

    async def run_session(
        self,
        client: Client,
        live: LiveSession,
        *,
        extended: bool = False,
        file: bool = False,
        moments: Moments | None = None,
    ) -> None:
        """Join a client to upstream until either has ended for good; never raises.

        Args:
            file: whether its audio comes faster than it was spoken.
            moments: who is told when upstream is dialled, and when that is done.
        """
        target = live.target
        told = log_of(live)
        observer = SessionMetrics(self.metrics, target.kind, target.model)
        trace = self.tracing.session(target, live.number) if self.tracing is not None else None
        observers: list[Observer] = [observer, RecentErrors(live, self.errors), *([trace] if trace is not None else [])]
        dialler = self._dialler if moments is None else TellingDialler(self._dialler, moments)
        machine = self._machine(live, extended=extended, file=file)
        session = live.session = SessionRunner(
            client, machine, target, dialler, told, observers, self.standby, live.number
        )
        if self._drain_by is not None and live.drains:
            session.drain(self._drain_by)
        told.info("%s at %s", target.model, target.base_url, fields={"event": "session_began"})
        outcome = "failed"
        observer.began()
        try:
            closing = await session.run()
            outcome = "client_left" if closing is None else _OUTCOMES.get(closing.code, "failed")
        except Exception:
            told.exception("failed by a fault of the sidecar")
            await client.close(1011, "internal_error: the sidecar failed; its log says how")
        finally:
            observer.ended(outcome, session.queue_bytes)
            if trace is not None:
                trace.ended(outcome, machine.audio_seconds)
            seconds = round(time.monotonic() - live.since, 1)
            counts = {reason: amount for reason, amount in sorted(session.counts.items()) if amount}
            told.info(
                "%s after %.1f s, %d dials%s",
                outcome,
                seconds,
                session.dials,
                "".join(f", {reason} {amount}" for reason, amount in counts.items()),
                fields={
                    "event": "session_ended",
                    "outcome": outcome,
                    "seconds": seconds,
                    "dials": session.dials,
                    "counts": counts,
                },
            )

    def _machine(self, live: LiveSession, *, extended: bool, file: bool) -> SttMachine | TtsMachine:
        settings = self.settings
        if live.target.kind == "stt":
            return SttMachine(
                SttOptions(
                    model=live.target.model,
                    own_provider_key=live.target.own_provider_key,
                    confidence_threshold=settings.sidecar_confidence_threshold,
                    confidence_scope=settings.sidecar_confidence_scope,
                    replay_seconds=settings.sidecar_replay_seconds,
                    final_lag=_FILE_LAG if file else settings.sidecar_final_lag,
                    finalize_timeout=settings.sidecar_finalize_timeout,
                    reconnect_seconds=settings.sidecar_reconnect_seconds,
                    rotate_seconds=settings.sidecar_session_rotate,
                    init_timeout=settings.sidecar_init_timeout,
                    close_timeout=_FILE_LAG if file else settings.sidecar_close_timeout,
                ),
                ExtendedStt(__version__, str(live.number)) if extended else PlainStt(),
            )
        return TtsMachine(
            TtsOptions(
                model=live.target.model,
                own_provider_key=live.target.own_provider_key,
                flush=settings.slng_flush,
                max_text=settings.sidecar_max_text,
                context_idle=settings.sidecar_context_idle,
                init_timeout=settings.sidecar_init_timeout,
                first_audio_timeout=settings.sidecar_first_audio_timeout,
                terminal_timeout=settings.sidecar_terminal_timeout,
                close_timeout=settings.sidecar_close_timeout,
                reconnect_seconds=settings.sidecar_reconnect_seconds,
                rotate_seconds=settings.sidecar_session_rotate,
                standby=self.standby.per_shape > 0,
            ),
            ExtendedTts(__version__, str(live.number)) if extended else PlainTts(settings.sidecar_plain_terminal),
        )
