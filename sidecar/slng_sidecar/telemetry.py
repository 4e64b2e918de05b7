"""The log. It never holds a key, a transcript or a spoken text."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Literal


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class SessionLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines say which session they are about: in words, and as fields in JSON.

    A line may have ``fields`` of its own besides, of which None is left out, too.
    """

    def __init__(self, logger: logging.Logger, **fields: object) -> None:
        """Take the fields: ``session`` and ``kind``, which each line begins with, and more; None is left out."""
        super().__init__(logger, {})
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._start = f"{fields.get('kind')} session {fields.get('session')}: "

    def note(self, **fields: object) -> None:
        """Add fields that have become known."""
        self._fields.update({name: value for name, value in fields.items() if value is not None})

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        own = kwargs.pop("fields", {})
        fields = {**self._fields, **own}
        kwargs["extra"] = {"fields": {name: value for name, value in fields.items() if value is not None}}
        return f"{self._start}{msg}", kwargs


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
