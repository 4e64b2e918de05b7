"""Write the reference pages that come from the code: settings, errors, metrics and the command line.

``make docs`` runs this. A page is ordinary text with blocks between ``<!-- generated: NAME -->`` and
``<!-- end -->``; only those blocks are replaced, so that the text around them can be edited by hand.
``tests/docs/test_generated.py`` fails if a committed block differs from what this writes.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import ByteSize
from slng_sidecar.cli.main import app
from slng_sidecar.config import FIXED, Settings
from slng_sidecar.keys import SECRETS
from slng_sidecar.protocol.errors import STATUS_OF_CODE, GatewayError
from slng_sidecar.telemetry.metrics import Metrics

REFERENCE = Path(__file__).parent / "reference"
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

NOTHING = "\N{EN DASH}"

# Headings of the settings page, each before the first setting of its group.
SETTING_GROUPS = {
    "slng_api_key": "Upstream",
    "sidecar_host": "Listening and access",
    "sidecar_confidence_threshold": "Speech",
    "sidecar_max_sessions": "Limits",
    "sidecar_init_timeout": "Deadlines",
    "sidecar_log_level": "Log",
}

# Who reports a code, and what it means to the person who reads it.
ERROR_MEANINGS = {
    "auth_error": (
        "both",
        (
            "SLNG or the provider refused the key, or the sidecar has no key. "
            "See [auth_error](../troubleshoot/auth-error.md)."
        ),
    ),
    "config_error": (
        "both",
        (
            "A field of `init` or of the request has a value that is not allowed, or the model does "
            "not exist. The message names the field."
        ),
    ),
    "invalid_request": ("upstream", "SLNG could not read the request."),
    "payload_too_large": ("both", "The text, file or form is larger than allowed. The message names the setting."),
    "rate_limit": (
        "upstream",
        ("SLNG allows no more sessions or requests now. See [429](../troubleshoot/too-many-requests.md)."),
    ),
    "rate_limit_exceeded": ("upstream", "Another spelling of `rate_limit`."),
    "idle_timeout_exceeded": ("upstream", "SLNG closed a connection that was idle for too long."),
    "max_connection_duration_exceeded": ("upstream", "SLNG closed a connection that reached its maximum duration."),
    "provider_error": ("both", "The speech provider failed, or returned no audio for a text."),
    "backend_error": ("upstream", "SLNG failed while it processed the request."),
    "backend_connection_failed": ("upstream", "SLNG could not reach the speech provider."),
    "not_ready": ("upstream", "SLNG answered 503: it is not ready for this request."),
    "backpressure": ("upstream", "SLNG receives data faster than it can process it."),
    "stt_metering_unavailable": ("upstream", "SLNG cannot meter usage now."),
    "translation_error": ("upstream", "SLNG could not translate between its own messages and the provider's."),
    "pronunciation_not_found": ("upstream", "SLNG has no pronunciation dictionary with that name."),
    "invalid_pronunciation": ("upstream", "The `pronunciation` field is not valid."),
    "local_auth": (
        "sidecar",
        ("The client sent no token, or a wrong one. Send `Authorization: Bearer` with the sidecar's token."),
    ),
    "forbidden_origin": (
        "sidecar",
        ("The `Host` or `Origin` header is not allowed. See [403](../troubleshoot/forbidden-host-or-origin.md)."),
    ),
    "not_found": ("sidecar", "There is no such route, or no such model in the catalogue."),
    "method_not_allowed": ("sidecar", "The route exists, but not with this method."),
    "bad_request": ("sidecar", "The sidecar could not use the message or the request. The message says why."),
    "session_limit": (
        "sidecar",
        (
            "All sessions of the sidecar, or of this client, are in use. "
            "See [429](../troubleshoot/too-many-requests.md)."
        ),
    ),
    "draining": ("sidecar", "The sidecar is shutting down. Connect to another one, or try again later."),
    "upstream_unreachable": ("sidecar", "The sidecar could not connect to SLNG. The message names the host."),
    "upstream_timeout": ("sidecar", "SLNG did not answer within the deadline."),
    "upstream_closed": (
        "sidecar",
        ("SLNG closed the connection, or the connection was lost. `upstream` holds the close code and the reason."),
    ),
    "audio_overflow": (
        "sidecar",
        (
            "Upstream was away for longer than `SIDECAR_REPLAY_SECONDS`, so the oldest audio "
            "was discarded. The session continues."
        ),
    ),
    "unsupported_audio_format": (
        "sidecar",
        ("The sidecar cannot decode or encode this audio format. Some formats need the `codecs` extra."),
    ),
    "client_stuck": ("sidecar", "The client sent nothing for too long in the middle of a request."),
    "internal_error": ("sidecar", "The sidecar failed. Its log has a traceback; please report it."),
}


def settings_tables() -> str:
    """Return a table of settings for each group."""
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        if name in SETTING_GROUPS or not lines:
            lines += ["", f"## {SETTING_GROUPS.get(name, 'Settings')}", "", "| Variable | Default | Meaning |",
                      "|---|---|---|"]  # fmt: skip
        shown = f"`{name.upper()}`" + (f"<br>`{name.upper()}_FILE`" if name in SECRETS else "")
        lines.append(f"| {shown} | {_default(field.default)} | {_setting(name, field)} |")
    return "\n".join(lines[1:]) + "\n"


def _setting(name: str, field: Any) -> str:
    sentences = [_sentence(field.description or "")]
    if typing.get_origin(field.annotation) is Literal:
        *values, last = (f"`{value}`" for value in typing.get_args(field.annotation))
        sentences.append(f"One of {', '.join(values)} or {last}.")
    if name not in FIXED:
        sentences.append("*Reloadable.*")
    return _cell(" ".join(filter(None, sentences)))


def _default(value: object) -> str:
    if value in (None, (), {}):
        return NOTHING
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{int(value)}`" if isinstance(value, ByteSize) else f"`{value}`"


def errors_table() -> str:
    """Return a table of all error codes, the sidecar's own ones last."""
    lines = ["| Code | Reported by | HTTP status | Retry? | Close code | Meaning |", "|---|---|---|---|---|---|"]
    for code, status in STATUS_OF_CODE.items():
        error = GatewayError(code, "")
        who, meaning = ERROR_MEANINGS.get(str(code), ("", ""))
        retry = "yes" if error.retryable else "no"
        lines.append(f"| `{code!s}` | {who} | {int(status)} | {retry} | {error.close_code} | {meaning} |")
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    """Return a table of all metrics, as they are scraped."""
    registry = Metrics().registry
    labels = {name: getattr(collector, "_labelnames", ()) for name, collector in registry._names_to_collectors.items()}
    endings = {"counter": "_total", "info": "_info"}
    lines = ["| Metric | Type | Unit | Labels | Meaning |", "|---|---|---|---|---|"]
    for family in sorted(registry.collect(), key=lambda family: family.name.startswith("process_")):
        name = family.name + endings.get(family.type, "")
        own = ("version",) if family.type == "info" else labels.get(family.name, ())
        shown = ", ".join(f"`{label}`" for label in own) or NOTHING
        lines.append(
            f"| `{name}` | {family.type} | {_unit(name)} | {shown} | {_cell(_sentence(family.documentation))} |"
        )
    return "\n".join(lines) + "\n"


def _unit(name: str) -> str:
    base = name.removesuffix("_total")
    return next((unit for unit in ("seconds", "bytes") if base.endswith(f"_{unit}")), NOTHING)


def commands() -> str:
    """Return a section with a table of options for each command."""
    group: Any = typer.main.get_command(app)
    root = group.make_context("slng-sidecar", ["check"], resilient_parsing=True)
    parts: list[str] = []
    for name, command in group.commands.items():
        context = command.make_context(name, [], parent=root, resilient_parsing=True)
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
        parts.append(f"## {name}\n\n{_sentence(command.help or '')}\n\n```\n{usage}\n```\n")
        rows = [row for parameter in command.params if (row := parameter.get_help_record(context)) is not None]
        if rows:
            parts.append("| Option | Meaning |\n|---|---|")
            parts += [f"| `{option}` | {_cell(_option(text))} |" for option, text in rows]
            parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def _option(text: str) -> str:
    """Return an option's help with its default and range as code."""
    meaning, _, extra = text.partition("  [")
    return " ".join(filter(None, (_sentence(meaning), f"`[{extra}`" if extra else "")))


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        return ""
    first = text.split(" ", 1)[0]
    # A name that begins with a small letter, such as an encoding, keeps it.
    text = text[0].upper() + text[1:] if first.isalpha() else text
    return text if text[-1] in ".!?" else f"{text}."


def _cell(text: str) -> str:
    return re.sub(r"(?<![`\\])\|", r"\\|", text)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_tables,
    "errors": errors_table,
    "metrics": metrics_table,
    "commands": commands,
}


def pages() -> Iterator[tuple[Path, str, str]]:
    """Yield each page that has generated blocks: its path, its text now, and the text that it should have."""
    for path in sorted(REFERENCE.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block[2]]()}\n{block[3]}", text)
        if BLOCK.search(text):
            yield path, text, fresh


def main() -> None:
    """Write the pages."""
    for path, text, fresh in pages():
        if text != fresh:
            path.write_text(fresh, encoding="utf-8")
            print(f"wrote {path.relative_to(REFERENCE.parents[1])}", file=sys.stderr)


if __name__ == "__main__":
    main()
