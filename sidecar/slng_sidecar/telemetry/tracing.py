"""Traces for OpenTelemetry: a span for each session, and below it one for each context and each finalize.

The extra ``otel`` installs what this needs. OpenTelemetry's own environment variables switch it on and name the
collector: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``. Spans contain models, ids, sizes
and times, never a key, a transcript or a text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from typing_extensions import override

from slng_sidecar import __version__
from slng_sidecar.protocol.reports import TurnReport, UpstreamObserver
from slng_sidecar.protocol.route import Target

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# A collector that does not answer must not delay the end of the process. OTEL_EXPORTER_OTLP_TIMEOUT overrides this.
_TIMEOUT = 3.0
_SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing:
    """Sends spans to a collector, for the life of the process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("slng_sidecar", __version__)

    @classmethod
    def from_environment(cls) -> Tracing | None:
        """Return a tracing that sends spans; None if no collector is configured or the ``otel`` extra is missing."""
        if not any(os.environ.get(name) for name in _SWITCHES) or os.environ.get("OTEL_SDK_DISABLED") == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            log.warning(
                "no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the otel extra is missing "
                "(pip install 'slng-sidecar[otel]')"
            )
            return None
        # OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME take precedence.
        resource = Resource({"service.name": "slng-sidecar", "service.version": __version__}).merge(Resource.create())
        provider = TracerProvider(resource=resource)
        timeout = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else _TIMEOUT
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)))
        return cls(provider)

    def session(self, target: Target, number: int) -> SessionTrace:
        """Start the span of a session."""
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
        self, parent: Span, report: TurnReport, target: Target, start: int, end: int, first_audio: int | None
    ) -> None:
        """Send the span of a context or a finalize. Times are nanoseconds since the epoch."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        attributes: dict[str, str | int | float] = {"slng.model": target.model, "slng.outcome": report.outcome}
        if report.what == "context":
            attributes["slng.characters"] = report.characters
            attributes["slng.audio_seconds"] = report.audio_seconds
        span = self._tracer.start_span(
            report.what, context=set_span_in_context(parent), start_time=start, attributes=attributes
        )
        if first_audio is not None:
            span.add_event("first audio", timestamp=first_audio)
        if report.outcome in ("failed", "timeout"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    async def close(self) -> None:
        """Send the spans that are left."""
        await asyncio.to_thread(self._provider.shutdown)


class SessionTrace(UpstreamObserver):
    """The span of one session, to which the session's events are added."""

    def __init__(self, tracing: Tracing, span: Span, target: Target) -> None:
        self._tracing = tracing
        self._span = span
        self._target = target
        # Sessions use the loop's clock, spans the wall clock.
        self._epoch = time.time() - asyncio.get_running_loop().time()

    @override
    def dialled(self) -> None:
        self._span.add_event("dial")

    @override
    def ready(self, seconds: float) -> None:
        self._span.add_event("upstream ready", {"slng.open_seconds": seconds})

    @override
    def not_opened(self, code: str) -> None:
        self._span.add_event("upstream not opened", {"slng.code": code})

    @override
    def lost(self, cause: str) -> None:
        self._span.add_event("upstream lost", {"slng.code": cause})

    @override
    def turn(self, report: TurnReport, now: float) -> None:
        first = None if report.first_audio is None else self._at(report.first_audio)
        self._tracing.turn(self._span, report, self._target, self._at(report.began), self._at(now), first)

    def ended(self, outcome: str, audio_seconds: float) -> None:
        """End the span."""
        self._span.set_attribute("slng.outcome", outcome)
        if audio_seconds:
            self._span.set_attribute("slng.audio_seconds", audio_seconds)
        self._span.end()

    def _at(self, moment: float) -> int:
        return int((moment + self._epoch) * 1e9)
