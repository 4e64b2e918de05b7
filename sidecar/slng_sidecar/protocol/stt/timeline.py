"""What an STT session listens with: its audio, the stretches it is parted in, and the connections that hear them."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from slng_sidecar.protocol.commands import Command, Dial, Retire, SendUpstream, tell
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import Failure, Other, Ready, Transcript, dump, parse_object, parse_stt
from slng_sidecar.protocol.reconnect import Recovery
from slng_sidecar.protocol.reports import Turn
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.finals import Teller
from slng_sidecar.protocol.stt.handover import Cutter
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.replay_buffer import AudioLedger
from slng_sidecar.protocol.stt.segment import Change, State, Stretch
from slng_sidecar.protocol.updates import Voicing, changed, read_update

# What ``backpressure`` asks for is not known; sound waits so long after one.
_BACKPRESSURE_SECONDS = 0.25
# A rotation that upstream refuses is tried again after that.
_ROTATION_RETRY_SECONDS = 60.0
# So long must nobody have spoken for a moment to end a session at.
_QUIET_SECONDS = 1.0
_FINALIZE, _CLOSE = dump({"type": "finalize"}), dump({"type": "close"})


class Listening:
    """The part of an STT session that begins with its ``init``. A method that raises ends the session.

    The audio is a row of stretches. The last one grows; an update of the settings ends it at a cut and begins the next;
    a drop gives a stretch another connection, which hears again what was not covered. The first stretch has the word:
    what the others have to tell waits until it is done.

    Mutable: ``ledger``, the audio; ``_stretches``, oldest first; ``_teller``, for their transcripts; ``_change``, at
    most one; ``_numbers``, of connections; ``_audio_at``, when audio came last; ``_paused_until`` by backpressure;
    ``_rotate_after``, where a rotation was refused; ``_told_ready``; ``_told_overflow``, once an outage; ``_closing``,
    once the client has said all; ``over``, once all of it is told.
    """

    def __init__(
        self,
        options: SttOptions,
        dialect: SttDialect,
        counts: Counter[str],
        turns: deque[Turn],
        voicing: Voicing,
        ledger: AudioLedger,
        scope: str,
    ) -> None:
        self.over = False
        self.ledger = ledger
        self._options = options
        self._dialect = dialect
        self._counts = counts
        self._teller = Teller(
            dialect,
            ledger,
            counts,
            turns,
            scope=scope,
            threshold=options.confidence_threshold,
            final_lag=options.final_lag,
            finalize_timeout=options.finalize_timeout,
        )
        self._stretches: deque[Stretch] = deque([self._new_stretch(voicing)])
        self._stretches[0].take_word()
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
        return f"{self.ledger}, {list(self._stretches)}{change}"

    @property
    def deadline(self) -> float | None:
        times = [self._teller.deadline]
        for stretch in self._stretches:
            times += [stretch.redial_at, stretch.drain_by, stretch.held.due if stretch.held is not None else None]
        if self._paused_until and any(stretch.state is State.LIVE for stretch in self._stretches):
            times.append(self._paused_until)
        if self._change is not None and self._change.cutter is not None:
            times.append(self._change.cutter.deadline(self._audio_at))
        elif self._rotates_at is not None:
            times.append(self._rotates_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def quiet_at(self) -> float:
        """When it is quiet, if no more audio comes."""
        return self._audio_at + _QUIET_SECONDS

    def is_quiet(self, now: float) -> bool:
        """Tell whether the session can end here: no finalize waits, and nothing was said since the last or for 1 s."""
        if not self._teller.is_settled:
            return False
        end = self.ledger.end
        start = max(self._teller.last, self.ledger.back(end, 1000 * _QUIET_SECONDS))
        return now >= self.quiet_at or self.ledger.is_silent(start, end)

    # What the client asks for

    def open(self) -> list[Command]:
        """Dial the first connection."""
        return self._dial(self._stretches[0])

    def hear(self, data: bytes, now: float) -> list[Command]:
        """Take audio."""
        self._audio_at = now
        self.ledger.append(data, now)
        commands = self._advance(now)
        self.ledger.trim()
        return [*commands, *self._overflowed(len(data))]

    def finalize(self, name: str | None, now: float) -> list[Command]:
        return [*self._teller.take(name, self._stretches, now), *self._advance(now)]

    def update(self, message: dict[str, Any], now: float) -> list[Command]:
        """Let other settings hold from a cut on."""
        update = read_update(message, ("model",), own_provider_key=self._options.own_provider_key)
        last = self._stretches[-1]
        voicing, unchanged = changed(self._change.voicing if self._change else last.voicing, update.wanted)
        if voicing == last.voicing and self._change is None:
            return self._dialect.updated(update.id, {}, unchanged, update.rejected, self._ms(self.ledger.end))
        updates = [*(self._change.updates if self._change else ()), (update, unchanged)]
        return [*self._drop_change(), *self._dial_change(Change(voicing, updates)), *self._advance(now)]

    def close(self, now: float) -> list[Command]:
        """Hear what is left; ``over`` once that is told."""
        self._closing = True
        change = self._change
        commands = self._drop_change()
        if change is not None:
            gone = GatewayError("bad_request", "the session was closed first")
            commands += self._answer_updates(change, self.ledger.end, refused=gone)
        self._stretches[-1].end = self.ledger.end
        return [*commands, *self._advance(now)]

    def give_up(self) -> tuple[list[Command], float]:
        """Tell and answer what can be, although more may be to come; give also how many ms were never heard."""
        last = self._stretches[-1]
        unheard = max(0, self.ledger.end - max(last.sent, last.covered))
        commands = [command for stretch in self._stretches for command in stretch.take_word()]
        if self._closing and not unheard:
            late = GatewayError("upstream_timeout", "the last finals did not come in time")
            for stretch in self._stretches:
                commands += self._given_up(stretch, late)
        return [*commands, *self._teller.give_up(self._stretches)], self._duration(unheard)

    def hang_up(self) -> list[Command]:
        """Close all connections."""
        commands: list[Command] = [Retire(s.connection) for s in self._stretches if s.connection >= 0]
        return [*commands, *self._drop_change()]

    # What upstream says

    def ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        since = now if since is None else since
        if self._change is not None and connection == self._change.connection:
            stretch = self._stretches[-1]
            self._change.ready, self._change.ready_at = text, since
            self._change.cutter = Cutter(self.ledger, stretch.start, now, rotation=not self._change.updates)
            return self._advance(now)
        found = self._stretch_of(connection)
        if found is None:
            return []
        return [*self._live(found, text, now, since), *self._advance(now)]

    def heard(self, connection: int, text: str, now: float) -> list[Command]:
        stretch = self._stretch_of(connection)
        if stretch is None:
            return []
        try:
            message = parse_stt(text)
        except GatewayError:
            self._counts["unreadable_upstream_message"] += 1
            return []
        match message:
            case Transcript(final=False):
                return self._teller.partial(stretch, message)
            case Transcript():
                told = self._teller.final(stretch, message, now)
                if stretch.has_word:
                    stretch.release(self.ledger)
                settled = not stretch.partial_pending and self._teller.is_settled
                return [*told, *self._advance(now, settled=settled)]
            case Failure(error):
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
                return stretch.say(self._dialect.other(raw))

    def lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if self._change is not None and connection == self._change.connection:
            return self._refused(error, now)
        stretch = self._stretch_of(connection)
        if stretch is None:
            return []
        lived = now - stretch.ready_at if stretch.ready_at is not None else None
        closed = stretch.asked_to_close and closed_cleanly(error)
        stretch.state, stretch.connection, stretch.ready_at, stretch.drain_by = State.WAITING, -1, None, None
        if not self._told_ready:
            raise error
        if closed or (stretch.end is not None and stretch.covered >= stretch.end):
            return [*self._done(stretch, now), *self._advance(now)]
        return [*self._lost(stretch, error, lived, now), *self._advance(now)]

    def wake(self, now: float) -> list[Command]:
        commands = self._teller.wake(self._stretches, now)
        for stretch in tuple(self._stretches):
            if stretch.drain_by is not None and now >= stretch.drain_by:
                self._counts["drain_timeouts"] += 1
                late = GatewayError("upstream_timeout", "the last finals did not come in time")
                commands += [*self._given_up(stretch, late), *self._done(stretch, now)]
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
        if self._change is None and self._rotates_at is not None and now >= self._rotates_at:
            self._counts["rotations"] += 1
            commands += self._dial_change(Change(self._stretches[-1].voicing, []))
        return [*commands, *self._advance(now)]

    # The connections

    def _new_stretch(self, voicing: Voicing) -> Stretch:
        return Stretch(voicing, 0, Recovery(self._options.reconnect_seconds, self._options.jitter))

    def _dial(self, stretch: Stretch) -> list[Command]:
        self._numbers += 1
        stretch.connection, stretch.state, stretch.redial_at = self._numbers, State.DIALLING, None
        return [self._dial_of(stretch.voicing)]

    def _dial_of(self, voicing: Voicing) -> Dial:
        model = None if voicing.model == self._options.model else voicing.model
        return Dial(self._numbers, dump(voicing.init), model)

    def _live(self, stretch: Stretch, text: str, now: float, since: float) -> list[Command]:
        stretch.state, stretch.ready_at = State.LIVE, since
        commands: list[Command] = []
        if not self._told_ready:
            self._told_ready = True
            commands += self._dialect.ready(parse_object(text))
        replayed, dropped = stretch.live_again(self.ledger)
        self._told_overflow = False
        recovery = stretch.recovery
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
        if stretch.change is not None:
            commands += self._answer_updates(stretch.change, stretch.start)
            stretch.change = None
        return commands + self._teller.begin_again(stretch)

    def _lost(self, stretch: Stretch, error: GatewayError, lived: float | None, now: float) -> list[Command]:
        try:
            stretch.redial_at = stretch.recovery.lost(error, lived, now)
        except GatewayError as hopeless:
            if stretch.change is not None and stretch.fallback is not None:
                commands = self._answer_updates(stretch.change, self.ledger.end, refused=hopeless)
                stretch.voicing, stretch.change = stretch.fallback, None
                return [*commands, *self._dial(stretch)]
            if stretch is self._stretches[-1]:
                raise
            return [*self._given_up(stretch, hopeless), *self._done(stretch, now)]
        if stretch.recovery.attempt > 1:
            return []
        return self._dialect.status("reconnecting", cause=error.code, attempt=1)

    def _given_up(self, stretch: Stretch, error: GatewayError) -> list[Command]:
        """Tell how much of an ended stretch upstream did not transcribe and is not asked to again."""
        end = self.ledger.end if stretch.end is None else stretch.end
        if self.ledger.is_silent(stretch.covered, end):
            return []
        dropped = self._ms(end) - self._ms(stretch.covered)
        self._counts["dropped_ms"] += dropped
        attempt = stretch.recovery.attempt
        # The session itself goes on, unless it is about to end.
        state = "reconnecting" if stretch is self._stretches[-1] and stretch.state is not State.LIVE else "connected"
        return self._dialect.status(
            state, cause=error.code, attempt=attempt, gap_ms=0, replayed_ms=0, dropped_ms=dropped
        )

    def _advance(self, now: float, *, settled: bool = False) -> list[Command]:
        """Do whatever can be done now: dial what is due, seek the cut, send what may go up, end what is all told."""
        if self.over:
            return []
        commands = self._seek_cut(now, settled=settled)
        for stretch in tuple(self._stretches):
            if stretch.state is State.LIVE:
                commands += self._send(stretch, now)
                if stretch.asked_to_close and stretch.is_all_told(self.ledger):
                    commands += self._done(stretch, now)
            elif stretch.redial_at is not None and now >= stretch.redial_at:
                commands += self._dial(stretch)
        return commands

    def _send(self, stretch: Stretch, now: float) -> list[Command]:
        if now < self._paused_until:
            return []
        limit = self.ledger.end if stretch.end is None else stretch.end
        if stretch.end is None and self._change is not None and self._change.cutter is not None:
            limit = limit if self._change.cutter.hold is None else self._change.cutter.hold
        commands: list[Command] = []
        number = stretch.connection
        for finalize in self._teller.finalizes:
            if finalize.sent_on is None and stretch.contains(finalize.offset) and finalize.offset <= limit:
                commands += [SendUpstream(number, data) for data in self.ledger.read(stretch.sent, finalize.offset)]
                commands.append(SendUpstream(number, _FINALIZE))
                finalize.sent_on = number
                stretch.note_sent(finalize.offset, now, self._options.final_lag)
        if stretch.sent < limit:
            commands += [SendUpstream(number, data) for data in self.ledger.read(stretch.sent, limit)]
            stretch.note_sent(limit, now, self._options.final_lag)
        if stretch.end is not None and stretch.sent >= stretch.end and not stretch.asked_to_close:
            stretch.asked_to_close = True
            if not self._closing:
                commands.append(SendUpstream(number, _FINALIZE))
                stretch.drain_by = now + self._options.finalize_timeout
            commands.append(SendUpstream(number, _CLOSE))
        return commands

    def _done(self, stretch: Stretch, now: float) -> list[Command]:
        """End a stretch of which all is told, or as much as there will be."""
        commands = self._teller.done(stretch)
        if stretch.connection >= 0:
            commands.append(Retire(stretch.connection))
        stretch.state, stretch.connection, stretch.drain_by, stretch.redial_at = State.DONE, -1, None, None
        while self._stretches and self._stretches[0].state is State.DONE:
            self._stretches.popleft()
            if self._stretches:
                commands += self._stretches[0].take_word()
        if not self._stretches:
            self.over = True
            return [*commands, *self._drop_change()]
        self._stretches[0].release(self.ledger)
        waiting = self._stretches[0]
        if waiting.state is State.WAITING and waiting.redial_at is None:
            # It could only be dialled once the one before it had left its slot.
            commands += self._dial(waiting)
        return commands

    # Updates

    def _dial_change(self, change: Change) -> list[Command]:
        self._change = change
        self._numbers += 1
        change.connection = self._numbers
        return [self._dial_of(change.voicing)]

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
            change.cutter = Cutter(self.ledger, self._stretches[-1].start, now, rotation=False)
            return self._advance(now)
        self._change = None
        self._rotate_after = now + _ROTATION_RETRY_SECONDS
        return self._answer_updates(change, self.ledger.end, refused=error)

    def _seek_cut(self, now: float, *, settled: bool) -> list[Command]:
        change = self._change
        if change is None or change.cutter is None:
            return []
        cut = change.cutter.seek(now, self._audio_at, settled=settled)
        if cut is None:
            return []
        self._change = None
        old = self._stretches[-1]
        old.end = cut
        new = self._new_stretch(change.voicing)
        new.begin(cut)
        self._stretches.append(new)
        commands: list[Command] = []
        if change.connection is not None and change.ready is not None:
            new.connection, new.state, new.ready_at = change.connection, State.LIVE, change.ready_at
            if not self._told_ready:
                self._told_ready = True
                commands += self._dialect.ready(parse_object(change.ready))
            commands += self._answer_updates(change, cut)
        else:
            new.recovery.lost_at = now
            new.change, new.fallback = change, old.voicing
            commands += self._dialect.status("reconnecting", cause="rate_limit", attempt=0)
        if old.state is not State.LIVE and old.is_all_told(self.ledger):
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
        last = self._stretches[-1] if self._stretches else None
        if last is None or last.state is State.LIVE or self.ledger.floor <= last.sent:
            return []
        self._counts["audio_overflow_bytes"] += min(added, self.ledger.floor - last.sent)
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
        last = self._stretches[-1] if self._stretches else None
        if last is None or last.ready_at is None or self._change is not None or self._closing:
            return None
        return max(last.ready_at + self._options.rotate_seconds, self._rotate_after)

    def _stretch_of(self, connection: int) -> Stretch | None:
        return next((stretch for stretch in self._stretches if stretch.connection == connection), None)

    def _ms(self, offset: int) -> int:
        return round(self.ledger.ms(offset))

    def _duration(self, size: int) -> float:
        return self.ledger.duration(size)
