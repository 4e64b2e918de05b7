"""The text-to-speech session: the client's messages, and how the session ends.

Texts go up turn by turn, and all audio that comes down belongs to a known context. A context is what the client calls
one: in the plain dialect some texts and a flush, in the extended dialect all texts with its id.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from slng_sidecar.protocol.commands import CloseClient, Command, close_with, send_error
from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
from slng_sidecar.protocol.lifecycle import SHUTDOWN, Lifecycle, Phase, init_missing, second_init
from slng_sidecar.protocol.messages import parse_object, type_of
from slng_sidecar.protocol.reports import new_reports
from slng_sidecar.protocol.tts.dialects import TtsDialect, bytes_per_second
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.scheduler import Scheduler, about
from slng_sidecar.protocol.updates import ConnectionSettings, read_update

_MAX_CHARACTERS_KEPT = 262_144
_MAX_ID = 200
_UPDATE_FIELDS = frozenset({"type", "id", "voice", "model", "config"})


class TtsMachine:
    """One TTS session, in either dialect.

    Mutable: ``_life``, its phase and deadlines; ``_scheduler``, once the ``init`` came; ``_flush_owed``, once a plain
    context ended because it was idle, so that its flush is not taken for another's; ``_grace_until``, while a session
    without an ``init`` is given time before a drain ends it.
    """

    def __init__(self, options: TtsOptions, dialect: TtsDialect) -> None:
        self._options = options
        self._dialect = dialect
        self._life = Lifecycle(options.init_timeout, options.close_timeout)
        self._scheduler: Scheduler | None = None
        self._flush_owed = False
        self._grace_until: float | None = None
        self.counts: Counter[str] = Counter()
        self.reports = new_reports()
        self.wants_standby = False
        self.audio_seconds = 0.0

    def __repr__(self) -> str:
        return f"TtsMachine({self._scheduler or 'before init'})"

    @property
    def deadline(self) -> float | None:
        """When to call ``wake``; None for never."""
        if self._life.is_ended:
            return None
        times = [self._life.deadline, self._grace_until]
        if self._scheduler is not None:
            idle = self._options.context_idle
            times.append(self._scheduler.deadline)
            times += [context.touched + idle for context in self._scheduler.contexts if not context.flushed]
        return min((time for time in times if time is not None), default=None)

    @property
    def reads_client(self) -> bool:
        """Whether to go on reading the client, which is held back while too much text waits."""
        return self._scheduler is None or self._scheduler.contexts.characters_kept < _MAX_CHARACTERS_KEPT

    @property
    def ahead_bytes(self) -> int:
        """How many bytes may wait for upstream before the client is held back."""
        return _MAX_CHARACTERS_KEPT

    # The client

    def started(self, now: float) -> list[Command]:
        """Start to wait for the ``init``."""
        self._life.start(now)
        return []

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        """Refuse a binary message of the client, which means nothing in a TTS session."""
        if self._life.is_ended:
            return []
        self.counts["unexpected_client_binary"] += 1
        text = "A TTS session takes JSON text messages; this binary one was ignored. Send audio to an STT session."
        return [send_error(GatewayError(ErrorCode.BAD_REQUEST, text, fatal=False))]

    def client_text(self, text: str, now: float) -> list[Command]:
        """Handle a text message of the client."""
        if not self._life.takes_messages:
            self.counts["message_after_close"] += 1
            return []
        try:
            return self._end_if_over(self._message(parse_object(text), now), now)
        except GatewayError as error:
            return self._fail(error) if error.fatal else [send_error(error)]

    def client_gone(self, now: float) -> list[Command]:
        """Close everything: the client is gone."""
        self._life.end()
        if self._scheduler is None:
            return []
        self._scheduler.contexts.end_all("abandoned")
        return self._scheduler.pool.retire_all()

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        """Handle a connection's ``ready``."""
        if self._scheduler is None:
            return []
        return self._end_if_over(self._scheduler.upstream_ready(connection, text, now, since), now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        """Handle a text message of upstream."""
        if self._scheduler is None:
            return []
        return self._end_if_over(self._scheduler.upstream_text(connection, text, now), now)

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        """Handle audio of upstream."""
        if self._scheduler is None:
            return []
        return self._end_if_over(self._scheduler.upstream_audio(connection, data, now), now)

    def upstream_lost(self, connection: int, close: Close, now: float) -> list[Command]:
        """Handle the end of a connection that was not retired."""
        if self._scheduler is None:
            return []
        return self._end_if_over(self._scheduler.upstream_lost(connection, close, now), now)

    def wake(self, now: float) -> list[Command]:
        """Do what is due at ``deadline``."""
        if self._life.is_ended:
            return []
        if (overdue := self._life.init_overdue(now) or self._life.drain_overdue(now)) is not None:
            return self._fail(overdue)
        if self._grace_until is not None and now >= self._grace_until:
            self._grace_until = None
        if self._scheduler is None:
            return self._end_if_over([], now)
        if self._life.close_is_overdue(now):
            text = "What was left to say was not said in time."
            late = GatewayError(ErrorCode.UPSTREAM_TIMEOUT, text, fatal=False)
            return [*self._fail_contexts(self._scheduler, late), *self._end()]
        for context in self._scheduler.contexts:
            if not context.flushed and now >= context.touched + self._options.context_idle:
                self.counts["idle_contexts_ended"] += 1
                context.flush()
                self._flush_owed = not self._dialect.names_contexts
        return self._end_if_over(self._scheduler.wake(now), now)

    def is_busy(self, now: float) -> bool:
        """Return whether an end now would cut something that is being said."""
        return not self._life.is_ended and self._scheduler is not None and bool(self._scheduler.contexts)

    def drain(self, by: float, now: float) -> list[Command]:
        """End once everything that was asked for is said, and report that and ``by`` to the client."""
        if self._life.is_ended or self._life.is_draining:
            return []
        self._life.drain(by, now)
        self._grace_until = self._life.drains_from if self._life.phase is Phase.NEW else None
        status = self._dialect.status("draining", cause="shutdown", deadline_ms=round((by - now) * 1000))
        return self._end_if_over(status, now)

    # What the client asks for

    def _message(self, message: dict[str, Any], now: float) -> list[Command]:
        scheduler, kind = self._scheduler, type_of(message)
        if kind in ("close", "stop"):
            return self._close(now)
        if kind == "init":
            return self._open(message, now)
        if scheduler is None:
            raise init_missing()
        match kind:
            case "text":
                return self._text(scheduler, message, now)
            case "flush":
                return self._flush(scheduler, self._context_id(message), now)
            case "clear":
                context_id = self._context_id(message, required=False)
                return scheduler.clear(context_id, self._dialect.cleared(context_id), now)
            case "cancel":  # SLNG's older name for clear, which upstream does not answer either
                return scheduler.clear(self._context_id(message, required=False), [], now)
            case "update" if self._dialect.names_contexts:
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
        self._life.open()
        return self._scheduler.open(now)

    def _context_id(self, message: dict[str, Any], *, required: bool = True) -> str | None:
        """Return a message's ``context_id``; None in the plain dialect.

        Raises:
            GatewayError: ``bad_request``, not fatal, if the id is missing or cannot be used.
        """
        context_id = message.get("context_id")
        if not self._dialect.names_contexts or (context_id is None and not required):
            return None
        if not isinstance(context_id, str) or not 0 < len(context_id) <= _MAX_ID:
            raise GatewayError(
                ErrorCode.BAD_REQUEST,
                f"A {type_of(message)} message needs a 'context_id', a string of 1 to {_MAX_ID} characters. This one "
                "was ignored.",
                fatal=False,
            )
        return context_id

    def _text(self, scheduler: Scheduler, message: dict[str, Any], now: float) -> list[Command]:
        context_id, flush = self._context_id(message), message.get("flush") is True
        contexts = scheduler.contexts
        context = contexts.last if context_id is None else contexts.get(context_id)
        if context_id is not None and (context.flushed if context else contexts.has_ended(context_id)):
            self.counts["texts_for_ended_contexts"] += 1
            return []
        try:
            self._check_text(message.get("text"), context_id)
        except GatewayError as error:
            return [send_error(error), *(self._flush(scheduler, context_id, now) if flush else ())]
        if context is None or context.flushed:
            context = contexts.begin(context_id, now)
            self._flush_owed = False
        local = {"flush"} if context_id is None else {"flush", "context_id"}
        context.add({key: value for key, value in message.items() if key not in local}, scheduler.newest, now)
        if flush:
            context.flush()
        return scheduler.advance(now)

    def _check_text(self, text: object, context_id: str | None) -> None:
        if not isinstance(text, str) or not text:
            wanted = "A text message needs what to say as a string in 'text'."
            raise GatewayError(ErrorCode.BAD_REQUEST, wanted, fatal=False, context_id=context_id)
        if len(text) > self._options.max_text:
            raise GatewayError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"That text has {len(text):,} characters, and one text may have at most {self._options.max_text:,} "
                "(SIDECAR_MAX_TEXT). It was ignored; send it in parts.",
                fatal=False,
                context_id=context_id,
            )

    def _flush(self, scheduler: Scheduler, context_id: str | None, now: float) -> list[Command]:
        contexts = scheduler.contexts
        context = contexts.last if context_id is None else contexts.get(context_id)
        if context_id is not None and context is None and not contexts.has_ended(context_id):
            # All texts of this context were refused, or it had none. It still ends in its turn.
            context = contexts.begin(context_id, now)
        if context is None or context.flushed:
            # How upstream answers a flush without a text is not known, so none is sent.
            self.counts["empty_flushes"] += 1
            owed, self._flush_owed = self._flush_owed, False
            return [] if owed or contexts else self._dialect.nothing_flushed()
        context.flush()
        return scheduler.advance(now)

    def _close(self, now: float) -> list[Command]:
        self._life.close(now)
        if self._scheduler is None:
            return []
        for context in self._scheduler.contexts:
            if not context.flushed:
                context.flush()
        return self._scheduler.advance(now)

    # The end

    def _end_if_over(self, commands: list[Command], now: float) -> list[Command]:
        """Add the end of the session if it has come."""
        life, scheduler = self._life, self._scheduler
        if life.is_ended:
            return commands
        if scheduler is not None and scheduler.hopeless is not None:
            return commands + self._fail(scheduler.hopeless)
        is_closing = life.phase is Phase.CLOSING or life.may_drain(now)
        if is_closing and not (scheduler and scheduler.contexts):
            return commands + self._end()
        return commands

    def _fail_contexts(self, scheduler: Scheduler, error: GatewayError) -> list[Command]:
        """Report a failure of everything that is left."""
        if not self._dialect.names_contexts:
            return [send_error(error)] if scheduler.contexts else []
        commands: list[Command] = []
        for context in scheduler.contexts:
            commands += [send_error(about(context, error)), *self._dialect.ended(context, "failed")]
        return commands

    def _end(self) -> list[Command]:
        self._life.end()
        commands = self._scheduler.end("the session was closed") if self._scheduler is not None else []
        return [*commands, SHUTDOWN if self._life.is_draining else CloseClient(1000, "")]

    def _fail(self, error: GatewayError) -> list[Command]:
        self._life.end()
        commands: list[Command] = []
        if self._scheduler is not None:
            if self._dialect.names_contexts:
                for context in self._scheduler.contexts:
                    commands += self._dialect.ended(context, "failed")
            commands += self._scheduler.end(error.message)
        return [*commands, *close_with(error)]
