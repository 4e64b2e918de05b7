"""The text-to-speech session: texts go up part by part, and every sound that comes down belongs to a known context.

Upstream labels nothing, so order is ownership: an upstream connection (a line) carries at most one unfinished part of a
context, and the next one waits for that one's terminal and a moment of quiet. A context is a turn: in the plain dialect
some texts and a flush, in the extended one all texts that bear its name. It has one part, or more where settings
changed within it. A part that was lost before its first sound is said once more from its start.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from slng_sidecar.protocol.commands import DRAIN_GRACE, SHUTDOWN, CloseClient, Command, cut_off, end_with, tell
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.lifecycle import INIT_FIRST, init_overdue, second_init
from slng_sidecar.protocol.messages import parse_object, type_of
from slng_sidecar.protocol.reports import new_reports
from slng_sidecar.protocol.tts.dialects import TtsDialect, bytes_per_second
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.scheduler import Scheduler, about
from slng_sidecar.protocol.updates import ConnectionSettings, read_update

_MAX_HELD = 262_144
_MAX_NAME = 200
_UPDATE_FIELDS = frozenset({"type", "id", "voice", "model", "config"})


class TtsMachine:
    """One TTS session, in either dialect: what the client asks for, and how the session ends.

    Mutable: ``_scheduler``, once ``init`` came; the deadlines ``_init_by`` and ``_closing_at``; ``_flush_owed``, once a
    plain context ended by idling, so that its flush is not taken for another's; ``_drain_by``, once it is to end when
    all is said, from ``_drain_from`` on; ``_ended``.
    """

    def __init__(self, options: TtsOptions, dialect: TtsDialect) -> None:
        self._options = options
        self._dialect = dialect
        self.counts: Counter[str] = Counter()
        self.reports = new_reports()
        self.wants_standby = False
        self.audio_seconds = 0.0
        self._scheduler: Scheduler | None = None
        self._init_by: float | None = None
        self._closing_at: float | None = None
        self._flush_owed = False
        self._drain_by: float | None = None
        self._drain_from = 0.0
        self._ended = False

    def __repr__(self) -> str:
        return f"TtsMachine({self._scheduler or 'before init'})"

    @property
    def deadline(self) -> float | None:
        if self._ended:
            return None
        times = [self._init_by, self._closing_at, self._drain_by]
        if self._drain_by is not None and self._drain_from:
            times.append(self._drain_from)
        if self._scheduler is not None:
            idle = self._options.context_idle
            times.append(self._scheduler.deadline)
            times += [context.touched + idle for context in self._scheduler.contexts if not context.flushed]
        return min((time for time in times if time is not None), default=None)

    @property
    def reads_client(self) -> bool:
        return self._scheduler is None or self._scheduler.contexts.held < _MAX_HELD

    @property
    def ahead_bytes(self) -> int:
        return _MAX_HELD

    # The client

    def started(self, now: float) -> list[Command]:
        self._init_by = now + self._options.init_timeout
        return []

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        if self._ended:
            return []
        self.counts["unexpected_client_binary"] += 1
        text = "A TTS session takes JSON text messages; this binary one was ignored. Audio goes to /stt/."
        return [tell(GatewayError("bad_request", text, fatal=False))]

    def client_text(self, text: str, now: float) -> list[Command]:
        if self._ended or self._closing_at is not None:
            self.counts["message_after_close"] += 1
            return []
        try:
            return self._after(self._asked(parse_object(text), now))
        except GatewayError as error:
            return self._fail(error) if error.fatal else [tell(error)]

    def client_gone(self, now: float) -> list[Command]:
        self._ended = True
        if self._scheduler is None:
            return []
        self._scheduler.contexts.clear("abandoned")
        return self._scheduler.pool.retire_all()

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        return (
            self._after(self._scheduler.upstream_ready(connection, text, now, since))
            if self._scheduler is not None
            else []
        )

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        return self._after(self._scheduler.upstream_text(connection, text, now)) if self._scheduler is not None else []

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        return self._after(self._scheduler.upstream_audio(connection, data, now)) if self._scheduler is not None else []

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        return self._after(self._scheduler.upstream_lost(connection, error, now)) if self._scheduler is not None else []

    def wake(self, now: float) -> list[Command]:
        if self._ended:
            return []
        if self._init_by is not None and now >= self._init_by:
            return self._fail(init_overdue(self._options.init_timeout))
        if self._drain_by is not None and now >= self._drain_by:
            return self._fail(cut_off())
        if now >= self._drain_from:
            self._drain_from = 0.0
        if self._scheduler is None:
            return self._after([])
        if self._closing_at is not None and now >= self._closing_at:
            late = GatewayError("upstream_timeout", "What was left to say was not said in time.", fatal=False)
            return [*self._all_failed(self._scheduler, late), *self._end()]
        for context in self._scheduler.contexts:
            if not context.flushed and now >= context.touched + self._options.context_idle:
                self.counts["idle_contexts_ended"] += 1
                context.flush()
                self._flush_owed = not self._dialect.named
        return self._after(self._scheduler.wake(now))

    def is_busy(self, now: float) -> bool:
        return not self._ended and self._scheduler is not None and bool(self._scheduler.contexts)

    def drain(self, by: float, now: float) -> list[Command]:
        """End once all that was asked for is said; the client hears that and when at the latest."""
        if self._ended or self._drain_by is not None:
            return []
        self._drain_by = by
        self._drain_from = now + DRAIN_GRACE if self._scheduler is None else 0.0
        told = self._dialect.status("draining", cause="shutdown", deadline_ms=round((by - now) * 1000))
        return self._after(told)

    # What the client asks for

    def _asked(self, message: dict[str, Any], now: float) -> list[Command]:
        scheduler, kind = self._scheduler, type_of(message)
        if kind in ("close", "stop"):
            return self._close(now)
        if kind == "init":
            return self._open(message, now)
        if scheduler is None:
            raise GatewayError("bad_request", f"{INIT_FIRST}this message was ignored.", fatal=False)
        match kind:
            case "text":
                return self._text(scheduler, message, now)
            case "flush":
                return self._flush(scheduler, self._name(message), now)
            case "clear":
                name = self._name(message, required=False)
                return scheduler.clear(name, self._dialect.cleared(name), now)
            case "cancel":  # the older spelling, which upstream does not answer either
                return scheduler.clear(self._name(message, required=False), [], now)
            case "update" if self._dialect.named:
                self.counts["unknown_client_fields"] += len(message.keys() - _UPDATE_FIELDS)
                own_key = self._options.own_provider_key
                return scheduler.update(read_update(message, ("voice", "model"), own_provider_key=own_key), now)
            case "keepalive":
                return []
            case _:
                self.counts["unknown_client_message"] += 1
                return []

    def _open(self, message: dict[str, Any], now: float) -> list[Command]:
        if self._scheduler is not None:
            raise second_init()
        init = self._dialect.open(message)
        self.wants_standby = message.get("standby") is True
        init = {name: value for name, value in init.items() if name != "standby"}
        config = init.get("config") or {}
        size = bytes_per_second(config.get("encoding"), config.get("sample_rate"))
        settings = ConnectionSettings(self._options.model, init)
        standby = self._options.standby or self.wants_standby
        self._scheduler = Scheduler(self._options, self._dialect, settings, self.counts, self.reports, size, standby)
        self._init_by = None
        return self._scheduler.open(now)

    def _name(self, message: dict[str, Any], *, required: bool = True) -> str | None:
        """Give a message's ``context_id``; None in the plain dialect."""
        name = message.get("context_id")
        if not self._dialect.named or (name is None and not required):
            return None
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            raise GatewayError(
                "bad_request",
                f"A {type_of(message)} message names its context: a string of 1 to {_MAX_NAME} characters in "
                "'context_id'. This one was ignored.",
                fatal=False,
            )
        return name

    def _text(self, scheduler: Scheduler, message: dict[str, Any], now: float) -> list[Command]:
        name, flush = self._name(message), message.get("flush") is True
        context = scheduler.contexts.last if name is None else scheduler.contexts.named(name)
        if name is not None and (context.flushed if context else scheduler.contexts.is_over(name)):
            self.counts["texts_for_ended_contexts"] += 1
            return []
        try:
            self._check_text(message.get("text"), name)
        except GatewayError as error:
            return [tell(error), *(self._flush(scheduler, name, now) if flush else ())]
        if context is None or context.flushed:
            context = scheduler.contexts.begin(name, now)
            self._flush_owed = False
        own = {key: value for key, value in message.items() if key != "flush" and (name is None or key != "context_id")}
        context.add(own, scheduler.newest, now)
        if flush:
            context.flush()
        return scheduler.go_on(now)

    def _check_text(self, text: object, name: str | None) -> None:
        if not isinstance(text, str) or not text:
            wanted = "A text message carries what to say as a string in 'text'."
            raise GatewayError("bad_request", wanted, fatal=False, context_id=name)
        if len(text) > self._options.max_text:
            raise GatewayError(
                "payload_too_large",
                f"That text has {len(text):,} characters; {self._options.max_text:,} is the most for one "
                "(SIDECAR_MAX_TEXT). It was ignored; send it in parts.",
                fatal=False,
                context_id=name,
            )

    def _flush(self, scheduler: Scheduler, name: str | None, now: float) -> list[Command]:
        context = scheduler.contexts.last if name is None else scheduler.contexts.named(name)
        if name is not None and context is None and not scheduler.contexts.is_over(name):
            # All of a context's texts were refused, or it had none: it ends in its turn all the same.
            context = scheduler.contexts.begin(name, now)
        if context is None or context.flushed:
            # Upstream's reaction to a flush without a text is not known, so it is not asked.
            self.counts["empty_flushes"] += 1
            owed, self._flush_owed = self._flush_owed, False
            return [] if owed or scheduler.contexts else self._dialect.nothing_flushed()
        context.flush()
        return scheduler.go_on(now)

    def _close(self, now: float) -> list[Command]:
        self._closing_at = now + self._options.close_timeout
        if self._scheduler is None:
            return []
        for context in self._scheduler.contexts:
            if not context.flushed:
                context.flush()
        return self._scheduler.go_on(now)

    # The end

    def _after(self, commands: list[Command]) -> list[Command]:
        """Add the session's end, where it has come."""
        if self._ended:
            return commands
        scheduler = self._scheduler
        if scheduler is not None and scheduler.hopeless is not None:
            return commands + self._fail(scheduler.hopeless)
        drained = self._drain_by is not None and not self._drain_from
        if (self._closing_at is not None or drained) and not (scheduler and scheduler.contexts):
            return commands + self._end()
        return commands

    def _all_failed(self, scheduler: Scheduler, error: GatewayError) -> list[Command]:
        """Tell of a failure that concerns all that is left."""
        if not self._dialect.named:
            return [tell(error)] if scheduler.contexts else []
        commands: list[Command] = []
        for context in scheduler.contexts:
            commands += [tell(about(context, error)), *self._dialect.ended(context, "failed")]
        return commands

    def _end(self) -> list[Command]:
        self._ended = True
        commands = self._scheduler.end("the session was closed") if self._scheduler is not None else []
        return [*commands, CloseClient(1000, "") if self._drain_by is None else SHUTDOWN]

    def _fail(self, error: GatewayError) -> list[Command]:
        self._ended = True
        commands: list[Command] = []
        if self._scheduler is not None:
            if self._dialect.named:
                for context in self._scheduler.contexts:
                    commands += self._dialect.ended(context, "failed")
            commands += self._scheduler.end(error.message)
        return [*commands, *end_with(error)]
