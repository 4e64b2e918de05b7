"""A collector of traces that keeps the OTLP requests that it receives."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.http_tools import QuietHandler, http_server


class Collector:
    """The requests that the collector received."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    @property
    def spans(self) -> list[Any]:
        found = []
        for body in self.requests:
            request = ExportTraceServiceRequest.FromString(body)
            found += [s for resource in request.resource_spans for scope in resource.scope_spans for s in scope.spans]
        return found

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextlib.contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    collector = Collector()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.requests.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with http_server(Handler) as url:
        yield url, collector
