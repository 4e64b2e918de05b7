"""What a TTS session is saying: its contexts, the lines that carry them, and the settings that they are said with.

Upstream labels nothing, so order is ownership: an upstream connection (a line) carries at most one unfinished part of a
context, and the next one waits for that one's terminal and a moment of quiet. A part that was lost before its first
sound is said once more from its start.
"""

from __future__ import annotations

from collections import Counter, deque

from slng_sidecar.protocol.commands import Command, SendUpstream, tell
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
)
from slng_sidecar.protocol.reports import Turn
from slng_sidecar.protocol.tts.contexts import Context, Contexts, Part
from slng_sidecar.protocol.tts.dialects import TtsDialect
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.pool import QUIET, Line, Lines, LineState
from slng_sidecar.protocol.tts.settings import Revision, Revisions, Shape
from slng_sidecar.protocol.updates import Update, Voicing

# How long a terminal without a sound before it is doubted, on a line that had a turn before.
_DOUBT = 0.3


class Speaking:
    """The part of a TTS session that begins with its ``init``.

    Mutable: ``contexts``, oldest first, of which only the head may be upstream; ``lines``, the upstream connections;
    ``_revisions``, the settings; ``_prepare_at``, when a line for the next turn is opened, on routes whose lines take
    one turn; ``_outage``, the shape whose loss the client was told of, and ``_outage_since``; ``_told_ready``;
    ``hopeless``, why the session must end, once that is so.
    """

    def __init__(
        self,
        options: TtsOptions,
        dialect: TtsDialect,
        voicing: Voicing,
        counts: Counter[str],
        turns: deque[Turn],
        bytes_per_second: int,
        standby: bool,
    ) -> None:
        self._options = options
        self._dialect = dialect
        self._counts = counts
        self._revisions = Revisions(voicing)
        self.contexts = Contexts(turns, bytes_per_second)
        self.lines = Lines(
            options.model,
            options.reconnect_seconds,
            options.rotate_seconds,
            options.jitter,
            counts,
            standby=standby,
        )
        self.hopeless: GatewayError | None = None
        self._prepare_at: float | None = None
        self._outage: Shape | None = None
        self._outage_since = 0.0
        self._told_ready = False

    def __repr__(self) -> str:
        return f"{self.lines}, {self.contexts}"

    @property
    def newest(self) -> Revision:
        """The settings that hold for what comes next."""
        return self._revisions.newest

    @property
    def deadline(self) -> float | None:
        needed = [revision.shape for revision in self._revisions.pending]
        if (part := self._waiting()) is not None:
            needed.append(part.revision.shape)
        doubted = self._doubted()
        doubt_at = None if doubted is None else doubted[1]
        times = (self._prepare_at, self._stuck_at(), doubt_at, self.lines.deadline(needed))
        return min((time for time in times if time is not None), default=None)

    def open(self, now: float) -> list[Command]:
        """Dial the first line."""
        return self.lines.bring(self.newest.shape, now)

    def wake(self, now: float) -> list[Command]:
        commands = self.lines.wake(now)
        if (ended := self._doubted()) is not None and now >= ended[1]:
            return commands + self._part_ended(self._carrier(), ended[0], now)
        stuck_at = self._stuck_at()
        if stuck_at is not None and now >= stuck_at:
            return commands + self._line_failed(self._carrier(), self._stuck(), now)
        return commands + self.go_on(now)

    def clear(self, name: str | None, answer: list[Command], now: float) -> list[Command]:
        """Cut off the context of that name, or all where it is None; then say ``answer``."""
        commands: list[Command] = []
        for context in self.contexts:
            if name is None or context.name == name:
                if (part := context.part) is not None and part.line is not None:
                    line = self.lines.get(part.line)
                    assert line is not None
                    commands += self.lines.clear(line, now)
                    self._expect_turn(line.shape, now)
                self.contexts.end(context, "cleared")
                commands += self._dialect.ended(context, "cleared")
        return commands + answer + self.go_on(now)

    def update(self, update: Update, now: float) -> list[Command]:
        """Let other settings hold for the texts that follow."""
        before = self._revisions.newest
        used = any(part.revision is before for context in self.contexts for part in context.parts)
        answer = self._revisions.take(update, used=used)
        if answer is not None:
            return self._dialect.updated([answer])
        if self._revisions.newest is not before:
            for context in self.contexts:
                context.close_part()
        shape = self._revisions.newest.shape
        answers = self._revisions.settle(shape) if self.lines.stands(shape) else []
        return self._dialect.updated(answers) + self.go_on(now)

    def end(self, why: str) -> list[Command]:
        """Give up what is left: updates are answered, contexts forgotten, lines closed."""
        answers = [answer for revision in self._revisions.pending for answer in revision.answers]
        for answer in answers:
            answer.refuse(why)
        self.contexts.clear("failed")
        return [*self._dialect.updated(answers), *self.lines.retire_all()]

    # What upstream says

    def ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        if (line := self.lines.get(connection)) is None:
            return []
        commands = self._outage_over(line.shape, now)
        self.lines.ready(line, now, since)
        if not self._told_ready:
            self._told_ready = True
            commands += self._dialect.ready(parse_object(text))
        return commands + self._dialect.updated(self._revisions.settle(line.shape)) + self.go_on(now)

    def heard(self, connection: int, text: str, now: float) -> list[Command]:
        if (line := self.lines.get(connection)) is None:
            return []
        try:
            messages = parse_tts(text)
        except GatewayError as error:
            self._counts["unreadable_upstream_message"] += 1
            return self._line_failed(line, error, now) if error.code == "unsupported_audio_format" else []
        commands: list[Command] = []
        for message in messages:
            if (line := self.lines.get(connection)) is not None:
                commands += self._upstream_message(line, message, now)
        return commands

    def sound(self, connection: int, data: bytes, now: float) -> list[Command]:
        if (line := self.lines.get(connection)) is None or not data:
            return []
        if line.state is not LineState.BUSY:
            self._counts["stray_audio_bytes"] += len(data)
            if line.state is LineState.CLEARING:
                return []
            # Sound that nobody asked for: whose the next one is could not be told.
            return [*self.lines.retire(line), *self.go_on(now)]
        head, part = self._said(line)
        part.sounds(now)
        return self._dialect.sound(head, data, now)

    def lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if (line := self.lines.get(connection)) is None:
            return []
        self.lines.ended(line, error, now)
        if line.state is LineState.OPENING:
            return self._dial_failed(line, error, now)
        if line.state is not LineState.BUSY:
            self._counts["idle_connections_lost"] += 1
            if self.lines.one_turn(line.shape):
                self._prepare_at = now + QUIET
            if line.turn_ended_at is not None and closed_cleanly(error):
                return self.go_on(now)
            return self._dial_again(line, error, now)
        _, part = self._said(line)
        if part.flush_sent and part.sounded and closed_cleanly(error):
            # Some routes end a turn by closing and say nothing.
            self.lines.spent(line)
            return self._part_ended(line, None, now)
        return [*self._part_failed(line, error), *self._dial_again(line, error, now)]

    def _upstream_message(self, line: Line, message: TtsMessage, now: float) -> list[Command]:
        match message:
            case Audio(data):
                return self.sound(line.number, data, now)
            case Terminal():
                return self._terminal(line, message, now)
            case Cleared():
                return [*self.lines.cleared(line, now), *self.go_on(now)]
            case Failure(error):
                return self._line_failed(line, error, now)
            case Ready():
                self._counts["extra_ready"] += 1
                return []
            case Other(raw):
                return self._dialect.other(raw) if line.state is LineState.BUSY else []

    def _terminal(self, line: Line, terminal: Terminal, now: float) -> list[Command]:
        if line.state is LineState.CLEARING:
            # It may have been on its way before the clear, so the acknowledgement is still awaited.
            line.cleared_turn_ended = True
            return []
        if line.state is not LineState.BUSY:
            self._counts["stray_terminals"] += 1
            self.lines.disturbed(line, now)
            return []
        part = self._said(line)[1]
        if not part.flush_sent:
            self._counts["segment_ends"] += 1
            return []
        if not part.sounded and part.doubted is None and line.turn_ended_at is not None:
            # The turn before may have been ended twice, so late that this one was already upstream.
            part.doubted = (terminal, now + _DOUBT)
            return []
        return self._part_ended(line, terminal, now)

    def _part_ended(self, line: Line, terminal: Terminal | None, now: float) -> list[Command]:
        """Go on after a part: with the next one, or the end of its context."""
        head, _ = self._said(line)
        head.parts.popleft()
        commands = self.lines.turn_ended(line, now) if self.lines.get(line.number) is not None else []
        self._expect_turn(line.shape, now)
        if head.flushed and not head.parts:
            self.contexts.end(head, "completed")
            commands = self._dialect.ended(head, "completed", terminal) + commands
        return commands + self.go_on(now)

    def _line_failed(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Deal with an error on a connection that may still be open: it is not used again."""
        commands = self.lines.retire(line)
        if line.state is not LineState.BUSY:
            # An idle session that upstream gave up: nobody was waiting for it.
            self._counts["idle_errors"] += 1
            return commands + self.go_on(now)
        if error.code == "provider_error" and "not found" in error.message and line.turn_ended_at is not None:
            # Soniox's words for a session that has had its turn: "Stream … not found."
            self.lines.spent(line)
        return commands + self._part_failed(line, error) + self.go_on(now)

    def _part_failed(self, line: Line, error: GatewayError) -> list[Command]:
        """Say the part once more, where none of it was heard and that can help; else its context has failed."""
        head, part = self._said(line)
        decodable = error.code != "unsupported_audio_format"
        if not part.sounded and not part.retried and error.retryable and decodable:
            self._counts["contexts_said_again"] += bool(part.sent)
            # A line that was spent has not begun to say it, and that cannot happen twice.
            part.again(counts=not line.spent)
            return []
        told = tell(about(head, error))
        if head.flushed or self._dialect.named:
            self.contexts.end(head, "failed")
            return [told, *self._dialect.ended(head, "failed")]
        head.parts.clear()
        head.received, head.failed, head.said = 0, True, False
        return [told]

    # Lines that are lost

    def _dial_failed(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Deal with a line that upstream did not open."""
        asking = [revision for revision in self._revisions.pending if revision.shape == line.shape]
        if not self._told_ready and not asking:
            self.hopeless = error
            return []
        if not asking:
            return self._dial_again(line, error, now)
        commands: list[Command] = []
        if error.status == 429:
            # No slot for a second connection: those that carry nothing make room.
            waiting = self._waiting()
            kept = {line.shape} if waiting is None else {line.shape, waiting.revision.shape}
            commands += self.lines.retire_others(kept, opening=False)
        try:
            self.lines.plan_redial(line, error, now)
        except GatewayError as hopeless:
            for revision in asking:
                commands += self._refuse(revision, hopeless)
            return commands + self.go_on(now)
        return commands + self._outage_begins(line.shape, error, now) + self.go_on(now)

    def _dial_again(self, line: Line, error: GatewayError, now: float) -> list[Command]:
        """Plan the next attempt, where somebody waits; the loss of a line that nobody needs is no news."""
        part = self._waiting()
        if part is None or part.revision.shape != line.shape:
            return self.go_on(now)
        try:
            self.lines.plan_redial(line, error, now)
        except GatewayError as hopeless:
            self.hopeless = hopeless
            return []
        return self._outage_begins(line.shape, error, now) + self.go_on(now)

    def _outage_begins(self, shape: Shape, error: GatewayError, now: float) -> list[Command]:
        part = self._waiting()
        if self._outage is not None or part is None or part.revision.shape != shape:
            return []
        self._outage, self._outage_since = shape, now
        attempt = self.lines.recovery(shape).attempt
        return self._dialect.status("reconnecting", cause=error.code, attempt=attempt, gap_ms=0)

    def _outage_over(self, shape: Shape, now: float) -> list[Command]:
        if self._outage is None:
            return []
        part = self._waiting()
        if shape != self._outage and part is not None and part.revision.shape == self._outage:
            return []
        attempt, self._outage = self.lines.recovery(self._outage).attempt, None
        gap_ms = round((now - self._outage_since) * 1000)
        return self._dialect.status("connected", cause="reconnected", attempt=attempt, gap_ms=gap_ms)

    def _refuse(self, revision: Revision, error: GatewayError) -> list[Command]:
        """Let the settings before hold, for what was to be said with refused ones too."""
        before, answers = self._revisions.refuse(revision, error.message)
        commands = self._dialect.updated(answers)
        for context in self.contexts:
            parts = [part for part in context.parts if part.revision is revision]
            for part in parts:
                part.revision = before
            if parts:
                text = f"The new settings were refused, so this is said with the previous ones: {error.message}"
                commands.append(tell(about(context, error, text)))
        return commands

    # What follows

    def go_on(self, now: float) -> list[Command]:
        """Send what can be sent now, and open what is needed for it."""
        if self.hopeless is not None:
            return []
        commands = self._end_said() + self._tidy()
        if (part := self._waiting()) is not None:
            line, to_do = self.lines.take(part.revision.shape, now)
            commands += to_do
            if line is not None:
                part.line = line.number
        head = self.contexts.head
        if head is not None and head.part is not None and head.part.line is not None:
            messages = head.part.next_messages(inline=self._options.flush == "inline", now=now)
            head.said = head.said or bool(messages)
            commands += [SendUpstream(head.part.line, dump(message)) for message in messages]
        for revision in self._revisions.pending:
            commands += self.lines.bring(revision.shape, now)
        if self._prepare_at is not None and now >= self._prepare_at:
            self._prepare_at = None
            commands += self.lines.bring(self._revisions.newest.shape, now)
        return commands

    def _end_said(self) -> list[Command]:
        """End what has nothing left to say; spaces alone are kept from upstream, where they might draw no answer."""
        commands: list[Command] = []
        while self._told_ready and (head := self.contexts.head) is not None:
            part = head.part
            if part is not None and part.line is None and part.blank and part.closed:
                head.parts.popleft()
            elif part is None and head.flushed:
                self.contexts.end(head, "completed" if not head.failed else "failed")
                commands += self._dialect.ended(head, "completed") if head.said else self._dialect.blank(head)
            else:
                break
        return commands

    def _tidy(self) -> list[Command]:
        """Let go of lines whose settings nothing will be said with."""
        revisions = self._revisions
        if not revisions.changing:
            return []
        used = [part.revision for context in self.contexts for part in context.parts]
        revisions.forget(used)
        shapes = revisions.shapes | {revision.shape for revision in used}
        self.lines.forget_others(shapes)
        return self.lines.retire_others(shapes, opening=True)

    def _expect_turn(self, shape: Shape, now: float) -> None:
        """Plan a line for the next turn, where a line takes one only."""
        if self.lines.one_turn(shape):
            self._prepare_at = now + QUIET

    def _waiting(self) -> Part | None:
        """Give the part that is next and has something to say, but no line."""
        head = self.contexts.head
        part = head.part if head is not None else None
        return part if part is not None and part.line is None and not part.blank else None

    def _said(self, line: Line) -> tuple[Context, Part]:
        """Give what a busy line carries."""
        head = self.contexts.head
        assert head is not None
        part = head.part
        assert part is not None
        assert part.line == line.number
        return head, part

    def _doubted(self) -> tuple[Terminal, float] | None:
        """Give the terminal of the head that may be another one's, and when it counts after all."""
        head = self.contexts.head
        return head.part.doubted if head is not None and head.part is not None else None

    def _stuck_at(self) -> float | None:
        """When the head counts as stuck: sound is due once all of it is upstream, and more sound after the first."""
        head = self.contexts.head
        part = head.part if head is not None else None
        if part is None or part.line is None or not part.flush_sent:
            return None
        limit = self._options.terminal_timeout if part.sounded else self._options.first_audio_timeout
        return part.progress + limit

    def _carrier(self) -> Line:
        """Give the line of the part that is being said."""
        return next(line for line in self.lines if line.state is LineState.BUSY)

    def _stuck(self) -> GatewayError:
        if self._said(self._carrier())[1].sounded:
            text = f"Upstream fell silent for {self._options.terminal_timeout:g} s within an utterance."
        else:
            text = f"Upstream gave no audio within {self._options.first_audio_timeout:g} s."
        return GatewayError("upstream_timeout", text)


def about(context: Context, error: GatewayError, message: str | None = None) -> GatewayError:
    """Give an error as one of a context, after which the session goes on."""
    return GatewayError(
        error.code,
        message or error.message,
        status=error.status,
        fatal=False,
        context_id=context.name,
        upstream=error.upstream,
    )
