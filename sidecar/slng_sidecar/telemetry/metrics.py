"""What the sidecar counts and measures, for Prometheus. Nothing of it ever holds a key, a transcript or a text.

Names and units follow Prometheus' own advice: base units, ``_total`` for what only grows, one prefix.
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

from slng_sidecar import __version__
from slng_sidecar.protocol.reports import TurnReport

disable_created_metrics()  # type: ignore[no-untyped-call]
# Models come from clients; so many are told apart, that a client cannot fill the memory with them.
_MOST_MODELS = 100
_LAG_EVERY = 0.5

_OPEN = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 15)
_FIRST_SOUND = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_ANSWER = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5)
_OWN = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_BYTES = (1_024, 8_192, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576, 4_194_304)

_DURATIONS = {"replayed_ms": "replayed", "dropped_ms": "dropped"}


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("slng_sidecar", "This sidecar", registry=registry).info({"version": __version__})
        prefix = "slng_sidecar_"
        self.sessions = Counter(prefix + "sessions", "Sessions that ended", ["kind", "outcome"], registry=registry)
        self.active = Gauge(prefix + "active_sessions", "Sessions now", ["kind"], registry=registry)
        self.max_sessions = Gauge(prefix + "max_sessions", "Sessions that there is room for", registry=registry)
        self.draining = Gauge(prefix + "draining", "1 while the sidecar is about to stop", registry=registry)
        self.refused = Counter(
            prefix + "refused_requests", "Requests refused before any dial", ["code"], registry=registry
        )
        self.dials = Counter(prefix + "upstream_dials", "Upstream connections dialled", ["kind"], registry=registry)
        self.dial_failures = Counter(
            prefix + "upstream_dial_failures", "Upstream connections that did not open", ["kind", "code"],
            registry=registry,
        )  # fmt: skip
        self.open_seconds = Histogram(
            prefix + "upstream_open_seconds", "From dialling upstream to its ready", ["kind"], buckets=_OPEN,
            registry=registry,
        )  # fmt: skip
        self.losses = Counter(
            prefix + "upstream_losses", "Open upstream connections that ended by themselves", ["kind", "cause"],
            registry=registry,
        )  # fmt: skip
        self.audio = Counter(
            prefix + "audio_seconds", "Sound heard (stt) and said (tts)", ["kind", "model"], registry=registry
        )
        self.characters = Counter(prefix + "characters", "Characters to be said", ["model"], registry=registry)
        self.repaired = Counter(
            prefix + "stt_repaired_audio_seconds", "Sound sent again after a drop, and sound given up",
            ["what"], registry=registry,
        )  # fmt: skip
        self.contexts = Counter(
            prefix + "contexts", "Contexts (turns of speech) that ended", ["model", "outcome"], registry=registry
        )
        self.first_sound_seconds = Histogram(
            prefix + "first_audio_seconds", "From a context's first text to its first sound", ["model"],
            buckets=_FIRST_SOUND, registry=registry,
        )  # fmt: skip
        self.finalizes = Counter(
            prefix + "finalizes", "Finalizes that were answered", ["model", "outcome"], registry=registry
        )
        self.finalize_seconds = Histogram(
            prefix + "finalize_seconds", "From a finalize to its answer", ["model"], buckets=_ANSWER, registry=registry
        )
        self.queue_bytes = Histogram(
            prefix + "client_queue_bytes", "The most that waited for a client, in each session", ["kind"],
            buckets=_BYTES, registry=registry,
        )  # fmt: skip
        self.own_seconds = Histogram(
            prefix + "overhead_seconds", "Own time until the first byte of an HTTP reply", buckets=_OWN,
            registry=registry,
        )  # fmt: skip
        self.tasks = Gauge(prefix + "tasks", "Tasks of the event loop now", registry=registry)
        self.lag_seconds = Histogram(
            prefix + "event_loop_lag_seconds", "How late the event loop runs what is due", buckets=_OWN,
            registry=registry,
        )  # fmt: skip
        self.events = Counter(
            prefix + "session_events", "What sessions dropped, ignored or repaired, by reason", ["kind", "reason"],
            registry=registry,
        )  # fmt: skip
        self.standby = Counter(
            prefix + "standby_needs", "Needs of a connection, by the spare that was there, or why there was none",
            ["kind", "spare"], registry=registry,
        )  # fmt: skip
        self.standby_connections = Gauge(
            prefix + "standby_connections", "Spare connections now", ["state"], registry=registry
        )
        self._models: set[str] = set()
        # What alerts ask about stands at 0 from the start: Prometheus sees no growth in a series that begins at 1.
        for what in _DURATIONS.values():
            self.repaired.labels(what)
        for code in ("session_limit", "local_auth", "forbidden_origin"):
            self.refused.labels(code)
        for kind in ("stt", "tts"):
            self.dial_failures.labels(kind, "auth_error")
            self.sessions.labels(kind, "failed")

    def model(self, name: str) -> str:
        """Give the label for a model: its name, or ``other`` once there are too many."""
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


class SessionMetrics:
    """What one session adds.

    Mutable: ``_told``, how much of the session's tally was added already, and ``_heard``, of its sound.
    """

    def __init__(self, metrics: Metrics, kind: str, model: str) -> None:
        self._metrics = metrics
        self._kind = kind
        self._model = metrics.model(model)
        self._told: Tally[str] = Tally()
        self._heard = 0.0

    def began(self) -> None:
        self._metrics.active.labels(self._kind).inc()

    def dialled(self) -> None:
        self._metrics.dials.labels(self._kind).inc()

    def opened(self, seconds: float) -> None:
        """Note that upstream was ready so long after it was dialled."""
        self._metrics.open_seconds.labels(self._kind).observe(seconds)

    def not_opened(self, code: str) -> None:
        self._metrics.dial_failures.labels(self._kind, code).inc()

    def lost(self, cause: str) -> None:
        self._metrics.losses.labels(self._kind, cause).inc()

    def turn(self, turn: TurnReport, now: float) -> None:
        """Note a turn that has just ended."""
        metrics, model = self._metrics, self._model
        if turn.what == "finalize":
            metrics.finalizes.labels(model, turn.outcome).inc()
            metrics.finalize_seconds.labels(model).observe(now - turn.began)
            return
        metrics.contexts.labels(model, turn.outcome).inc()
        metrics.characters.labels(model).inc(turn.characters)
        metrics.audio.labels(self._kind, model).inc(turn.audio_seconds)
        if turn.first_sound is not None:
            metrics.first_sound_seconds.labels(model).observe(turn.first_sound - turn.began)

    def progress(self, counts: Tally[str], audio_seconds: float) -> None:
        """Add what the session's tally and its sound have grown by."""
        if audio_seconds > self._heard:
            self._metrics.audio.labels(self._kind, self._model).inc(audio_seconds - self._heard)
            self._heard = audio_seconds
        for reason, amount in counts.items():
            grown = amount - self._told[reason]
            if grown <= 0:
                continue
            self._told[reason] = amount
            if reason in _DURATIONS:
                self._metrics.repaired.labels(_DURATIONS[reason]).inc(grown / 1000)
            else:
                self._metrics.events.labels(self._kind, reason).inc(grown)

    def ended(self, outcome: str, queue_bytes: int) -> None:
        self._metrics.active.labels(self._kind).dec()
        self._metrics.sessions.labels(self._kind, outcome).inc()
        self._metrics.queue_bytes.labels(self._kind).observe(queue_bytes)
