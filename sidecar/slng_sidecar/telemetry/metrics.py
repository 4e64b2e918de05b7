"""The metrics of the sidecar, for Prometheus. No metric or label contains a key, a transcript or a text.

Names and units follow Prometheus' own advice: base units, ``_total`` for counters, one prefix.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from typing_extensions import override

from slng_sidecar import __version__
from slng_sidecar.protocol.reports import StandbyResult, TurnReport, UpstreamObserver

disable_created_metrics()  # type: ignore[no-untyped-call]
# Clients choose the models, so the number of labels is bounded; otherwise a client could fill the memory.
_MOST_MODELS = 100
_LAG_EVERY = 0.5

_OPEN = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 15)
_FIRST_SOUND = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_ANSWER = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5)
_OWN = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_BYTES = (1_024, 8_192, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576, 4_194_304)

_DURATIONS = {"replayed_ms": "replayed", "dropped_ms": "dropped"}


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("slng_sidecar", "This sidecar", registry=registry).info({"version": __version__})
        prefix = "slng_sidecar_"
        self.sessions = Counter(prefix + "sessions", "Sessions that ended", ["kind", "outcome"], registry=registry)
        self.active = Gauge(prefix + "active_sessions", "Sessions now", ["kind"], registry=registry)
        self.max_sessions = Gauge(prefix + "max_sessions", "The most sessions at once", registry=registry)
        self.draining = Gauge(prefix + "draining", "1 while the sidecar is about to stop", registry=registry)
        self.refused = Counter(
            prefix + "refused_requests", "Requests refused before upstream was dialled", ["code"], registry=registry
        )
        self.dials = Counter(prefix + "upstream_dials", "Upstream connections dialled", ["kind"], registry=registry)
        self.dial_failures = Counter(
            prefix + "upstream_dial_failures",
            "Upstream connections that did not get ready",
            ["kind", "code"],
            registry=registry,
        )
        self.open_seconds = Histogram(
            prefix + "upstream_open_seconds",
            "Seconds from dialling upstream to its ready",
            ["kind"],
            buckets=_OPEN,
            registry=registry,
        )
        self.losses = Counter(
            prefix + "upstream_losses",
            "Ready upstream connections that the sidecar did not close itself",
            ["kind", "cause"],
            registry=registry,
        )
        self.audio = Counter(
            prefix + "audio_seconds",
            "Seconds of audio received from clients (stt) and synthesized (tts)",
            ["kind", "model"],
            registry=registry,
        )
        self.characters = Counter(
            prefix + "characters", "Characters of text to synthesize", ["model"], registry=registry
        )
        self.repaired = Counter(
            prefix + "stt_repaired_audio_seconds",
            "Seconds of audio replayed after a drop, and of audio that was lost",
            ["what"],
            registry=registry,
        )
        self.contexts = Counter(prefix + "contexts", "TTS contexts that ended", ["model", "outcome"], registry=registry)
        self.first_audio_seconds = Histogram(
            prefix + "first_audio_seconds",
            "Seconds from a context's first text to its first audio",
            ["model"],
            buckets=_FIRST_SOUND,
            registry=registry,
        )
        self.finalizes = Counter(
            prefix + "finalizes", "Finalizes that were answered", ["model", "outcome"], registry=registry
        )
        self.finalize_seconds = Histogram(
            prefix + "finalize_seconds",
            "Seconds from a finalize to its answer",
            ["model"],
            buckets=_ANSWER,
            registry=registry,
        )
        self.queue_bytes = Histogram(
            prefix + "client_queue_bytes",
            "The most bytes that waited for the client of a session",
            ["kind"],
            buckets=_BYTES,
            registry=registry,
        )
        self.own_seconds = Histogram(
            prefix + "overhead_seconds",
            "Seconds before the first byte of an HTTP reply, without the wait for upstream",
            buckets=_OWN,
            registry=registry,
        )
        self.tasks = Gauge(prefix + "tasks", "Tasks of the event loop now", registry=registry)
        self.lag_seconds = Histogram(
            prefix + "event_loop_lag_seconds",
            "Seconds by which the event loop runs timers late",
            buckets=_OWN,
            registry=registry,
        )
        self.events = Counter(
            prefix + "session_events",
            "What sessions dropped, ignored or repaired, by reason",
            ["kind", "reason"],
            registry=registry,
        )
        self.standby = Counter(
            prefix + "standby_needs",
            "Connections that sessions needed, by the standby connection found or why none was",
            ["kind", "spare"],
            registry=registry,
        )
        self.standby_connections = Gauge(
            prefix + "standby_connections", "Standby connections now", ["state"], registry=registry
        )
        self._models: set[str] = set()
        # Series that alerts use start at 0, because Prometheus sees no increase in a series that starts at 1.
        for what in _DURATIONS.values():
            self.repaired.labels(what)
        for code in ("session_limit", "local_auth", "forbidden_origin"):
            self.refused.labels(code)
        for kind in ("stt", "tts"):
            self.dial_failures.labels(kind, "auth_error")
            self.sessions.labels(kind, "failed")

    def model(self, name: str) -> str:
        """Return the label for a model: its name, or ``other`` once there are too many models."""
        if name not in self._models and len(self._models) >= _MOST_MODELS:
            return "other"
        self._models.add(name)
        return name

    async def watch_loop(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        self.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        while True:
            due = loop.time() + _LAG_EVERY
            await asyncio.sleep(_LAG_EVERY)
            self.lag_seconds.observe(max(0.0, loop.time() - due))


class SessionMetrics(UpstreamObserver):
    """Adds what one session does to the metrics.

    Mutable: ``_counted``, how much of the session's counts was added, and ``_audio_seconds``, of its audio.
    """

    def __init__(self, metrics: Metrics, kind: str, model: str) -> None:
        self._metrics = metrics
        self._kind = kind
        self._model = metrics.model(model)
        self._counted: Tally[str] = Tally()
        self._audio_seconds = 0.0

    def began(self) -> None:
        """Count the start of the session."""
        self._metrics.active.labels(self._kind).inc()

    @override
    def dialled(self) -> None:
        self._metrics.dials.labels(self._kind).inc()

    @override
    def ready(self, seconds: float) -> None:
        self._metrics.open_seconds.labels(self._kind).observe(seconds)

    @override
    def not_opened(self, code: str) -> None:
        self._metrics.dial_failures.labels(self._kind, code).inc()

    @override
    def lost(self, cause: str) -> None:
        self._metrics.losses.labels(self._kind, cause).inc()

    @override
    def standby_used(self, result: StandbyResult) -> None:
        self._metrics.standby.labels(self._kind, result).inc()

    @override
    def turn(self, report: TurnReport, now: float) -> None:
        metrics, model = self._metrics, self._model
        if report.what == "finalize":
            metrics.finalizes.labels(model, report.outcome).inc()
            metrics.finalize_seconds.labels(model).observe(now - report.began)
            return
        metrics.contexts.labels(model, report.outcome).inc()
        metrics.characters.labels(model).inc(report.characters)
        metrics.audio.labels(self._kind, model).inc(report.audio_seconds)
        if report.first_audio is not None:
            metrics.first_audio_seconds.labels(model).observe(report.first_audio - report.began)

    @override
    def progress(self, counts: Tally[str], audio_seconds: float) -> None:
        if audio_seconds > self._audio_seconds:
            self._metrics.audio.labels(self._kind, self._model).inc(audio_seconds - self._audio_seconds)
            self._audio_seconds = audio_seconds
        for reason, amount in counts.items():
            grown = amount - self._counted[reason]
            if grown <= 0:
                continue
            self._counted[reason] = amount
            if reason in _DURATIONS:
                self._metrics.repaired.labels(_DURATIONS[reason]).inc(grown / 1000)
            else:
                self._metrics.events.labels(self._kind, reason).inc(grown)

    def ended(self, outcome: str, queue_bytes: int) -> None:
        """Count the end of the session.

        Args:
            outcome: ``closed``, ``drained``, ``client_left`` or ``failed``.
            queue_bytes: the most that ever waited for its client.
        """
        self._metrics.active.labels(self._kind).dec()
        self._metrics.sessions.labels(self._kind, outcome).inc()
        self._metrics.queue_bytes.labels(self._kind).observe(queue_bytes)
