"""The text-to-speech session: texts go up part by part, and every sound that comes down belongs to a known context.

Upstream labels nothing, so order is ownership: an upstream connection (a line) carries at most one unfinished part of a
context, and the next one waits for that one's terminal and a moment of quiet. A context is a turn: in the plain dialect
some texts and a flush, in the extended one all texts that bear its name. It has one part, or more where settings
changed within it. A part that was lost before its first sound is said once more from its start.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from slng_sidecar.protocol.commands import CloseClient, Command, SendUpstream, end_with, tell
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.lines import QUIET, Line, Lines, LineState
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
from slng_sidecar.protocol.opening import INIT_FIRST, init_overdue, second_init
from slng_sidecar.protocol.tts_dialects import TtsDialect
from slng_sidecar.protocol.turns import Context, Contexts, Part
from slng_sidecar.protocol.updates import Voicing, read_update
from slng_sidecar.protocol.voicings import Revision, Revisions, Shape

_MAX_HELD = 262_144
_MAX_NAME = 200
_UPDATE_FIELDS = frozenset({"type", "id", "voice", "model", "config"})


@dataclass(frozen=True, slots=True)
class TtsOptions:
    """What a session is opened with, and what the operator set; times are seconds.

    Attributes:
        model: the route that the client asked for.
        own_provider_key: whether the client brought a provider key, which no hosted model takes.
        rotate_seconds: the age at which an idle line is given up; None for never.
        jitter: gives 0 to 1, for the delays of redialling.
    """

    model: str = ""
    own_provider_key: bool = False
    flush: Literal["standalone", "inline"] = "standalone"
    max_text: int = 10_000
    context_idle: float = 60
    init_timeout: float = 30
    first_audio_timeout: float = 30
    terminal_timeout: float = 15
    close_timeout: float = 5
    reconnect_seconds: float = 60
    rotate_seconds: float | None = None
    jitter: Callable[[], float] = random.random


class TtsMachine:
    """One TTS session, in either dialect.

    Mutable: ``_revisions``, the settings, once ``init`` came; ``_contexts``, oldest first, of which only the head may
    be upstream; ``_lines``, the upstream connections; the deadlines ``_init_by``, ``_prepare_at`` (a line for the next
    turn, on routes whose lines take one turn) and ``_closing_at``; ``_flush_owed``, once a plain context ended by
    idling, so that its flush is not taken for another's; ``_outage``, the shape whose loss the client was told of, and
    ``_outage_since``; ``_told_ready``, ``_ended``.
    """

    def __init__(self, options: TtsOptions, dialect: TtsDialect, jitter: Callable[[], float] = random.random) -> None:
        """Make a machine; ``jitter`` gives 0 to 1, for the delays between attempts."""
        self._options = options
        self._dialect = dialect
        self.counts: Counter[str] = Counter()
        self._revisions: Revisions | None = None
        self._contexts = Contexts()
        self._lines = Lines(
            options.model, options.reconnect_seconds, options.rotate_seconds, options.jitter, self.counts
        )
        self._init_by: float | None = None
        self._prepare_at: float | None = None
        self._closing_at: float | None = None
        self._flush_owed = False
        self._outage: Shape | None = None
        self._outage_since = 0.0
        self._told_ready = False
        self._ended = False

    def __repr__(self) -> str:
        return f"TtsMachine({self._lines}, {self._contexts})"

    @property
    def deadline(self) -> float | None:
        if self._ended:
            return None
        times = [self._init_by, self._prepare_at, self._closing_at, self._stuck_at()]
        needed = [revision.shape for revision in self._pending()]
        if (part := self._waiting()) is not None:
            needed.append(part.revision.shape)
        times.append(self._lines.deadline(needed))
        idle = self._options.context_idle
        times += [context.touched + idle for context in self._contexts if not context.flushed]
        return min((time for time in times if time is not None), default=None)

    @property
    def reads_client(self) -> bool:
        return self._contexts.held < _MAX_HELD

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
            message = parse_object(text)
            match type_of(message):
                case "init":
                    return self._open(message, now)
                case "close" | "stop":
                    return self._close(now)
                case _ if self._revisions is None:
                    raise GatewayError("bad_request", f"{INIT_FIRST}this message was ignored.", fatal=False)
                case "text":
                    return self._text(message, now)
                case "flush":
                    return self._flush(self._name(message), now)
                case "clear":
                    name = self._name(message, required=False)
                    return self._clear(name, self._dialect.cleared(name), now)
                case "cancel":  # the older spelling, which upstream does not answer either
                    return self._clear(self._name(message, required=False), [], now)
                case "update" if self._dialect.named:
                    return self._update(message, self._revisions, now)
                case "keepalive":
                    return []
                case _:
                    self.counts["unknown_client_message"] += 1
                    return []
        except GatewayError as error:
            return self._fail(error) if error.fatal else [tell(error)]

    def client_gone(self, now: float) -> list[Command]:
        self._ended = True
        self._contexts.clear()
        return self._lines.retire_all()

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float) -> list[Command]:
        if (line := self._lines.get(connection)) is None or self._revisions is None:
            return []
        commands = self._outage_over(line.shape, now)
        self._lines.ready(line, now)
        if not self._told_ready:
            self._told_ready = True
            commands += self._dialect.ready(parse_object(text))
        return commands + self._dialect.updated(self._revisions.settle(line.shape)) + self._pump(now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        if (line := self._lines.get(connection)) is None:
            return []
        try:
            messages = parse_tts(text)
        except GatewayError as error:
            self.counts["unreadable_upstream_message"] += 1
            return self._line_failed(line, error, now) if error.code == "unsupported_audio_format" else []
        commands: list[Command] = []
        for message in messages:
            if (line := self._lines.get(connection)) is not None:
                commands += self._upstream_message(line, message, now)
        return commands

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        if (line := self._lines.get(connection)) is None or not data:
            return []
        if line.state is not LineState.BUSY:
            self.counts["stray_audio_bytes"] += len(data)
            if line.state is LineState.CLEARING:
                return []
            # Sound that nobody asked for: whose the next one is could not be told.
            return [*self._lines.retire(line), *self._pump(now)]
        head, part = self._said(line)
        part.sounds(now)
        return self._dialect.sound(head, data, now)

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if (line := self._lines.get(connection)) is None:
            return []
        self._lines.ended(line, error, now)
        if line.state is LineState.OPENING:
            return self._dial_failed(line, error, now)
        if line.state is not LineState.BUSY:
            self.counts["idle_connections_lost"] += 1
            if self._lines.one_turn(line.shape):
                self._prepare_at = now + QUIET
            if line.turn_ended_at is not None and closed_cleanly(error):
                return self._pump(now)
            return self._dial_again(line, error, now)
        _, part = self._said(line)
        if part.flush_sent and part.sounded and closed_cleanly(error):
            # Some routes end a turn by closing and say nothing.
            self._lines.spent(line)
            return self._part_ended(line, None, now)
        return [*self._part_failed(line, error), *self._dial_again(line, error, now)]

    def wake(self, now: float) -> list[Command]:
        if self._ended:
            return []
        if self._init_by is not None and now >= self._init_by:
            return self._fail(init_overdue(self._options.init_timeout))
        if self._closing_at is not None and now >= self._closing_at:
            late = GatewayError("upstream_timeout", "What was left to say was not said in time.", fatal=False)
            return [*self._all_failed(late), *self._end()]
        commands = self._lines.wake(now)
        for context in self._contexts:
            if not context.flushed and now >= context.touched + self._options.context_idle:
                self.counts["idle_contexts_ended"] += 1
                context.flush()
                self._flush_owed = not self._dialect.named
        stuck_at = self._stuck_at()
        if stuck_at is not None and now >= stuck_at:
            line, error = self._stuck()
            return commands + self._line_failed(line, error, now)
        return commands + self._pump(now)

    # What the client asks for

    def _open(self, message: dict[str, Any], now: float) -> list[Command]:
        if self._revisions is not None:
            raise second_init()
        self._revisions = Revisions(Voicing(self._options.model, self._dialect.open(message)))
        self._init_by = None
        return self._lines.bring(self._revisions.newest.shape, now)

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

    def _text(self, message: dict[str, Any], now: float) -> list[Command]:
        assert self._revisions is not None
        name, flush = self._name(message), message.get("flush") is True
        context = self._contexts.last if name is None else self._contexts.named(name)
        if name is not None and (context.flushed if context else self._contexts.is_over(name)):
            self.counts["texts_for_ended_contexts"] += 1
            return []
        try:
            self._check_text(message.get("text"), name)
        except GatewayError as error:
            return [tell(error), *(self._flush(name, now) if flush else ())]
        if context is None or context.flushed:
            context = self._contexts.begin(name, now)
            self._flush_owed = False
        own = {key: value for key, value in message.items() if key != "flush" and (name is None or key != "context_id")}
        context.add(own, self._revisions.newest, now)
        if flush:
            context.flush()
        return self._pump(now)

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

    def _flush(self, name: str | None, now: float) -> list[Command]:
        context = self._contexts.last if name is None else self._contexts.named(name)
        if name is not None and context is None and not self._contexts.is_over(name):
            # All of a context's texts were refused, or it had none: it ends in its turn all the same.
            context = self._contexts.begin(name, now)
        if context is None or context.flushed:
            # Upstream's reaction to a flush without a text is not known, so it is not asked.
            self.counts["empty_flushes"] += 1
            owed, self._flush_owed = self._flush_owed, False
            return [] if owed or self._contexts else self._dialect.nothing_flushed()
        context.flush()
        return self._pump(now)

    def _clear(self, name: str | None, answer: list[Command], now: float) -> list[Command]:
        """Cut off the context of that name, or all; then say ``answer``."""
        commands: list[Command] = []
        for context in self._contexts:
            if name is None or context.name == name:
                if (part := context.part) is not None and part.line is not None:
                    line = self._lines.get(part.line)
                    assert line is not None
                    commands += self._lines.clear(line, now)
                    self._expect_turn(line.shape, now)
                self._contexts.end(context)
                commands += self._dialect.ended(context, "cleared")
        return commands + answer + self._pump(now)

    def _update(self, message: dict[str, Any], revisions: Revisions, now: float) -> list[Command]:
        self.counts["unknown_client_fields"] += len(message.keys() - _UPDATE_FIELDS)
        update = read_update(message, ("voice", "model"), own_provider_key=self._options.own_provider_key)
        before = revisions.newest
        used = any(part.revision is before for context in self._contexts for part in context.parts)
        answer = revisions.take(update, used=used)
        if answer is not None:
            return self._dialect.updated([answer])
        if revisions.newest is not before:
            for context in self._contexts:
                context.close_part()
        shape = revisions.newest.shape
        answers = revisions.settle(shape) if self._lines.stands(shape) else []
        return self._dialect.updated(answers) + self._pump(now)

    def _close(self, now: float) -> list[Command]:
        for context in self._contexts:
            if not context.flushed:
                context.flush()
        self._closing_at = now + self._options.close_timeout
        return self._pump(now)

    # What upstream says

    def _upstream_message(self, line: Line, message: TtsMessage, now: float) -> list[Command]:
        match message:
            case Audio(data):
                return self.upstream_binary(line.number, data, now)
            case Terminal():
                return self._terminal(line, message, now)
            case Cleared():
                return [*self._lines.cleared(line, now), *self._pump(now)]
            case Failure(error):
                return self._line_failed(line, error, now)
            case Ready():
                self.counts["extra_ready"] += 1
                return []
            case Other(raw):
                return self._dialect.other(raw) if line.state is LineState.BUSY else []

    def _terminal(self, line: Line, terminal: Terminal, now: float) -> list[Command]:
        if line.state is LineState.CLEARING:
            # It may have been on its way before the clear, so the acknowledgement is still awaited.
            line.cleared_turn_ended = True
            return []
        if line.state is not LineState.BUSY:
            self.counts["stray_terminals"] += 1
            line.quiet_at = now + QUIET
            return []
        if not self._said(line)[1].flush_sent:
            self.counts["segment_ends"] += 1
            return []
        return self._part_ended(line, terminal, now)

    def _part_ended(self, line: Line, terminal: Terminal | None, now: float) -> list[Command]:
        """Go on after a part: with the next one, or the end of its context."""
        head, _ = self._said(line)
        head.parts.popleft()
        commands = self._lines.turn_ended(line, now) if self._lines.get(line.number) is not None else []
        self._expect_turn(line.shape, now)
        if head.flushed and not head.parts:
            self._contexts.end(head)
            commands = self._dialect.ended(head, "completed", terminal) + commands
        return commands + self._pump(now)

    def _line_failed(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Deal with an error on a connection that may still be open: it is not used again."""
        commands = self._lines.retire(line)
        if line.state is not LineState.BUSY:
            # An idle session that upstream gave up: nobody was waiting for it.
            self.counts["idle_errors"] += 1
            return commands + self._pump(now)
        if error.code == "provider_error" and "not found" in error.message and line.turn_ended_at is not None:
            # Soniox's words for a session that has had its turn: "Stream … not found."
            self._lines.spent(line)
        return commands + self._part_failed(line, error) + self._pump(now)

    def _part_failed(self, line: Line, error: GatewayError) -> list[Command]:
        """Say the part once more, where none of it was heard and that can help; else its context has failed."""
        head, part = self._said(line)
        decodable = error.code != "unsupported_audio_format"
        if not part.sounded and not part.retried and error.retryable and decodable:
            self.counts["contexts_said_again"] += bool(part.sent)
            # A line that was spent has not begun to say it, and that cannot happen twice.
            part.again(counts=not line.spent)
            return []
        told = tell(_about(head, error))
        if head.flushed or self._dialect.named:
            self._contexts.end(head)
            return [told, *self._dialect.ended(head, "failed")]
        head.parts.clear()
        head.received, head.failed, head.said = 0, True, False
        return [told]

    # Lines that are lost

    def _dial_failed(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Deal with a line that upstream did not open."""
        asking = [revision for revision in self._pending() if revision.shape == line.shape]
        if not self._told_ready and not asking:
            return self._fail(error)
        if not asking:
            return self._dial_again(line, error, now)
        commands: list[Command] = []
        if error.status == 429:
            # No slot for a second connection: those that carry nothing make room.
            waiting = self._waiting()
            kept = {line.shape} if waiting is None else {line.shape, waiting.revision.shape}
            commands += self._lines.retire_others(kept, opening=False)
        try:
            self._lines.plan_redial(line, error, now)
        except GatewayError as hopeless:
            for revision in asking:
                commands += self._refuse(revision, hopeless)
            return commands + self._pump(now)
        return commands + self._outage_begins(line.shape, error, now) + self._pump(now)

    def _dial_again(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Plan the next attempt, where somebody waits; the loss of a line that nobody needs is no news."""
        part = self._waiting()
        if part is None or part.revision.shape != line.shape:
            return self._pump(now)
        try:
            self._lines.plan_redial(line, error, now)
        except GatewayError as hopeless:
            return self._fail(hopeless)
        return self._outage_begins(line.shape, error, now) + self._pump(now)

    def _outage_begins(self, shape: Shape, error: GatewayError, now: float) -> list[Command]:
        part = self._waiting()
        if self._outage is not None or part is None or part.revision.shape != shape:
            return []
        self._outage, self._outage_since = shape, now
        attempt = self._lines.recovery(shape).attempt
        return self._dialect.status("reconnecting", cause=error.code, attempt=attempt, gap_ms=0)

    def _outage_over(self, shape: Shape, now: float) -> list[Command]:
        if self._outage is None:
            return []
        part = self._waiting()
        if shape != self._outage and part is not None and part.revision.shape == self._outage:
            return []
        attempt, self._outage = self._lines.recovery(self._outage).attempt, None
        gap_ms = round((now - self._outage_since) * 1000)
        return self._dialect.status("connected", cause="reconnected", attempt=attempt, gap_ms=gap_ms)

    def _refuse(self, revision: Revision, error: GatewayError) -> list[Command]:
        """Let the settings before hold, for what was to be said with refused ones too."""
        assert self._revisions is not None
        before, answers = self._revisions.refuse(revision, error.message)
        commands = self._dialect.updated(answers)
        for context in self._contexts:
            parts = [part for part in context.parts if part.revision is revision]
            for part in parts:
                part.revision = before
            if parts:
                text = f"The new settings were refused, so this is said with the previous ones: {error.message}"
                commands.append(tell(_about(context, error, text)))
        return commands

    # What follows

    def _pump(self, now: float) -> list[Command]:
        """Send what can be sent now, and open what is needed for it."""
        if self._ended or self._revisions is None:
            return [] if self._ended else self._maybe_end()
        commands = self._end_said()
        if self._closing_at is not None and not self._contexts:
            return commands + self._end()
        commands += self._tidy(self._revisions)
        if (part := self._waiting()) is not None:
            line, to_do = self._lines.take(part.revision.shape, now)
            commands += to_do
            if line is not None:
                part.line = line.number
        head = self._contexts.head
        if head is not None and head.part is not None and head.part.line is not None:
            commands += self._send(head, head.part, now)
        for revision in self._revisions.pending:
            commands += self._lines.bring(revision.shape, now)
        if self._prepare_at is not None and now >= self._prepare_at:
            self._prepare_at = None
            commands += self._lines.bring(self._revisions.newest.shape, now)
        return commands

    def _send(self, head: Context, part: Part, now: float) -> list[Command]:
        """Send what a part has on its line."""
        assert part.line is not None
        commands: list[Command] = []
        inline = self._options.flush == "inline"
        # Where the end is said on the last text, that text waits until it is known to be the last.
        sendable = len(part.texts) if part.closed or not inline else len(part.texts) - 1
        while part.sent < sendable:
            message = part.texts[part.sent]
            part.sent += 1
            if inline and part.closed and part.sent == len(part.texts):
                message = {**message, "flush": True}
                part.flush_sent = True
            commands.append(SendUpstream(part.line, dump(message)))
            part.progress, head.said = now, True
        if part.closed and not part.flush_sent and part.sent == len(part.texts):
            part.flush_sent = True
            part.progress = now
            commands.append(SendUpstream(part.line, dump({"type": "flush"})))
        if part.sounded:
            part.let_go()
        return commands

    def _end_said(self) -> list[Command]:
        """End what has nothing left to say; spaces alone are kept from upstream, where they might draw no answer."""
        commands: list[Command] = []
        while self._told_ready and (head := self._contexts.head) is not None:
            part = head.part
            if part is not None and part.line is None and part.blank and part.closed:
                head.parts.popleft()
            elif part is None and head.flushed:
                self._contexts.end(head)
                commands += self._dialect.ended(head, "completed") if head.said else self._dialect.blank(head)
            else:
                break
        return commands

    def _tidy(self, revisions: Revisions) -> list[Command]:
        """Let go of lines whose settings nothing will be said with."""
        if not revisions.changing:
            return []
        used = [part.revision for context in self._contexts for part in context.parts]
        revisions.forget(used)
        shapes = revisions.shapes | {revision.shape for revision in used}
        self._lines.forget_others(shapes)
        return self._lines.retire_others(shapes, opening=True)

    def _expect_turn(self, shape: Shape, now: float) -> None:
        """Plan a line for the next turn, where a line takes one only."""
        if self._lines.one_turn(shape):
            self._prepare_at = now + QUIET

    def _pending(self) -> list[Revision]:
        return self._revisions.pending if self._revisions is not None else []

    def _waiting(self) -> Part | None:
        """Give the part that is next and has something to say, but no line."""
        head = self._contexts.head
        part = head.part if head is not None else None
        return part if part is not None and part.line is None and not part.blank else None

    def _said(self, line: Line) -> tuple[Context, Part]:
        """Give what a busy line carries."""
        head = self._contexts.head
        assert head is not None
        part = head.part
        assert part is not None
        assert part.line == line.number
        return head, part

    def _stuck_at(self) -> float | None:
        """When the head counts as stuck: sound is due once all of it is upstream, and more sound after the first."""
        head = self._contexts.head
        part = head.part if head is not None else None
        if part is None or part.line is None or not part.flush_sent:
            return None
        limit = self._options.terminal_timeout if part.sounded else self._options.first_audio_timeout
        return part.progress + limit

    def _stuck(self) -> tuple[Line, GatewayError]:
        head = self._contexts.head
        assert head is not None
        assert head.part is not None
        assert head.part.line is not None
        line = self._lines.get(head.part.line)
        assert line is not None
        if head.part.sounded:
            text = f"Upstream fell silent for {self._options.terminal_timeout:g} s within an utterance."
        else:
            text = f"Upstream gave no audio within {self._options.first_audio_timeout:g} s."
        return line, GatewayError("upstream_timeout", text)

    # The end

    def _maybe_end(self) -> list[Command]:
        return self._end() if self._closing_at is not None and not self._contexts else []

    def _all_failed(self, error: GatewayError) -> list[Command]:
        """Tell of a failure that concerns all that is left."""
        if not self._dialect.named:
            return [tell(error)] if self._contexts else []
        commands: list[Command] = []
        for context in self._contexts:
            commands += [tell(_about(context, error)), *self._dialect.ended(context, "failed")]
        return commands

    def _end(self) -> list[Command]:
        return [*self._over("the session was closed"), CloseClient(1000, "")]

    def _fail(self, error: GatewayError) -> list[Command]:
        failed: list[Command] = []
        if self._dialect.named:
            for context in self._contexts:
                failed += self._dialect.ended(context, "failed")
        return [*failed, *self._over(error.message), *end_with(error)]

    def _over(self, why: str) -> list[Command]:
        """End everything but the client's connection."""
        answers = [answer for revision in self._pending() for answer in revision.answers]
        for answer in answers:
            answer.refuse(why)
        self._ended = True
        self._contexts.clear()
        return [*self._dialect.updated(answers), *self._lines.retire_all()]


def _about(context: Context, error: GatewayError, message: str | None = None) -> GatewayError:
    """Give an error as one of a context, after which the session goes on."""
    return GatewayError(
        error.code,
        message or error.message,
        status=error.status,
        fatal=False,
        context_id=context.name,
        upstream=error.upstream,
    )
