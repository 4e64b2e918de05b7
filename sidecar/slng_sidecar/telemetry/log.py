"""The log. It never contains a key, a transcript or a spoken text."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, MutableMapping
from typing import Any, Literal
from urllib.parse import unquote

from typing_extensions import override

# Variables that libraries read addresses and headers from. Libraries log the values that they cannot use.
_PLACES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
)
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
# Shorter secrets would match in the middle of words.
_SHORTEST_HIDDEN = 4


class _TextFormatter(logging.Formatter):
    """Formats lines of text, without the secrets that libraries read from the environment."""

    def __init__(self, form: str | None = None, time_form: str | None = None) -> None:
        super().__init__(form, time_form)
        self._hidden = sorted(set(_given_to_libraries()), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        return self._without_secrets(super().format(record))

    def _without_secrets(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "[hidden]")
        return text


class _JsonFormatter(_TextFormatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._without_secrets(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self._without_secrets(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class SessionLog(logging.LoggerAdapter[logging.Logger]):
    """A logger for one session, which each line names: in the text, and as fields in JSON.

    A line may have more ``fields``. Fields that are None are left out.
    """

    def __init__(self, logger: logging.Logger, **fields: object) -> None:
        """Create a logger with the fields of every line. Lines begin with the fields ``kind`` and ``session``."""
        super().__init__(logger, {})
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._start = f"{fields.get('kind')} session {fields.get('session')}: "

    def note(self, **fields: object) -> None:
        """Add fields to all lines that follow."""
        self._fields.update({name: value for name, value in fields.items() if value is not None})

    @override
    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        own = kwargs.pop("fields", {})
        fields = {**self._fields, **own}
        kwargs["extra"] = {"fields": {name: value for name, value in fields.items() if value is not None}}
        return f"{self._start}{msg}", kwargs


def setup_logging(level: str, form: Literal["text", "json"]) -> None:
    """Send the log to standard error, as lines of text or of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter() if form == "json" else _TextFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # At debug level, these loggers would log keys, texts and transcripts.
    for name in ("websockets", "httpx", "httpcore", "uvicorn", "asyncio", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _given_to_libraries() -> Iterator[str]:
    """Yield the secrets that libraries read from the environment: credentials in addresses, and headers."""
    found: list[str] = []
    for name in _PLACES:
        for value in filter(None, (os.environ.get(name), os.environ.get(name.lower()))):
            credentials = value.rpartition("@")[0].rpartition("://")[2]
            found += [credentials, credentials.partition(":")[2], *re.split("[?#]", value, maxsplit=1)[1:]]
    for name in _HEADERS:
        for header in os.environ.get(name, "").split(","):
            shown = header.partition("=")[2] or header
            found += [shown.strip(), unquote(shown).strip()]
    for text in found:
        # A library may log a secret with escapes.
        yield from (form for form in (text, repr(text)[1:-1]) if len(form) >= _SHORTEST_HIDDEN)
