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
    Other,
    Ready,
    Terminal,
    TtsMessage,
    UpstreamError,
    dump,
    parse_object,
    parse_tts,
)
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.tts.contexts import Context, Contexts, Turn
from slng_sidecar.protocol.tts.dialects import TtsDialect
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.pool import QUIET, ConnectionPool, PooledConnection, PooledState
from slng_sidecar.protocol.tts.settings import ConnectionKey, SettingsHistory, SettingsRevision
from slng_sidecar.protocol.updates import ConnectionSettings, Update

# How long a terminal without a sound before it is doubted, on a line that had a turn before.
_DOUBT = 0.3


class Scheduler:
    """The part of a TTS session that begins with its ``init``.

    Mutable: ``contexts``, oldest first, of which only the head may be upstream; ``pool``, the upstream connections;
    ``_revisions``, the settings; ``_prepare_at``, when a line for the next turn is opened, on routes whose lines take
    one turn; ``_outage``, the shape whose loss the client was told of, and ``_outage_since``; ``_told_ready``;
    ``hopeless``, why the session must end, once that is so.
    """

    def __init__(
        self,
        options: TtsOptions,
        dialect: TtsDialect,
        settings: ConnectionSettings,
        counts: Counter[str],
        reports: deque[TurnReport],
        bytes_per_second: int,
        standby: bool,
    ) -> None:
        self._options = options
        self._dialect = dialect
        self._counts = counts
        self._revisions = SettingsHistory(settings)
        self.contexts = Contexts(reports, bytes_per_second)
        self.pool = ConnectionPool(
            options.model,
            options.reconnect_seconds,
            options.rotate_seconds,
            options.jitter,
            counts,
            standby=standby,
        )
        self.hopeless: GatewayError | None = None
        self._prepare_at: float | None = None
        self._outage: ConnectionKey | None = None
        self._outage_since = 0.0
        self._told_ready = False

    def __repr__(self) -> str:
        return f"{self.pool}, {self.contexts}"

    @property
    def newest(self) -> SettingsRevision:
        """The settings that hold for what comes next."""
        return self._revisions.newest

    @property
    def deadline(self) -> float | None:
        needed = [revision.key for revision in self._revisions.pending]
        if (turn := self._waiting()) is not None:
            needed.append(turn.revision.key)
        doubted = self._doubted()
        doubt_at = None if doubted is None else doubted[1]
        times = (self._prepare_at, self._stuck_at(), doubt_at, self.pool.deadline(needed))
        return min((time for time in times if time is not None), default=None)

    def open(self, now: float) -> list[Command]:
        """Dial the first line."""
        return self.pool.bring(self.newest.key, now)

    def wake(self, now: float) -> list[Command]:
        commands = self.pool.wake(now)
        if (ended := self._doubted()) is not None and now >= ended[1]:
            return commands + self._turn_ended(self._carrier(), ended[0], now)
        stuck_at = self._stuck_at()
        if stuck_at is not None and now >= stuck_at:
            return commands + self._connection_failed(self._carrier(), self._stuck(), now)
        return commands + self.go_on(now)

    def clear(self, name: str | None, answer: list[Command], now: float) -> list[Command]:
        """Cut off the context of that name, or all where it is None; then say ``answer``."""
        commands: list[Command] = []
        for context in self.contexts:
            if name is None or context.name == name:
                if (turn := context.turn) is not None and turn.pooled is not None:
                    pooled = self.pool.get(turn.pooled)
                    assert pooled is not None
                    commands += self.pool.clear(pooled, now)
                    self._expect_turn(pooled.key, now)
                self.contexts.end(context, "cleared")
                commands += self._dialect.ended(context, "cleared")
        return commands + answer + self.go_on(now)

    def update(self, update: Update, now: float) -> list[Command]:
        """Let other settings hold for the texts that follow."""
        before = self._revisions.newest
        used = any(turn.revision is before for context in self.contexts for turn in context.turns)
        answer = self._revisions.take(update, used=used)
        if answer is not None:
            return self._dialect.updated([answer])
        if self._revisions.newest is not before:
            for context in self.contexts:
                context.close_turn()
        key = self._revisions.newest.key
        answers = self._revisions.settle(key) if self.pool.stands(key) else []
        return self._dialect.updated(answers) + self.go_on(now)

    def end(self, why: str) -> list[Command]:
        """Give up what is left: updates are answered, contexts forgotten, lines closed."""
        answers = [answer for revision in self._revisions.pending for answer in revision.answers]
        for answer in answers:
            answer.refuse(why)
        self.contexts.clear("failed")
        return [*self._dialect.updated(answers), *self.pool.retire_all()]

    # What upstream says

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        if (pooled := self.pool.get(connection)) is None:
            return []
        commands = self._outage_over(pooled.key, now)
        self.pool.ready(pooled, now, since)
        if not self._told_ready:
            self._told_ready = True
            commands += self._dialect.ready(parse_object(text))
        return commands + self._dialect.updated(self._revisions.settle(pooled.key)) + self.go_on(now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        if (pooled := self.pool.get(connection)) is None:
            return []
        try:
            messages = parse_tts(text)
        except GatewayError as error:
            self._counts["unreadable_upstream_message"] += 1
            return self._connection_failed(pooled, error, now) if error.code == "unsupported_audio_format" else []
        commands: list[Command] = []
        for message in messages:
            if (pooled := self.pool.get(connection)) is not None:
                commands += self._upstream_message(pooled, message, now)
        return commands

    def upstream_audio(self, connection: int, data: bytes, now: float) -> list[Command]:
        if (pooled := self.pool.get(connection)) is None or not data:
            return []
        if pooled.state is not PooledState.BUSY:
            self._counts["stray_audio_bytes"] += len(data)
            if pooled.state is PooledState.CLEARING:
                return []
            # Sound that nobody asked for: whose the next one is could not be told.
            return [*self.pool.retire(pooled), *self.go_on(now)]
        head, turn = self._said(pooled)
        turn.sounds(now)
        return self._dialect.audio(head, data, now)

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if (pooled := self.pool.get(connection)) is None:
            return []
        self.pool.ended(pooled, error, now)
        if pooled.state is PooledState.OPENING:
            return self._dial_failed(pooled, error, now)
        if pooled.state is not PooledState.BUSY:
            self._counts["idle_connections_lost"] += 1
            if self.pool.one_turn(pooled.key):
                self._prepare_at = now + QUIET
            if pooled.turn_ended_at is not None and closed_cleanly(error):
                return self.go_on(now)
            return self._dial_again(pooled, error, now)
        _, turn = self._said(pooled)
        if turn.flush_sent and turn.sounded and closed_cleanly(error):
            # Some routes end a turn by closing and say nothing.
            self.pool.spent(pooled)
            return self._turn_ended(pooled, None, now)
        return [*self._turn_failed(pooled, error), *self._dial_again(pooled, error, now)]

    def _upstream_message(self, pooled: PooledConnection, message: TtsMessage, now: float) -> list[Command]:
        match message:
            case Audio(data):
                return self.upstream_audio(pooled.number, data, now)
            case Terminal():
                return self._terminal(pooled, message, now)
            case Cleared():
                return [*self.pool.cleared(pooled, now), *self.go_on(now)]
            case UpstreamError(error):
                return self._connection_failed(pooled, error, now)
            case Ready():
                self._counts["extra_ready"] += 1
                return []
            case Other(raw):
                return self._dialect.other(raw) if pooled.state is PooledState.BUSY else []

    def _terminal(self, pooled: PooledConnection, terminal: Terminal, now: float) -> list[Command]:
        if pooled.state is PooledState.CLEARING:
            # It may have been on its way before the clear, so the acknowledgement is still awaited.
            pooled.cleared_turn_ended = True
            return []
        if pooled.state is not PooledState.BUSY:
            self._counts["stray_terminals"] += 1
            self.pool.disturbed(pooled, now)
            return []
        turn = self._said(pooled)[1]
        if not turn.flush_sent:
            self._counts["segment_ends"] += 1
            return []
        if not turn.sounded and turn.doubted is None and pooled.turn_ended_at is not None:
            # The turn before may have been ended twice, so late that this one was already upstream.
            turn.doubted = (terminal, now + _DOUBT)
            return []
        return self._turn_ended(pooled, terminal, now)

    def _turn_ended(self, pooled: PooledConnection, terminal: Terminal | None, now: float) -> list[Command]:
        """Go on after a part: with the next one, or the end of its context."""
        head, _ = self._said(pooled)
        head.turns.popleft()
        commands = self.pool.turn_ended(pooled, now) if self.pool.get(pooled.number) is not None else []
        self._expect_turn(pooled.key, now)
        if head.flushed and not head.turns:
            self.contexts.end(head, "completed")
            commands = self._dialect.ended(head, "completed", terminal) + commands
        return commands + self.go_on(now)

    def _connection_failed(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Deal with an error on a connection that may still be open: it is not used again."""
        commands = self.pool.retire(pooled)
        if pooled.state is not PooledState.BUSY:
            # An idle session that upstream gave up: nobody was waiting for it.
            self._counts["idle_errors"] += 1
            return commands + self.go_on(now)
        if error.code == "provider_error" and "not found" in error.message and pooled.turn_ended_at is not None:
            # Soniox's words for a session that has had its turn: "Stream … not found."
            self.pool.spent(pooled)
        return commands + self._turn_failed(pooled, error) + self.go_on(now)

    def _turn_failed(self, pooled: PooledConnection, error: GatewayError) -> list[Command]:
        """Say the part once more, where none of it was heard and that can help; else its context has failed."""
        head, turn = self._said(pooled)
        decodable = error.code != "unsupported_audio_format"
        if not turn.sounded and not turn.retried and error.retryable and decodable:
            self._counts["contexts_said_again"] += bool(turn.sent)
            # A line that was spent has not begun to say it, and that cannot happen twice.
            turn.again(counts=not pooled.spent)
            return []
        told = tell(about(head, error))
        if head.flushed or self._dialect.named:
            self.contexts.end(head, "failed")
            return [told, *self._dialect.ended(head, "failed")]
        head.turns.clear()
        head.received, head.failed, head.said = 0, True, False
        return [told]

    # Lines that are lost

    def _dial_failed(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Deal with a line that upstream did not open."""
        asking = [revision for revision in self._revisions.pending if revision.key == pooled.key]
        if not self._told_ready and not asking:
            self.hopeless = error
            return []
        if not asking:
            return self._dial_again(pooled, error, now)
        commands: list[Command] = []
        if error.status == 429:
            # No slot for a second connection: those that carry nothing make room.
            waiting = self._waiting()
            kept = {pooled.key} if waiting is None else {pooled.key, waiting.revision.key}
            commands += self.pool.retire_others(kept, opening=False)
        try:
            self.pool.plan_redial(pooled, error, now)
        except GatewayError as hopeless:
            for revision in asking:
                commands += self._refuse(revision, hopeless)
            return commands + self.go_on(now)
        return commands + self._outage_begins(pooled.key, error, now) + self.go_on(now)

    def _dial_again(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Plan the next attempt, where somebody waits; the loss of a line that nobody needs is no news."""
        turn = self._waiting()
        if turn is None or turn.revision.key != pooled.key:
            return self.go_on(now)
        try:
            self.pool.plan_redial(pooled, error, now)
        except GatewayError as hopeless:
            self.hopeless = hopeless
            return []
        return self._outage_begins(pooled.key, error, now) + self.go_on(now)

    def _outage_begins(self, key: ConnectionKey, error: GatewayError, now: float) -> list[Command]:
        turn = self._waiting()
        if self._outage is not None or turn is None or turn.revision.key != key:
            return []
        self._outage, self._outage_since = key, now
        attempt = self.pool.recovery(key).attempt
        return self._dialect.status("reconnecting", cause=error.code, attempt=attempt, gap_ms=0)

    def _outage_over(self, key: ConnectionKey, now: float) -> list[Command]:
        if self._outage is None:
            return []
        turn = self._waiting()
        if key != self._outage and turn is not None and turn.revision.key == self._outage:
            return []
        attempt, self._outage = self.pool.recovery(self._outage).attempt, None
        gap_ms = round((now - self._outage_since) * 1000)
        return self._dialect.status("connected", cause="reconnected", attempt=attempt, gap_ms=gap_ms)

    def _refuse(self, revision: SettingsRevision, error: GatewayError) -> list[Command]:
        """Let the settings before hold, for what was to be said with refused ones too."""
        before, answers = self._revisions.refuse(revision, error.message)
        commands = self._dialect.updated(answers)
        for context in self.contexts:
            turns = [turn for turn in context.turns if turn.revision is revision]
            for turn in turns:
                turn.revision = before
            if turns:
                text = f"The new settings were refused, so this is said with the previous ones: {error.message}"
                commands.append(tell(about(context, error, text)))
        return commands

    # What follows

    def go_on(self, now: float) -> list[Command]:
        """Send what can be sent now, and open what is needed for it."""
        if self.hopeless is not None:
            return []
        commands = self._end_said() + self._tidy()
        if (turn := self._waiting()) is not None:
            pooled, to_do = self.pool.take(turn.revision.key, now)
            commands += to_do
            if pooled is not None:
                turn.pooled = pooled.number
        head = self.contexts.head
        if head is not None and head.turn is not None and head.turn.pooled is not None:
            messages = head.turn.next_messages(inline=self._options.flush == "inline", now=now)
            head.said = head.said or bool(messages)
            commands += [SendUpstream(head.turn.pooled, dump(message)) for message in messages]
        for revision in self._revisions.pending:
            commands += self.pool.bring(revision.key, now)
        if self._prepare_at is not None and now >= self._prepare_at:
            self._prepare_at = None
            commands += self.pool.bring(self._revisions.newest.key, now)
        return commands

    def _end_said(self) -> list[Command]:
        """End what has nothing left to say; spaces alone are kept from upstream, where they might draw no answer."""
        commands: list[Command] = []
        while self._told_ready and (head := self.contexts.head) is not None:
            turn = head.turn
            if turn is not None and turn.pooled is None and turn.blank and turn.closed:
                head.turns.popleft()
            elif turn is None and head.flushed:
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
        used = [turn.revision for context in self.contexts for turn in context.turns]
        revisions.forget(used)
        keys = revisions.keys | {revision.key for revision in used}
        self.pool.forget_others(keys)
        return self.pool.retire_others(keys, opening=True)

    def _expect_turn(self, key: ConnectionKey, now: float) -> None:
        """Plan a line for the next turn, where a line takes one only."""
        if self.pool.one_turn(key):
            self._prepare_at = now + QUIET

    def _waiting(self) -> Turn | None:
        """Give the part that is next and has something to say, but no line."""
        head = self.contexts.head
        turn = head.turn if head is not None else None
        return turn if turn is not None and turn.pooled is None and not turn.blank else None

    def _said(self, pooled: PooledConnection) -> tuple[Context, Turn]:
        """Give what a busy line carries."""
        head = self.contexts.head
        assert head is not None
        turn = head.turn
        assert turn is not None
        assert turn.pooled == pooled.number
        return head, turn

    def _doubted(self) -> tuple[Terminal, float] | None:
        """Give the terminal of the head that may be another one's, and when it counts after all."""
        head = self.contexts.head
        return head.turn.doubted if head is not None and head.turn is not None else None

    def _stuck_at(self) -> float | None:
        """When the head counts as stuck: sound is due once all of it is upstream, and more sound after the first."""
        head = self.contexts.head
        turn = head.turn if head is not None else None
        if turn is None or turn.pooled is None or not turn.flush_sent:
            return None
        limit = self._options.terminal_timeout if turn.sounded else self._options.first_audio_timeout
        return turn.progress + limit

    def _carrier(self) -> PooledConnection:
        """Give the line of the part that is being said."""
        return next(pooled for pooled in self.pool if pooled.state is PooledState.BUSY)

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
