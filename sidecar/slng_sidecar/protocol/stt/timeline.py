"""What an STT session listens with: its audio, the stretches it is parted in, and the connections that hear them."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from slng_sidecar.protocol.commands import Command, Dial, Retire, SendUpstream, tell
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import Other, Ready, Transcript, UpstreamError, dump, parse_object, parse_stt
from slng_sidecar.protocol.reconnect import ReconnectPolicy
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.finals import FinalizeTracker
from slng_sidecar.protocol.stt.handover import CutFinder
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import Change, Segment, State
from slng_sidecar.protocol.updates import ConnectionSettings, changed, read_update

# What ``backpressure`` asks for is not known; sound waits so long after one.
_BACKPRESSURE_SECONDS = 0.25
# A rotation that upstream refuses is tried again after that.
_ROTATION_RETRY_SECONDS = 60.0
# So long must nobody have spoken for a moment to end a session at.
_QUIET_SECONDS = 1.0
_FINALIZE, _CLOSE = dump({"type": "finalize"}), dump({"type": "close"})


class Timeline:
    """The part of an STT session that begins with its ``init``. A method that raises ends the session.

    The audio is a row of stretches. The last one grows; an update of the settings ends it at a cut and begins the next;
    a drop gives a stretch another connection, which hears again what was not covered. The first stretch has the word:
    what the others have to tell waits until it is done.

    Mutable: ``buffer``, the audio; ``_segments``, oldest first; ``_finals``, for their transcripts; ``_change``, at
    most one; ``_numbers``, of connections; ``_audio_at``, when audio came last; ``_paused_until`` by backpressure;
    ``_rotate_after``, where a rotation was refused; ``_told_ready``; ``_told_overflow``, once an outage; ``_closing``,
    once the client has said all; ``over``, once all of it is told.
    """

    def __init__(
        self,
        options: SttOptions,
        dialect: SttDialect,
        counts: Counter[str],
        reports: deque[TurnReport],
        settings: ConnectionSettings,
        buffer: ReplayBuffer,
        scope: str,
    ) -> None:
        self.over = False
        self.buffer = buffer
        self._options = options
        self._dialect = dialect
        self._counts = counts
        self._finals = FinalizeTracker(
            dialect,
            buffer,
            counts,
            reports,
            scope=scope,
            threshold=options.confidence_threshold,
            final_lag=options.final_lag,
            finalize_timeout=options.finalize_timeout,
        )
        self._segments: deque[Segment] = deque([self._new_segment(settings)])
        self._segments[0].activate()
        self._change: Change | None = None
        self._numbers = -1
        self._audio_at = 0.0
        self._paused_until = 0.0
        self._rotate_after = 0.0
        self._told_ready = False
        self._told_overflow = False
        self._closing = False

    def __repr__(self) -> str:
        change = f", changing by {self._change.connection}" if self._change else ""
        return f"{self.buffer}, {list(self._segments)}{change}"

    @property
    def deadline(self) -> float | None:
        times = [self._finals.deadline]
        for segment in self._segments:
            times += [segment.redial_at, segment.drain_by, segment.held.due if segment.held is not None else None]
        if self._paused_until and any(segment.state is State.LIVE for segment in self._segments):
            times.append(self._paused_until)
        if self._change is not None and self._change.cut_finder is not None:
            times.append(self._change.cut_finder.deadline(self._audio_at))
        elif self._rotates_at is not None:
            times.append(self._rotates_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def quiet_at(self) -> float:
        """When it is quiet, if no more audio comes."""
        return self._audio_at + _QUIET_SECONDS

    def is_quiet(self, now: float) -> bool:
        """Tell whether the session can end here: no finalize waits, and nothing was said since the last or for 1 s."""
        if not self._finals.is_settled:
            return False
        end = self.buffer.end
        start = max(self._finals.last, self.buffer.back(end, 1000 * _QUIET_SECONDS))
        return now >= self.quiet_at or self.buffer.is_silent(start, end)

    # What the client asks for

    def open(self) -> list[Command]:
        """Dial the first connection."""
        return self._dial(self._segments[0])

    def client_audio(self, data: bytes, now: float) -> list[Command]:
        """Take audio."""
        self._audio_at = now
        self.buffer.append(data, now)
        commands = self._advance(now)
        self.buffer.trim()
        return [*commands, *self._overflowed(len(data))]

    def finalize(self, name: str | None, now: float) -> list[Command]:
        return [*self._finals.take(name, self._segments, now), *self._advance(now)]

    def update(self, message: dict[str, Any], now: float) -> list[Command]:
        """Let other settings hold from a cut on."""
        update = read_update(message, ("model",), own_provider_key=self._options.own_provider_key)
        last = self._segments[-1]
        settings, unchanged = changed(self._change.settings if self._change else last.settings, update.wanted)
        if settings == last.settings and self._change is None:
            return self._dialect.updated(update.id, {}, unchanged, update.rejected, self._ms(self.buffer.end))
        updates = [*(self._change.updates if self._change else ()), (update, unchanged)]
        return [*self._drop_change(), *self._dial_change(Change(settings, updates)), *self._advance(now)]

    def close(self, now: float) -> list[Command]:
        """Hear what is left; ``over`` once that is told."""
        self._closing = True
        change = self._change
        commands = self._drop_change()
        if change is not None:
            gone = GatewayError("bad_request", "the session was closed first")
            commands += self._answer_updates(change, self.buffer.end, refused=gone)
        self._segments[-1].end = self.buffer.end
        return [*commands, *self._advance(now)]

    def give_up(self) -> tuple[list[Command], float]:
        """Tell and answer what can be, although more may be to come; give also how many ms were never heard."""
        last = self._segments[-1]
        unheard = max(0, self.buffer.end - max(last.sent, last.covered))
        commands = [command for segment in self._segments for command in segment.activate()]
        if self._closing and not unheard:
            late = GatewayError("upstream_timeout", "the last finals did not come in time")
            for segment in self._segments:
                commands += self._given_up(segment, late)
        return [*commands, *self._finals.give_up(self._segments)], self._duration(unheard)

    def hang_up(self) -> list[Command]:
        """Close all connections."""
        commands: list[Command] = [Retire(s.connection) for s in self._segments if s.connection >= 0]
        return [*commands, *self._drop_change()]

    # What upstream says

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        since = now if since is None else since
        if self._change is not None and connection == self._change.connection:
            segment = self._segments[-1]
            self._change.ready, self._change.ready_at = text, since
            self._change.cut_finder = CutFinder(self.buffer, segment.start, now, rotation=not self._change.updates)
            return self._advance(now)
        found = self._segment_of(connection)
        if found is None:
            return []
        return [*self._live(found, text, now, since), *self._advance(now)]

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        segment = self._segment_of(connection)
        if segment is None:
            return []
        try:
            message = parse_stt(text)
        except GatewayError:
            self._counts["unreadable_upstream_message"] += 1
            return []
        match message:
            case Transcript(final=False):
                return self._finals.partial(segment, message)
            case Transcript():
                told = self._finals.final(segment, message, now)
                if segment.is_active:
                    segment.release(self.buffer)
                settled = not segment.partial_pending and self._finals.is_settled
                return [*told, *self._advance(now, settled=settled)]
            case UpstreamError(error):
                if error.code == "backpressure":
                    self._counts["backpressure"] += 1
                    self._paused_until = now + _BACKPRESSURE_SECONDS
                    return []
                self._counts["upstream_errors"] += 1
                return self._dialect.error(error)
            case Ready():
                self._counts["extra_ready"] += 1
                return []
            case Other(raw):
                return segment.emit(self._dialect.other(raw))

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if self._change is not None and connection == self._change.connection:
            return self._refused(error, now)
        segment = self._segment_of(connection)
        if segment is None:
            return []
        lived = now - segment.ready_at if segment.ready_at is not None else None
        closed = segment.asked_to_close and closed_cleanly(error)
        segment.state, segment.connection, segment.ready_at, segment.drain_by = State.WAITING, -1, None, None
        if not self._told_ready:
            raise error
        if closed or (segment.end is not None and segment.covered >= segment.end):
            return [*self._done(segment, now), *self._advance(now)]
        return [*self._lost(segment, error, lived, now), *self._advance(now)]

    def wake(self, now: float) -> list[Command]:
        commands = self._finals.wake(self._segments, now)
        for segment in tuple(self._segments):
            if segment.drain_by is not None and now >= segment.drain_by:
                self._counts["drain_timeouts"] += 1
                late = GatewayError("upstream_timeout", "the last finals did not come in time")
                commands += [*self._given_up(segment, late), *self._done(segment, now)]
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
        if self._change is None and self._rotates_at is not None and now >= self._rotates_at:
            self._counts["rotations"] += 1
            commands += self._dial_change(Change(self._segments[-1].settings, []))
        return [*commands, *self._advance(now)]

    # The connections

    def _new_segment(self, settings: ConnectionSettings) -> Segment:
        return Segment(settings, 0, ReconnectPolicy(self._options.reconnect_seconds, self._options.jitter))

    def _dial(self, segment: Segment) -> list[Command]:
        self._numbers += 1
        segment.connection, segment.state, segment.redial_at = self._numbers, State.DIALLING, None
        return [self._dial_of(segment.settings)]

    def _dial_of(self, settings: ConnectionSettings) -> Dial:
        model = None if settings.model == self._options.model else settings.model
        return Dial(self._numbers, dump(settings.init), model)

    def _live(self, segment: Segment, text: str, now: float, since: float) -> list[Command]:
        segment.state, segment.ready_at = State.LIVE, since
        commands: list[Command] = []
        if not self._told_ready:
            self._told_ready = True
            commands += self._dialect.ready(parse_object(text))
        replayed, dropped = segment.live_again(self.buffer)
        self._told_overflow = False
        recovery = segment.recovery
        if recovery.lost_at is not None:
            self._counts["reconnects"] += 1
            self._counts["replayed_ms"] += round(self._duration(replayed))
            self._counts["dropped_ms"] += round(self._duration(dropped))
            commands += self._dialect.status(
                "connected",
                attempt=recovery.attempt,
                gap_ms=round((now - recovery.lost_at) * 1000),
                replayed_ms=round(self._duration(replayed)),
                dropped_ms=round(self._duration(dropped)),
            )
        recovery.ready()
        if segment.change is not None:
            commands += self._answer_updates(segment.change, segment.start)
            segment.change = None
        return commands + self._finals.begin_again(segment)

    def _lost(self, segment: Segment, error: GatewayError, lived: float | None, now: float) -> list[Command]:
        try:
            segment.redial_at = segment.recovery.lost(error, lived, now)
        except GatewayError as hopeless:
            if segment.change is not None and segment.fallback is not None:
                commands = self._answer_updates(segment.change, self.buffer.end, refused=hopeless)
                segment.settings, segment.change = segment.fallback, None
                return [*commands, *self._dial(segment)]
            if segment is self._segments[-1]:
                raise
            return [*self._given_up(segment, hopeless), *self._done(segment, now)]
        if segment.recovery.attempt > 1:
            return []
        return self._dialect.status("reconnecting", cause=error.code, attempt=1)

    def _given_up(self, segment: Segment, error: GatewayError) -> list[Command]:
        """Tell how much of an ended stretch upstream did not transcribe and is not asked to again."""
        end = self.buffer.end if segment.end is None else segment.end
        if self.buffer.is_silent(segment.covered, end):
            return []
        dropped = self._ms(end) - self._ms(segment.covered)
        self._counts["dropped_ms"] += dropped
        attempt = segment.recovery.attempt
        # The session itself goes on, unless it is about to end.
        state = "reconnecting" if segment is self._segments[-1] and segment.state is not State.LIVE else "connected"
        return self._dialect.status(
            state, cause=error.code, attempt=attempt, gap_ms=0, replayed_ms=0, dropped_ms=dropped
        )

    def _advance(self, now: float, *, settled: bool = False) -> list[Command]:
        """Do whatever can be done now: dial what is due, seek the cut, send what may go up, end what is all told."""
        if self.over:
            return []
        commands = self._seek_cut(now, settled=settled)
        for segment in tuple(self._segments):
            if segment.state is State.LIVE:
                commands += self._send(segment, now)
                if segment.asked_to_close and segment.is_all_told(self.buffer):
                    commands += self._done(segment, now)
            elif segment.redial_at is not None and now >= segment.redial_at:
                commands += self._dial(segment)
        return commands

    def _send(self, segment: Segment, now: float) -> list[Command]:
        if now < self._paused_until:
            return []
        limit = self.buffer.end if segment.end is None else segment.end
        if segment.end is None and self._change is not None and self._change.cut_finder is not None:
            limit = limit if self._change.cut_finder.hold is None else self._change.cut_finder.hold
        commands: list[Command] = []
        number = segment.connection
        for finalize in self._finals.finalizes:
            if finalize.sent_on is None and segment.contains(finalize.offset) and finalize.offset <= limit:
                commands += [SendUpstream(number, data) for data in self.buffer.read(segment.sent, finalize.offset)]
                commands.append(SendUpstream(number, _FINALIZE))
                finalize.sent_on = number
                segment.note_sent(finalize.offset, now, self._options.final_lag)
        if segment.sent < limit:
            commands += [SendUpstream(number, data) for data in self.buffer.read(segment.sent, limit)]
            segment.note_sent(limit, now, self._options.final_lag)
        if segment.end is not None and segment.sent >= segment.end and not segment.asked_to_close:
            segment.asked_to_close = True
            if not self._closing:
                commands.append(SendUpstream(number, _FINALIZE))
                segment.drain_by = now + self._options.finalize_timeout
            commands.append(SendUpstream(number, _CLOSE))
        return commands

    def _done(self, segment: Segment, now: float) -> list[Command]:
        """End a stretch of which all is told, or as much as there will be."""
        commands = self._finals.done(segment)
        if segment.connection >= 0:
            commands.append(Retire(segment.connection))
        segment.state, segment.connection, segment.drain_by, segment.redial_at = State.DONE, -1, None, None
        while self._segments and self._segments[0].state is State.DONE:
            self._segments.popleft()
            if self._segments:
                commands += self._segments[0].activate()
        if not self._segments:
            self.over = True
            return [*commands, *self._drop_change()]
        self._segments[0].release(self.buffer)
        waiting = self._segments[0]
        if waiting.state is State.WAITING and waiting.redial_at is None:
            # It could only be dialled once the one before it had left its slot.
            commands += self._dial(waiting)
        return commands

    # Updates

    def _dial_change(self, change: Change) -> list[Command]:
        self._change = change
        self._numbers += 1
        change.connection = self._numbers
        return [self._dial_of(change.settings)]

    def _drop_change(self) -> list[Command]:
        """Give up the candidate; who waits for its updates is answered by whatever follows."""
        change, self._change = self._change, None
        return [Retire(change.connection)] if change is not None and change.connection is not None else []

    def _refused(self, error: GatewayError, now: float) -> list[Command]:
        """The candidate did not open, or was lost again before the cut."""
        change = self._change
        assert change is not None
        if error.status == 429 and change.updates:
            self._counts["updates_without_second_slot"] += 1
            change.connection, change.ready = None, None
            change.cut_finder = CutFinder(self.buffer, self._segments[-1].start, now, rotation=False)
            return self._advance(now)
        self._change = None
        self._rotate_after = now + _ROTATION_RETRY_SECONDS
        return self._answer_updates(change, self.buffer.end, refused=error)

    def _seek_cut(self, now: float, *, settled: bool) -> list[Command]:
        change = self._change
        if change is None or change.cut_finder is None:
            return []
        cut = change.cut_finder.seek(now, self._audio_at, settled=settled)
        if cut is None:
            return []
        self._change = None
        old = self._segments[-1]
        old.end = cut
        new = self._new_segment(change.settings)
        new.begin(cut)
        self._segments.append(new)
        commands: list[Command] = []
        if change.connection is not None and change.ready is not None:
            new.connection, new.state, new.ready_at = change.connection, State.LIVE, change.ready_at
            if not self._told_ready:
                self._told_ready = True
                commands += self._dialect.ready(parse_object(change.ready))
            commands += self._answer_updates(change, cut)
        else:
            new.recovery.lost_at = now
            new.change, new.fallback = change, old.settings
            commands += self._dialect.status("reconnecting", cause="rate_limit", attempt=0)
        if old.state is not State.LIVE and old.is_all_told(self.buffer):
            commands += self._done(old, now)
        return commands

    def _answer_updates(self, change: Change, cut: int, refused: GatewayError | None = None) -> list[Command]:
        commands: list[Command] = []
        for update, unchanged in change.updates:
            fresh = [name for name in update.wanted if name not in unchanged]
            applied, rejected = {name: update.wanted[name] for name in fresh}, update.rejected
            if refused is not None:
                applied, rejected = {}, {**rejected, **dict.fromkeys(fresh, refused.message)}
            commands += self._dialect.updated(update.id, applied, unchanged, rejected, self._ms(cut))
        return commands

    def _overflowed(self, added: int) -> list[Command]:
        """Say once an outage that audio which no connection ever heard is given up."""
        last = self._segments[-1] if self._segments else None
        if last is None or last.state is State.LIVE or self.buffer.floor <= last.sent:
            return []
        self._counts["audio_overflow_bytes"] += min(added, self.buffer.floor - last.sent)
        if self._told_overflow:
            return []
        self._told_overflow = True
        text = (
            f"Upstream takes no audio now and more than {self._options.replay_seconds:g} s wait for it; the oldest is "
            "given up (SIDECAR_REPLAY_SECONDS)."
        )
        return [tell(GatewayError("audio_overflow", text, fatal=False))]

    # Small things

    @property
    def _rotates_at(self) -> float | None:
        last = self._segments[-1] if self._segments else None
        if last is None or last.ready_at is None or self._change is not None or self._closing:
            return None
        return max(last.ready_at + self._options.rotate_seconds, self._rotate_after)

    def _segment_of(self, connection: int) -> Segment | None:
        return next((segment for segment in self._segments if segment.connection == connection), None)

    def _ms(self, offset: int) -> int:
        return round(self.buffer.ms(offset))

    def _duration(self, size: int) -> float:
        return self.buffer.duration(size)
