"""Logs and metrics. Neither ever holds a key, a transcript or a spoken text."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter as Tally
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup_logging(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to standard error, in lines of text or of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # At their debug level these would write what goes over the wire: keys, texts and transcripts.
    for name in ("websockets", "httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Metrics:
    """What the sidecar counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Counter(
            "slng_sidecar_sessions", "Sessions that ended", ["kind", "outcome"], registry=self.registry
        )
        self.active = Gauge("slng_sidecar_active_sessions", "Sessions now", ["kind"], registry=self.registry)
        self.dials = Counter(
            "slng_sidecar_upstream_dials", "Upstream connections dialled", ["kind"], registry=self.registry
        )
        self.refused = Counter(
            "slng_sidecar_refused_requests", "Requests refused before any dial", ["code"], registry=self.registry
        )
        self.events = Counter(
            "slng_sidecar_session_events",
            "What sessions dropped, ignored or repaired, by reason",
            ["kind", "reason"],
            registry=self.registry,
        )

    def session_ended(self, kind: str, outcome: str, counts: Tally[str]) -> None:
        """Add up one session."""
        self.sessions.labels(kind, outcome).inc()
        for reason, amount in counts.items():
            self.events.labels(kind, reason).inc(amount)
