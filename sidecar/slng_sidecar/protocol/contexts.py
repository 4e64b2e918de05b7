"""The text-to-speech session: texts go up one turn at a time, and every sound that comes down belongs to a known turn.

Upstream labels nothing, so order is ownership: an upstream connection carries at most one unfinished context (a turn:
some texts and a flush). The next one waits for that one's terminal and a moment of quiet. A connection that closes or
is spent after a turn, as some routes do, is replaced before the next text; a context that was lost before its first
sound is said once more from its start.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

from slng_sidecar.protocol.commands import CloseClient, Command, Dial, Retire, SendClient, SendUpstream, end_with, tell
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import (
    Audio,
    Cleared,
    Failure,
    Other,
    Ready,
    Terminal,
    TtsMessage,
    dump,
    parse_object,
    parse_tts,
    type_of,
)
from slng_sidecar.protocol.opening import INIT_FIRST, check_init, init_overdue, second_init

# LiveKit's newest client waits this long for the acknowledgement of a clear, and this long for quiet after a terminal.
_CLEARED_TIMEOUT = 1.0
_QUIET = 0.1
_MAX_HELD = 262_144


@dataclass(frozen=True, slots=True)
class TtsOptions:
    """What the operator set for TTS sessions; times are seconds."""

    terminal_form: Literal["upstream", "audio_end", "flushed"] = "upstream"
    flush: Literal["standalone", "inline"] = "standalone"
    max_text: int = 10_000
    context_idle: float = 60
    init_timeout: float = 30
    first_audio_timeout: float = 30
    terminal_timeout: float = 15
    close_timeout: float = 5


class _Link(enum.Enum):
    """The state of the upstream connection."""

    NONE = "none"
    OPENING = "opening"
    READY = "ready"  # takes the next context, once ``_quiet_at`` is past
    BUSY = "busy"  # carries the head of ``_contexts``
    CLEARING = "clearing"  # its context was cleared; the acknowledgement is awaited


@dataclass(slots=True)
class _Context:
    """A turn: what the client said of it, and how far it has come.

    ``texts`` are kept until the first sound, so that they can be said again; the first ``sent`` of them are upstream.
    """

    texts: list[dict[str, Any]] = field(default_factory=list)
    flushed: bool = False
    sent: int = 0
    flush_sent: bool = False
    audio_bytes: int = 0
    retried: bool = False
    failed: bool = False  # the client was told of a failure; what it still adds is said, and its flush ends it
    touched: float = 0.0  # when the client last added to it
    progress: float = 0.0  # when upstream last showed a sign of it

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it to say."""
        return not self.sent and not self.audio_bytes and all(text["text"].isspace() for text in self.texts)

    def __repr__(self) -> str:
        return f"<{self.sent}/{len(self.texts)} texts{' flushed' if self.flushed else ''}, {self.audio_bytes} bytes>"


class TtsMachine:
    """One TTS session of a plain client.

    Mutable: ``_init``, once known; ``_contexts``, oldest first, of which only the head may be upstream; ``_link`` with
    ``_connection``, its number, and ``_quiet_at``, when it may be used again; the deadlines ``_init_by``, ``_clear_by``
    and ``_closing_at``; ``_clears_owed``, how many ``cleared`` this connection has still to send, in order, and whether
    ``_cleared_turn_ended`` since the last clear; ``_flush_owed``, once a context ended by idling, so that its flush is
    not taken for another's; ``_told_ready``, ``_ended``.
    """

    def __init__(self, options: TtsOptions) -> None:
        self._options = options
        self._init: str | None = None
        self._contexts: deque[_Context] = deque()
        self._link = _Link.NONE
        self._connection = -1
        self._quiet_at = 0.0
        self._init_by: float | None = None
        self._clear_by: float | None = None
        self._clears_owed = 0
        self._cleared_turn_ended = False
        self._closing_at: float | None = None
        self._flush_owed = False
        self._told_ready = False
        self._ended = False
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"TtsMachine({self._link.value} {self._connection}, {list(self._contexts)})"

    @property
    def deadline(self) -> float | None:
        if self._ended:
            return None
        times = [self._init_by, self._clear_by, self._closing_at]
        if self._contexts:
            head = self._contexts[0]
            times.append(self._stuck_at(head))
            if self._link is _Link.READY and (head.flushed or not head.blank):
                times.append(self._quiet_at)
            if not self._contexts[-1].flushed:
                times.append(self._contexts[-1].touched + self._options.context_idle)
        return min((time for time in times if time is not None), default=None)

    @property
    def reads_client(self) -> bool:
        return sum(len(text["text"]) for context in self._contexts for text in context.texts) < _MAX_HELD

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
        return [
            tell(
                GatewayError(
                    "bad_request",
                    "A TTS session takes JSON text messages; this binary one was ignored. Audio goes to /stt/.",
                    fatal=False,
                )
            )
        ]

    def client_text(self, text: str, now: float) -> list[Command]:
        if self._ended or self._closing_at is not None:
            self.counts["message_after_close"] += 1
            return []
        try:
            message = parse_object(text)
            match type_of(message):
                case "init":
                    return self._open(message, now)
                case "close" | "stop":
                    return self._close(now)
                case _ if self._init is None:
                    raise GatewayError("bad_request", f"{INIT_FIRST}this message was ignored.", fatal=False)
                case "text":
                    return self._text(message, now)
                case "flush":
                    return self._flush(now)
                case "clear":
                    return [*self._clear(now), SendClient(dump({"type": "cleared"}))]
                case "cancel":  # the older spelling, which upstream does not answer either
                    return self._clear(now)
                case "keepalive":
                    return []
                case _:
                    self.counts["unknown_client_message"] += 1
                    return []
        except GatewayError as error:
            return self._fail(error) if error.fatal else [tell(error)]

    def client_gone(self, now: float) -> list[Command]:
        commands = self._hang_up()
        self._ended = True
        self._contexts.clear()
        return commands

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float) -> list[Command]:
        if connection != self._connection:
            return []
        self._link, self._quiet_at = _Link.READY, now
        commands: list[Command] = []
        if not self._told_ready:
            self._told_ready = True
            commands.append(SendClient(dump(parse_object(text))))
        return commands + self._pump(now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        if connection != self._connection or self._ended:
            return []
        try:
            messages = parse_tts(text)
        except GatewayError as error:
            self.counts["unreadable_upstream_message"] += 1
            return self._upstream_failed(error, now) if error.code == "unsupported_audio_format" else []
        commands: list[Command] = []
        for message in messages:
            commands += self._upstream_message(message, now)
        return commands

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        if connection != self._connection or not data:
            return []
        if self._link is not _Link.BUSY:
            return self._stray_audio(len(data), now)
        head = self._contexts[0]
        if not head.audio_bytes:
            del head.texts[: head.sent]
            head.sent = 0
        head.audio_bytes += len(data)
        head.progress = now
        return [SendClient(data)]

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if connection != self._connection or self._ended:
            return []
        was, self._link, self._clear_by = self._link, _Link.NONE, None
        if was is _Link.OPENING:
            return self._fail(error)
        if was is not _Link.BUSY:
            self.counts["idle_connections_lost"] += 1
            return self._pump(now)
        if self._contexts[0].flush_sent and self._contexts[0].audio_bytes and closed_cleanly(error):
            # Some routes end a turn by closing and say nothing.
            return self._finish("audio_end", {"type": "audio_end"}, now)
        return self._head_failed(error, now)

    def wake(self, now: float) -> list[Command]:
        if self._init_by is not None and now >= self._init_by:
            return self._fail(init_overdue(self._options.init_timeout))
        if self._closing_at is not None and now >= self._closing_at:
            late = GatewayError("upstream_timeout", "What was left to say was not said in time.", fatal=False)
            return [*([tell(late)] if self._contexts else []), *self._end()]
        commands: list[Command] = []
        if self._clear_by is not None and now >= self._clear_by:
            if self._cleared_turn_ended:
                # Some routes acknowledge by the turn's terminal only.
                self._reusable(now)
            else:
                self.counts["clears_unanswered"] += 1
                commands += self._hang_up()
        if self._contexts:
            last = self._contexts[-1]
            if not last.flushed and now >= last.touched + self._options.context_idle:
                self.counts["idle_contexts_ended"] += 1
                last.flushed = self._flush_owed = True
            stuck_at = self._stuck_at(self._contexts[0])
            if stuck_at is not None and now >= stuck_at:
                return commands + self._upstream_failed(self._stuck(self._contexts[0]), now)
        return commands + self._pump(now)

    # What the client asks for

    def _open(self, message: dict[str, Any], now: float) -> list[Command]:
        if self._init is not None:
            raise second_init()
        check_init(message)
        self._init = dump(message)
        self._init_by = None
        return self._dial()

    def _text(self, message: dict[str, Any], now: float) -> list[Command]:
        try:
            self._check_text(message.get("text"))
        except GatewayError as error:
            return [tell(error), *(self._flush(now) if message.get("flush") is True else ())]
        if not self._contexts or self._contexts[-1].flushed:
            self._contexts.append(_Context())
            self._flush_owed = False
        last = self._contexts[-1]
        last.texts.append({name: value for name, value in message.items() if name != "flush"})
        last.touched = now
        last.flushed = message.get("flush") is True
        return self._pump(now)

    def _check_text(self, text: object) -> None:
        if not isinstance(text, str) or not text:
            raise GatewayError("bad_request", "A text message carries what to say as a string in 'text'.", fatal=False)
        if len(text) > self._options.max_text:
            raise GatewayError(
                "payload_too_large",
                f"That text has {len(text):,} characters; {self._options.max_text:,} is the most for one "
                "(SIDECAR_MAX_TEXT). It was ignored; send it in parts.",
                fatal=False,
            )

    def _flush(self, now: float) -> list[Command]:
        if not self._contexts or self._contexts[-1].flushed:
            # Upstream's reaction to a flush without a text is not known, so it is not asked.
            self.counts["empty_flushes"] += 1
            owed, self._flush_owed = self._flush_owed, False
            return [] if owed or self._contexts else [SendClient(dump({"type": self._terminal_form("audio_end")}))]
        self._contexts[-1].flushed = True
        return self._pump(now)

    def _clear(self, now: float) -> list[Command]:
        busy = self._link is _Link.BUSY
        self._contexts.clear()
        if not busy:
            return self._maybe_end()
        self._link, self._clear_by = _Link.CLEARING, now + _CLEARED_TIMEOUT
        self._clears_owed += 1
        self._cleared_turn_ended = False
        return [SendUpstream(self._connection, dump({"type": "clear"})), *self._maybe_end()]

    def _close(self, now: float) -> list[Command]:
        if self._contexts:
            self._contexts[-1].flushed = True
        self._closing_at = now + self._options.close_timeout
        return self._pump(now)

    # What upstream says

    def _upstream_message(self, message: TtsMessage, now: float) -> list[Command]:
        match message:
            case Audio(data):
                return self.upstream_binary(self._connection, data, now)
            case Terminal(form, raw):
                return self._terminal(form, raw, now)
            case Cleared():
                return self._cleared(now)
            case Failure(error):
                return self._upstream_failed(error, now)
            case Ready():
                self.counts["extra_ready"] += 1
                return []
            case Other(raw):
                return [SendClient(dump(raw))] if self._link is _Link.BUSY else []

    def _cleared(self, now: float) -> list[Command]:
        if not self._clears_owed:
            self.counts["stray_cleared"] += 1
            return []
        self._clears_owed -= 1
        if self._link is _Link.CLEARING and not self._clears_owed:
            self._reusable(now)
        return self._pump(now)

    def _terminal(self, form: str, raw: dict[str, Any], now: float) -> list[Command]:
        if self._link is _Link.CLEARING:
            # It may have been on its way before the clear, so the acknowledgement is still awaited.
            self._cleared_turn_ended = True
            return []
        if self._link is not _Link.BUSY:
            self.counts["stray_terminals"] += 1
            self._quiet_at = now + _QUIET
            return []
        if not self._contexts[0].flush_sent:
            self.counts["segment_ends"] += 1
            return []
        self._reusable(now)
        return self._finish(form, raw, now)

    def _finish(self, form: str, raw: dict[str, Any], now: float) -> list[Command]:
        """End the head context in the client's form."""
        self._contexts.popleft()
        told = self._terminal_form(form)
        frame = {**raw, "type": told} if told == form else {"type": told}
        return [SendClient(dump(frame)), *self._pump(now)]

    def _upstream_failed(self, error: GatewayError, now: float) -> list[Command]:
        """Deal with an error on a connection that may still be open: it is not used again."""
        busy = self._link is _Link.BUSY
        commands = self._hang_up()
        if not busy:
            # An idle session that upstream gave up: nobody was waiting for it.
            self.counts["idle_errors"] += 1
            return commands + self._pump(now)
        return commands + self._head_failed(error, now)

    def _head_failed(self, error: GatewayError, now: float) -> list[Command]:
        head = self._contexts[0]
        decodable = error.code != "unsupported_audio_format"
        if not head.audio_bytes and not head.retried and error.retryable and decodable:
            self.counts["contexts_said_again"] += 1
            head.retried, head.sent, head.flush_sent = True, 0, False
            return self._pump(now)
        error = GatewayError(error.code, error.message, status=error.status, fatal=False, upstream=error.upstream)
        if head.flushed:
            return [tell(error), *self._finish("audio_end", {"type": "audio_end"}, now)]
        self._contexts[0] = _Context(failed=True, touched=head.touched)
        return [tell(error)]

    def _stray_audio(self, size: int, now: float) -> list[Command]:
        self.counts["stray_audio_bytes"] += size
        if self._link is _Link.CLEARING:
            return []
        # Sound that nobody asked for: whose the next one is could not be told.
        return [*self._hang_up(), *self._pump(now)]

    # What follows

    def _pump(self, now: float) -> list[Command]:
        """Send what can be sent now, and open what is needed for it."""
        if self._ended:
            return []
        commands: list[Command] = []
        while self._contexts and self._told_ready and self._link is not _Link.BUSY and self._contexts[0].blank:
            if not self._contexts[0].flushed:
                return commands
            commands += self._end_blank()
        if not self._contexts:
            return commands + self._maybe_end()
        if self._link is _Link.NONE:
            return commands + self._dial()
        if self._link is _Link.READY and now >= self._quiet_at:
            self._link = _Link.BUSY
        if self._link is not _Link.BUSY:
            return commands
        head = self._contexts[0]
        inline = self._options.flush == "inline"
        # Where the end is said on the last text, that text waits until it is known to be the last.
        sendable = len(head.texts) if head.flushed or not inline else len(head.texts) - 1
        while head.sent < sendable:
            message = head.texts[head.sent]
            head.sent += 1
            if inline and head.flushed and head.sent == len(head.texts):
                message = {**message, "flush": True}
                head.flush_sent = True
            commands.append(SendUpstream(self._connection, dump(message)))
            head.progress = now
        if head.flushed and not head.flush_sent and head.sent == len(head.texts):
            head.flush_sent = True
            head.progress = now
            commands.append(SendUpstream(self._connection, dump({"type": "flush"})))
        if head.audio_bytes:
            del head.texts[: head.sent]
            head.sent = 0
        return commands

    def _end_blank(self) -> list[Command]:
        """Keep spaces alone from upstream, where they might draw no answer at all; the client's turn still ends."""
        head = self._contexts.popleft()
        terminal = SendClient(dump({"type": self._terminal_form("audio_end")}))
        if head.failed:
            return [terminal]
        error = GatewayError("bad_request", "There was nothing to say: that turn had only spaces.", fatal=False)
        return [tell(error), terminal]

    def _dial(self) -> list[Command]:
        assert self._init is not None
        self._connection += 1
        self._link, self._clears_owed = _Link.OPENING, 0
        return [Dial(self._connection, self._init)]

    def _reusable(self, now: float) -> None:
        self._link, self._clear_by, self._quiet_at = _Link.READY, None, now + _QUIET

    def _hang_up(self) -> list[Command]:
        was, self._link, self._clear_by = self._link, _Link.NONE, None
        return [] if was is _Link.NONE else [Retire(self._connection)]

    def _stuck_at(self, head: _Context) -> float | None:
        """When a context counts as stuck: sound is due once all of it is upstream, and more sound after the first."""
        if self._link is not _Link.BUSY or not head.flush_sent:
            return None
        limit = self._options.terminal_timeout if head.audio_bytes else self._options.first_audio_timeout
        return head.progress + limit

    def _stuck(self, head: _Context) -> GatewayError:
        if head.audio_bytes:
            text = f"Upstream fell silent for {self._options.terminal_timeout:g} s within an utterance."
        else:
            text = f"Upstream gave no audio within {self._options.first_audio_timeout:g} s."
        return GatewayError("upstream_timeout", text)

    def _terminal_form(self, form: str) -> str:
        if self._options.terminal_form != "upstream":
            return self._options.terminal_form
        return form if form in ("audio_end", "flushed") else "audio_end"

    def _maybe_end(self) -> list[Command]:
        return self._end() if self._closing_at is not None and not self._contexts else []

    def _end(self) -> list[Command]:
        commands = self._hang_up()
        self._ended = True
        self._contexts.clear()
        return [*commands, CloseClient(1000, "")]

    def _fail(self, error: GatewayError) -> list[Command]:
        commands = self._hang_up()
        self._ended = True
        self._contexts.clear()
        return [*commands, *end_with(error)]
