"""Decides what of a TTS session's contexts is said next, on which connection, and what follows from upstream's answers.

Upstream labels nothing, so order is ownership: a connection carries one turn of a context at a time, and the next turn
waits for its terminal and a moment of quiet. A turn that was lost before its first audio is sent once more.
"""

from __future__ import annotations

from collections import Counter, deque

from slng_sidecar.protocol.commands import Command, SendUpstream, send_error
from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
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
from slng_sidecar.protocol.tts.contexts import Context, Contexts, DoubtedTerminal, Turn
from slng_sidecar.protocol.tts.dialects import TtsDialect
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.pool import QUIET_SECONDS, ConnectionPool, PooledConnection, PooledState
from slng_sidecar.protocol.tts.settings import ConnectionKey, SettingsHistory, SettingsRevision
from slng_sidecar.protocol.updates import ConnectionSettings, Update

# Seconds for which a terminal before any audio is doubted, on a connection that carried a turn before.
_DOUBT_SECONDS = 0.3


class Scheduler:
    """The part of a TTS session that starts with its ``init``.

    Mutable: ``contexts``, oldest first, of which only the head may be upstream; ``pool``, the connections;
    ``_history``, the settings; ``_prepare_at``, when a connection for the next turn is opened, on routes that take one
    turn a connection; ``_outage``, the key whose loss was reported to the client, and ``_outage_since``;
    ``_ready_sent``, whether the client has its ``ready``; ``hopeless``, why the session must end, once that is so.
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
        self._history = SettingsHistory(settings)
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
        self._ready_sent = False

    def __repr__(self) -> str:
        return f"{self.pool}, {self.contexts}"

    @property
    def newest(self) -> SettingsRevision:
        """The settings of the next text."""
        return self._history.newest

    @property
    def deadline(self) -> float | None:
        """When to call ``wake``; None for never."""
        needed = [revision.key for revision in self._history.pending]
        if (waiting := self._waiting()) is not None:
            needed.append(waiting[1].revision.key)
        turn = self._head_turn()
        doubted = turn.doubted if turn is not None else None
        times = (
            self._prepare_at,
            self._overdue_at(turn),
            doubted.counts_at if doubted is not None else None,
            self.pool.deadline(needed),
        )
        return min((time for time in times if time is not None), default=None)

    def open(self, now: float) -> list[Command]:
        """Dial the first connection."""
        return self.pool.provide(self.newest.key, now)

    def wake(self, now: float) -> list[Command]:
        """Do what is due at ``deadline``."""
        commands = self.pool.wake(now)
        turn = self._head_turn()
        pooled = self.pool.get(turn.connection) if turn is not None and turn.connection is not None else None
        if turn is not None and pooled is not None:
            if turn.doubted is not None and now >= turn.doubted.counts_at:
                return commands + self._turn_ended(pooled, turn.doubted.terminal, now)
            overdue_at = self._overdue_at(turn)
            if overdue_at is not None and now >= overdue_at:
                return commands + self._connection_failed(pooled, self._stuck(turn), now)
        return commands + self.advance(now)

    def clear(self, context_id: str | None, answer: list[Command], now: float) -> list[Command]:
        """End the context of that id, or all contexts if it is None, and then send ``answer``."""
        commands: list[Command] = []
        for context in self.contexts:
            if context_id is None or context.id == context_id:
                if (turn := context.turn) is not None and turn.connection is not None:
                    pooled = self.pool.get(turn.connection)
                    assert pooled is not None
                    commands += self.pool.clear(pooled, now)
                    self._prepare_next(pooled.key, now)
                self.contexts.end(context, "cleared")
                commands += self._dialect.ended(context, "cleared")
        return commands + answer + self.advance(now)

    def update(self, update: Update, now: float) -> list[Command]:
        """Use other settings for the text that follows."""
        before = self._history.newest
        used = any(turn.revision is before for context in self.contexts for turn in context.turns)
        answer = self._history.add(update, used=used)
        if answer is not None:
            return self._dialect.updated([answer])
        if self._history.newest is not before:
            for context in self.contexts:
                context.close_turn()
        key = self._history.newest.key
        answers = self._history.accept(key) if self.pool.is_accepted(key) else []
        return self._dialect.updated(answers) + self.advance(now)

    def end(self, why: str) -> list[Command]:
        """End everything that is left: refuse open updates, drop contexts, close connections."""
        answers = [answer for revision in self._history.pending for answer in revision.answers]
        for answer in answers:
            answer.refuse(why)
        self.contexts.end_all("failed")
        return [*self._dialect.updated(answers), *self.pool.retire_all()]

    # What upstream says

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        """Handle a connection's ``ready``, which came at ``since`` if the connection waited in standby."""
        if (pooled := self.pool.get(connection)) is None:
            return []
        commands = self._outage_over(pooled.key, now)
        self.pool.ready(pooled, now, since)
        if not self._ready_sent:
            self._ready_sent = True
            commands += self._dialect.ready(parse_object(text))
        return commands + self._dialect.updated(self._history.accept(pooled.key)) + self.advance(now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        """Handle a text message of upstream."""
        if (pooled := self.pool.get(connection)) is None:
            return []
        try:
            messages = parse_tts(text)
        except GatewayError as error:
            self._counts["unreadable_upstream_message"] += 1
            if error.code != ErrorCode.UNSUPPORTED_AUDIO_FORMAT:
                return []
            return self._connection_failed(pooled, error, now)
        commands: list[Command] = []
        for message in messages:
            if (pooled := self.pool.get(connection)) is not None:
                commands += self._message(pooled, message, now)
        return commands

    def upstream_audio(self, connection: int, data: bytes, now: float) -> list[Command]:
        """Handle audio of upstream."""
        if (pooled := self.pool.get(connection)) is None or not data:
            return []
        if pooled.state is PooledState.BUSY:
            context, turn = pooled.carried
            turn.add_audio(now)
            return self._dialect.audio(context, data, now)
        self._counts["stray_audio_bytes"] += len(data)
        if pooled.state is PooledState.CLEARING:
            return []
        # Audio that no turn asked for: the audio that follows could not be assigned to a context.
        return [*self.pool.retire(pooled), *self.advance(now)]

    def upstream_lost(self, connection: int, close: Close, now: float) -> list[Command]:
        """Handle the end of a connection that was not retired."""
        if (pooled := self.pool.get(connection)) is None:
            return []
        self.pool.lost(pooled, close, now)
        if pooled.state is PooledState.OPENING:
            return self._dial_failed(pooled, close.error, now)
        if pooled.state is not PooledState.BUSY:
            self._counts["idle_connections_lost"] += 1
            self._prepare_next(pooled.key, now)
            if pooled.turn_ended_at is not None and close.is_clean:
                return self.advance(now)
            return self._dial_again(pooled, close.error, now)
        _, turn = pooled.carried
        if turn.flush_sent and turn.has_audio and close.is_clean:
            # Some routes end a turn by closing, without a terminal.
            self.pool.spent(pooled)
            return self._turn_ended(pooled, None, now)
        return [*self._turn_failed(pooled, close.error), *self._dial_again(pooled, close.error, now)]

    def _message(self, pooled: PooledConnection, message: TtsMessage, now: float) -> list[Command]:
        match message:
            case Audio(data):
                return self.upstream_audio(pooled.number, data, now)
            case Terminal():
                return self._terminal(pooled, message, now)
            case Cleared():
                return [*self.pool.cleared(pooled, now), *self.advance(now)]
            case UpstreamError(error, is_stream_gone):
                if is_stream_gone and pooled.state is PooledState.BUSY and pooled.turn_ended_at is not None:
                    self.pool.spent(pooled)
                return self._connection_failed(pooled, error, now)
            case Ready():
                self._counts["extra_ready"] += 1
                return []
            case Other(raw):
                return self._dialect.other(raw) if pooled.state is PooledState.BUSY else []

    def _terminal(self, pooled: PooledConnection, terminal: Terminal, now: float) -> list[Command]:
        if pooled.state is PooledState.CLEARING:
            # The acknowledgement of the clear is still awaited.
            self.pool.terminal_while_clearing(pooled)
            return []
        if pooled.state is not PooledState.BUSY:
            self._counts["stray_terminals"] += 1
            self.pool.disturbed(pooled, now)
            return []
        _, turn = pooled.carried
        if not turn.flush_sent:
            self._counts["segment_ends"] += 1
            return []
        if not turn.has_audio and turn.doubted is None and pooled.turn_ended_at is not None:
            # Upstream may have ended the turn before a second time, so late that this one was already upstream.
            turn.doubted = DoubtedTerminal(terminal, now + _DOUBT_SECONDS)
            return []
        return self._turn_ended(pooled, terminal, now)

    def _turn_ended(self, pooled: PooledConnection, terminal: Terminal | None, now: float) -> list[Command]:
        """Continue after a turn: with the next one, or with the end of its context."""
        context, _ = pooled.carried
        context.turns.popleft()
        commands = self.pool.turn_ended(pooled, now) if self.pool.get(pooled.number) is not None else []
        self._prepare_next(pooled.key, now)
        if context.flushed and not context.turns:
            self.contexts.end(context, "completed")
            commands = self._dialect.ended(context, "completed", terminal) + commands
        return commands + self.advance(now)

    def _connection_failed(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Close a connection that reported an error and may still be open, and deal with its turn."""
        commands = self.pool.retire(pooled)
        if pooled.state is not PooledState.BUSY:
            # Upstream gave up an idle session that no turn was waiting for.
            self._counts["idle_errors"] += 1
            return commands + self.advance(now)
        return commands + self._turn_failed(pooled, error) + self.advance(now)

    def _turn_failed(self, pooled: PooledConnection, error: GatewayError) -> list[Command]:
        """Retry a turn if none of it was heard and a retry can help. Otherwise its context has failed."""
        context, turn = pooled.carried
        can_help = error.retryable and error.code != ErrorCode.UNSUPPORTED_AUDIO_FORMAT
        if can_help and not turn.has_audio and not turn.was_retried:
            self._counts["contexts_said_again"] += bool(turn.sent)
            # A spent connection has not begun to say the turn, and that cannot happen twice.
            turn.restart(counts=not pooled.is_spent)
            return []
        failure = send_error(about(context, error))
        if context.flushed or self._dialect.names_contexts:
            self.contexts.end(context, "failed")
            return [failure, *self._dialect.ended(context, "failed")]
        context.fail_plain()
        return [failure]

    # Connections that are lost

    def _dial_failed(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Handle a connection that upstream did not open."""
        asking = [revision for revision in self._history.pending if revision.key == pooled.key]
        if not self._ready_sent and not asking:
            self.hopeless = error
            return []
        if not asking:
            return self._dial_again(pooled, error, now)
        commands: list[Command] = []
        if error.status == 429:
            # Upstream has no slot for a second connection, so those that carry no turn make room.
            waiting = self._waiting()
            kept = {pooled.key} if waiting is None else {pooled.key, waiting[1].revision.key}
            commands += self.pool.retire_others(kept, opening=False)
        try:
            self.pool.plan_redial(pooled, error, now)
        except GatewayError as hopeless:
            for revision in asking:
                commands += self._refuse(revision, hopeless)
            return commands + self.advance(now)
        return commands + self._outage_begins(pooled.key, error, now) + self.advance(now)

    def _dial_again(self, pooled: PooledConnection, error: GatewayError, now: float) -> list[Command]:
        """Plan the next attempt if a turn waits for it. The loss of a connection that no turn needs is not reported."""
        waiting = self._waiting()
        if waiting is None or waiting[1].revision.key != pooled.key:
            return self.advance(now)
        try:
            self.pool.plan_redial(pooled, error, now)
        except GatewayError as hopeless:
            self.hopeless = hopeless
            return []
        return self._outage_begins(pooled.key, error, now) + self.advance(now)

    def _outage_begins(self, key: ConnectionKey, error: GatewayError, now: float) -> list[Command]:
        waiting = self._waiting()
        if self._outage is not None or waiting is None or waiting[1].revision.key != key:
            return []
        self._outage, self._outage_since = key, now
        attempt = self.pool.policy(key).attempt
        return self._dialect.status("reconnecting", cause=error.code, attempt=attempt, gap_ms=0)

    def _outage_over(self, key: ConnectionKey, now: float) -> list[Command]:
        if self._outage is None:
            return []
        waiting = self._waiting()
        if key != self._outage and waiting is not None and waiting[1].revision.key == self._outage:
            return []
        attempt, self._outage = self.pool.policy(self._outage).attempt, None
        gap_ms = round((now - self._outage_since) * 1000)
        return self._dialect.status("connected", cause="reconnected", attempt=attempt, gap_ms=gap_ms)

    def _refuse(self, revision: SettingsRevision, error: GatewayError) -> list[Command]:
        """Refuse a revision: its text falls back to the settings before it."""
        before, answers = self._history.refuse(revision, error.message)
        commands = self._dialect.updated(answers)
        for context in self.contexts:
            turns = [turn for turn in context.turns if turn.revision is revision]
            for turn in turns:
                turn.revision = before
            if turns:
                text = f"The new settings were refused, so this is said with the previous ones: {error.message}"
                commands.append(send_error(about(context, error, text)))
        return commands

    # What follows from every event

    def advance(self, now: float) -> list[Command]:
        """Send what can be sent now, and open the connections that are needed for it."""
        if self.hopeless is not None:
            return []
        commands = self._end_blank() + self._close_unneeded()
        if (waiting := self._waiting()) is not None:
            context, turn = waiting
            pooled, dials = self.pool.take(turn.revision.key, context, now)
            commands += dials
            if pooled is not None:
                turn.connection = pooled.number
        head = self.contexts.head
        if head is not None and (turn_now := head.turn) is not None and turn_now.connection is not None:
            messages = turn_now.next_messages(inline=self._options.flush == "inline", now=now)
            head.was_sent = head.was_sent or bool(messages)
            commands += [SendUpstream(turn_now.connection, dump(message)) for message in messages]
        for revision in self._history.pending:
            commands += self.pool.provide(revision.key, now)
        if self._prepare_at is not None and now >= self._prepare_at:
            self._prepare_at = None
            commands += self.pool.provide(self._history.newest.key, now)
        return commands

    def _end_blank(self) -> list[Command]:
        """End what has nothing left to say. Spaces alone are not sent, since upstream might not answer them."""
        commands: list[Command] = []
        while self._ready_sent and (head := self.contexts.head) is not None:
            turn = head.turn
            if turn is not None and turn.connection is None and turn.is_blank and turn.is_closed:
                head.turns.popleft()
            elif turn is None and head.flushed:
                self.contexts.end(head, "completed" if not head.failed else "failed")
                ended = self._dialect.ended(head, "completed") if head.was_sent else self._dialect.blank(head)
                commands += ended
            else:
                break
        return commands

    def _close_unneeded(self) -> list[Command]:
        """Close connections whose settings no queued text uses."""
        history = self._history
        if not history.is_changing:
            return []
        used = [turn.revision for context in self.contexts for turn in context.turns]
        history.forget(used)
        keys = history.keys | {revision.key for revision in used}
        self.pool.forget_others(keys)
        return self.pool.retire_others(keys, opening=True)

    def _prepare_next(self, key: ConnectionKey, now: float) -> None:
        """Plan a connection for the next turn, on routes that take one turn a connection."""
        if self.pool.takes_one_turn(key):
            self._prepare_at = now + QUIET_SECONDS

    def _head_turn(self) -> Turn | None:
        """Return the turn that is being said, or is next."""
        head = self.contexts.head
        return head.turn if head is not None else None

    def _waiting(self) -> tuple[Context, Turn] | None:
        """Return the turn that is next and has something to say but no connection, with its context."""
        head, turn = self.contexts.head, self._head_turn()
        if head is None or turn is None or turn.connection is not None or turn.is_blank:
            return None
        return head, turn

    def _overdue_at(self, turn: Turn | None) -> float | None:
        options = self._options
        return None if turn is None else turn.overdue_at(options.first_audio_timeout, options.terminal_timeout)

    def _stuck(self, turn: Turn) -> GatewayError:
        if turn.has_audio:
            text = f"Upstream fell silent for {self._options.terminal_timeout:g} s within an utterance."
        else:
            text = f"Upstream sent no audio within {self._options.first_audio_timeout:g} s."
        return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, text)


def about(context: Context, error: GatewayError, message: str | None = None) -> GatewayError:
    """Return an error as one of a context, after which the session goes on."""
    return GatewayError(
        error.code,
        message or error.message,
        status=error.status,
        fatal=False,
        context_id=context.id,
        upstream=error.upstream,
    )
