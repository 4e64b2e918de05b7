"""Traces for OpenTelemetry: a span for each session, and below it one for each context and each finalize.

The extra ``otel`` installs what it needs, and OpenTelemetry's own environment switches it on and says where to:
``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``. Spans hold models, ids, sizes and times,
never a key, a transcript or a text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING

from slng_sidecar import __version__
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.route import Target

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# A collector that does not answer must not hold up the end of the process; OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
_TIMEOUT = 3.0
_SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """Where spans go, for the life of the process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("slng_sidecar", __version__)

    @classmethod
    def from_environment(cls) -> Tracing | None:
        """Begin to send spans, if the environment says where to; ``None`` if it does not, or the extra is missing."""
        if not any(os.environ.get(name) for name in _SWITCHES) or os.environ.get("OTEL_SDK_DISABLED") == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            log.warning(
                "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, and pip install 'slng-sidecar[otel]' is missing"
            )
            return None
        # What is in OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME wins.
        resource = Resource({"service.name": "slng-sidecar", "service.version": __version__}).merge(Resource.create())
        provider = TracerProvider(resource=resource)
        timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else _TIMEOUT
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
        return cls(provider)

    def session(self, target: Target, number: int) -> SessionTrace:
        """Begin the span of a session."""
        attributes: dict[str, str | int] = {
            "slng.session": number,
            "slng.kind": target.kind,
            "slng.model": target.model,
        }
        if target.session_id is not None:
            attributes["slng.session_id"] = target.session_id
        if target.agent_id is not None:
            attributes["slng.agent_id"] = target.agent_id
        return SessionTrace(self, self._tracer.start_span(f"{target.kind} session", attributes=attributes), target)

    def turn(
        self, parent: Span, turn: TurnReport, target: Target, start: int, end: int, first_sound: int | None
    ) -> None:
        """Send the span of a turn; times are nanoseconds of the epoch."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        attributes: dict[str, str | int | float] = {"slng.model": target.model, "slng.outcome": turn.outcome}
        if turn.what == "context":
            attributes["slng.characters"] = turn.characters
            attributes["slng.audio_seconds"] = turn.audio_seconds
        span = self._tracer.start_span(
            turn.what, context=set_span_in_context(parent), start_time=start, attributes=attributes
        )
        if first_sound is not None:
            span.add_event("first audio", timestamp=first_sound)
        if turn.outcome in ("failed", "timeout"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    async def close(self) -> None:
        """Send what is left."""
        await asyncio.to_thread(self._provider.shutdown)


class SessionTrace:
    """The span of one session, told by the session as it goes on."""

    def __init__(self, tracing: Tracing, span: Span, target: Target) -> None:
        self._tracing = tracing
        self._span = span
        self._target = target
        # Sessions live on the loop's clock, spans on the wall's.
        self._epoch = time.time() - asyncio.get_running_loop().time()

    def dialled(self) -> None:
        self._span.add_event("dial")

    def opened(self, seconds: float) -> None:
        self._span.add_event("upstream ready", {"slng.open_seconds": seconds})

    def not_opened(self, code: str) -> None:
        self._span.add_event("upstream not opened", {"slng.code": code})

    def lost(self, cause: str) -> None:
        self._span.add_event("upstream lost", {"slng.code": cause})

    def turn(self, turn: TurnReport, now: float) -> None:
        first = None if turn.first_sound is None else self._at(turn.first_sound)
        self._tracing.turn(self._span, turn, self._target, self._at(turn.began), self._at(now), first)

    def progress(self, counts: Counter[str], audio_seconds: float) -> None: ...

    def ended(self, outcome: str, audio_seconds: float) -> None:
        """End the span."""
        self._span.set_attribute("slng.outcome", outcome)
        if audio_seconds:
            self._span.set_attribute("slng.audio_seconds", audio_seconds)
        self._span.end()

    def _at(self, moment: float) -> int:
        return int((moment + self._epoch) * 1e9)
