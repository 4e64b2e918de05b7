"""A session's audio as a row of segments, and the connections that hear them."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from slng_sidecar.protocol.commands import Command, Dial, Retire
from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
from slng_sidecar.protocol.messages import Other, Ready, Transcript, UpstreamError, dump, parse_stt
from slng_sidecar.protocol.reconnect import ReconnectPolicy
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.finals import FinalizeTracker
from slng_sidecar.protocol.stt.handover import CutFinder, Handover
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.outage import OutageReporter
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import Link, LinkState, Segment
from slng_sidecar.protocol.stt.sender import SegmentSender
from slng_sidecar.protocol.updates import ConnectionSettings, changed, read_update

# A rotation that upstream refuses is tried again after this time.
_ROTATION_RETRY_SECONDS = 60.0
# A session counts as quiet after this time without speech.
_QUIET_SECONDS = 1.0


class Timeline:
    """The part of an STT session that starts with its ``init``. A method that raises ``GatewayError`` ends the session.

    The last segment grows. An update of the settings ends it at a cut and starts the next one. A drop gives a segment
    another connection, which hears again what no final covers. The first segment is active: what the others have for
    the client waits until it is done.

    Mutable: ``buffer``, the audio; ``_segments``, oldest first, with their ``link``; ``_sender``, which sends audio;
    ``_finals``, which delivers transcripts; ``_outage``, which reports the state of upstream; ``_handover``, at most
    one; ``_numbers``, the last connection's; ``_audio_at``, when audio last came; ``_rotate_after``, set by a refused
    rotation; ``_closing``, once the client sends no more audio; ``over``, once all of it is delivered.
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
        self._outage = OutageReporter(dialect, buffer, counts, options.replay_seconds)
        self._sender = SegmentSender(options, buffer)
        self._segments: deque[Segment] = deque([self._new_segment(settings, 0)])
        self._segments[0].gate.activate()
        self._handover: Handover | None = None
        self._numbers = -1
        self._audio_at = 0.0
        self._rotate_after = 0.0
        self._closing = False

    def __repr__(self) -> str:
        handover = f", handing over to {self._handover.connection}" if self._handover else ""
        return f"{self.buffer}, {list(self._segments)}{handover}"

    @property
    def deadline(self) -> float | None:
        """When to call ``wake``; None for never."""
        times = [self._finals.deadline]
        for segment in self._segments:
            held = segment.transcripts.held
            times += [segment.link.redial_at, segment.link.drain_by, held.due if held is not None else None]
        if self._sender.paused_until and any(segment.link.state is LinkState.LIVE for segment in self._segments):
            times.append(self._sender.paused_until)
        if self._handover is not None and self._handover.cut_finder is not None:
            times.append(self._handover.cut_finder.deadline(self._audio_at))
        elif self._rotates_at is not None:
            times.append(self._rotates_at)
        return min((time for time in times if time is not None), default=None)

    @property
    def quiet_at(self) -> float:
        """When the session is quiet if no more audio comes."""
        return self._audio_at + _QUIET_SECONDS

    @property
    def has_room(self) -> bool:
        """Whether more audio can be kept. Before the first ``ready`` none is dropped, so the client must wait."""
        return self._outage.ready_sent or not self.buffer.is_full

    def is_quiet(self, now: float) -> bool:
        """Return whether an end now cuts nothing: no finalize waits, and no speech came since the last or for 1 s."""
        if not self._finals.is_settled:
            return False
        end = self.buffer.end
        start = max(self._finals.last_offset, self.buffer.back(end, 1000 * _QUIET_SECONDS))
        return now >= self.quiet_at or self.buffer.is_silent(start, end)

    # What the client asks for

    def open(self) -> list[Command]:
        """Dial the first connection."""
        return self._dial(self._segments[0])

    def client_audio(self, data: bytes, now: float) -> list[Command]:
        """Handle audio of the client."""
        self._audio_at = now
        self.buffer.append(data, now)
        commands = self._advance(now)
        if self._outage.ready_sent:
            self.buffer.trim()
        return [*commands, *self._outage.overflow(self._segments[-1] if self._segments else None, len(data))]

    def finalize(self, name: str | None, now: float) -> list[Command]:
        """Handle a finalize of the client."""
        return [*self._finals.add(name, self._segments, now), *self._advance(now)]

    def update(self, message: dict[str, Any], now: float) -> list[Command]:
        """Handle an update: its settings hold from a cut on."""
        update = read_update(message, ("model",), own_provider_key=self._options.own_provider_key)
        last = self._segments[-1].link.settings
        settings, unchanged = changed(self._handover.settings if self._handover else last, update.wanted)
        if settings == last and self._handover is None:
            return self._dialect.updated(update.id, {}, unchanged, update.rejected, self._ms(self.buffer.end))
        updates = [*(self._handover.updates if self._handover else ()), (update, unchanged)]
        return [*self._drop_handover(), *self._start_handover(Handover(settings, updates)), *self._advance(now)]

    def close(self, now: float) -> list[Command]:
        """Deliver what is left; ``over`` is set once that is done."""
        self._closing = True
        handover = self._handover
        commands = self._drop_handover()
        if handover is not None:
            closed = GatewayError(ErrorCode.BAD_REQUEST, "the session was closed first")
            commands += handover.answers(self._dialect, self._ms(self.buffer.end), refused=closed)
        self._segments[-1].end = self.buffer.end
        return [*commands, *self._advance(now)]

    def give_up(self) -> tuple[list[Command], float]:
        """Deliver and answer what is possible now, although more may come.

        Returns:
            The commands, and how many milliseconds of audio upstream was never sent.
        """
        last = self._segments[-1]
        unsent = max(0, self.buffer.end - max(last.sent.end, last.transcripts.covered))
        commands = [command for segment in self._segments for command in segment.gate.activate()]
        if self._closing and not unsent:
            for segment in self._segments:
                commands += self._report_late(segment)
        return [*commands, *self._finals.give_up(self._segments)], self.buffer.duration(unsent)

    def hang_up(self) -> list[Command]:
        """Close all connections."""
        commands: list[Command] = [Retire(s.link.number) for s in self._segments if s.link.number >= 0]
        return [*commands, *self._drop_handover()]

    # What upstream says

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None) -> list[Command]:
        """Handle a connection's ``ready``, which came at ``since`` if the connection waited in standby."""
        since = now if since is None else since
        handover = self._handover
        if handover is not None and connection == handover.connection:
            handover.ready, handover.ready_at = text, since
            start = self._segments[-1].start
            handover.cut_finder = CutFinder(self.buffer, start, now, rotation=not handover.updates)
            return self._advance(now)
        segment = self._segment_of(connection)
        if segment is None:
            return []
        return [*self._connected(segment, text, now, since), *self._advance(now)]

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        """Handle a text message of upstream."""
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
                commands = self._finals.final(segment, message, now)
                if segment.gate.is_active:
                    segment.release(self.buffer)
                settled = not segment.transcripts.is_partial_pending and self._finals.is_settled
                return [*commands, *self._advance(now, settled=settled)]
            case UpstreamError(error):
                if error.code == ErrorCode.BACKPRESSURE:
                    self._counts["backpressure"] += 1
                    self._sender.pause(now)
                    return []
                self._counts["upstream_errors"] += 1
                return self._dialect.error(error)
            case Ready():
                self._counts["extra_ready"] += 1
                return []
            case Other(raw):
                return segment.gate.emit(self._dialect.other(raw))

    def upstream_lost(self, connection: int, close: Close, now: float) -> list[Command]:
        """Handle the end of a connection that was not retired."""
        if self._handover is not None and connection == self._handover.connection:
            return self._handover_refused(self._handover, close.error, now)
        segment = self._segment_of(connection)
        if segment is None:
            return []
        link = segment.link
        lived = now - link.ready_at if link.ready_at is not None else None
        is_answer = link.asked_to_close and close.is_clean
        link.disconnect()
        if not self._outage.ready_sent:
            raise close.error
        if is_answer or (segment.end is not None and segment.transcripts.covered >= segment.end):
            return [*self._finish(segment), *self._advance(now)]
        return [*self._reconnect(segment, close.error, lived, now), *self._advance(now)]

    def wake(self, now: float) -> list[Command]:
        """Do what is due at ``deadline``."""
        commands = self._finals.wake(self._segments, now)
        for segment in tuple(self._segments):
            if segment.link.drain_by is not None and now >= segment.link.drain_by:
                self._counts["drain_timeouts"] += 1
                commands += [*self._report_late(segment), *self._finish(segment)]
        self._sender.wake(now)
        if self._handover is None and self._rotates_at is not None and now >= self._rotates_at:
            self._counts["rotations"] += 1
            commands += self._start_handover(Handover(self._segments[-1].link.settings, []))
        return [*commands, *self._advance(now)]

    # Connections

    def _new_segment(self, settings: ConnectionSettings, start: int) -> Segment:
        policy = ReconnectPolicy(self._options.reconnect_seconds, self._options.jitter)
        return Segment(start, Link(settings, policy))

    def _dial(self, segment: Segment) -> list[Command]:
        self._numbers += 1
        segment.link.dial(self._numbers)
        return [self._dial_command(segment.link.settings)]

    def _dial_command(self, settings: ConnectionSettings) -> Dial:
        model = None if settings.model == self._options.model else settings.model
        return Dial(self._numbers, dump(settings.init), model)

    def _connected(self, segment: Segment, text: str, now: float, since: float) -> list[Command]:
        """Continue a segment on a connection that is ready, from where the previous one left off."""
        link, buffer = segment.link, self.buffer
        link.attach(link.number, since)
        start = segment.replay_start(buffer)
        replayed = max(0, segment.sent.end - start)
        dropped = max(0, buffer.floor - segment.transcripts.covered)
        self._sender.restart(segment, start)
        commands = self._outage.ready(text) + self._outage.connected(segment, replayed, dropped, now)
        link.policy.connected()
        if link.handover is not None:
            commands += link.handover.answers(self._dialect, self._ms(segment.start))
            link.handover = None
        return commands + self._finals.restart(segment, replayed=replayed)

    def _reconnect(self, segment: Segment, error: GatewayError, lived: float | None, now: float) -> list[Command]:
        """Plan the next connection of a segment, or give up its settings, the segment or the session."""
        link = segment.link
        try:
            link.redial_at = link.policy.next_attempt(error, lived, now)
        except GatewayError as hopeless:
            if link.handover is not None and link.fallback is not None:
                commands = link.handover.answers(self._dialect, self._ms(self.buffer.end), refused=hopeless)
                link.settings, link.handover = link.fallback, None
                return [*commands, *self._dial(segment)]
            if segment is self._segments[-1]:
                raise
            return [*self._outage.dropped(segment, hopeless, is_last=False), *self._finish(segment)]
        return self._outage.lost(error.code, link.policy.attempt)

    def _report_late(self, segment: Segment) -> list[Command]:
        """Report the audio of a segment whose last finals did not come in time."""
        late = GatewayError(ErrorCode.UPSTREAM_TIMEOUT, "the last finals did not come in time")
        return self._outage.dropped(segment, late, is_last=segment is self._segments[-1])

    # What follows from every event

    def _advance(self, now: float, *, settled: bool = False) -> list[Command]:
        """Cut if possible, send what may be sent, dial what is due, and finish what is transcribed."""
        if self.over:
            return []
        commands = self._cut(now, settled=settled)
        for segment in tuple(self._segments):
            link = segment.link
            if link.state is LinkState.LIVE:
                commands += self._sender.send(segment, self._send_limit(segment), self._finals.finalizes, now)
                commands += self._close_upstream(segment, now)
                if link.asked_to_close and segment.is_transcribed(self.buffer):
                    commands += self._finish(segment)
            elif link.redial_at is not None and now >= link.redial_at:
                commands += self._dial(segment)
        return commands

    def _close_upstream(self, segment: Segment, now: float) -> list[Command]:
        """Ask upstream for the last final of a segment once all of its audio is sent."""
        link = segment.link
        if segment.end is None or segment.sent.end < segment.end or link.asked_to_close:
            return []
        link.asked_to_close = True
        if not self._closing:
            link.drain_by = now + self._options.finalize_timeout
        # If the client itself closes, ``close`` alone asks for the last final.
        return self._sender.close(segment, finalize=not self._closing)

    def _send_limit(self, segment: Segment) -> int:
        """Return the offset up to which a segment's audio may be sent."""
        if segment.end is not None:
            return segment.end
        finder = self._handover.cut_finder if self._handover is not None else None
        return self.buffer.end if finder is None or finder.hold is None else finder.hold

    def _finish(self, segment: Segment) -> list[Command]:
        """End a segment that is delivered, or as much of it as there will be."""
        commands = self._finals.finish(segment)
        if segment.link.number >= 0:
            commands.append(Retire(segment.link.number))
        segment.link.finish()
        while self._segments and self._segments[0].link.state is LinkState.DONE:
            self._segments.popleft()
            if self._segments:
                commands += self._segments[0].gate.activate()
        if not self._segments:
            self.over = True
            return [*commands, *self._drop_handover()]
        first = self._segments[0]
        first.release(self.buffer)
        if first.link.state is LinkState.WAITING and first.link.redial_at is None:
            # It could be dialled only once the segment before it had left its slot upstream.
            commands += self._dial(first)
        return commands

    # Handing over to other settings or a fresh connection

    def _start_handover(self, handover: Handover) -> list[Command]:
        self._handover = handover
        self._numbers += 1
        handover.connection = self._numbers
        return [self._dial_command(handover.settings)]

    def _drop_handover(self) -> list[Command]:
        """Close the new connection. The caller answers the updates that wait for it."""
        handover, self._handover = self._handover, None
        return [Retire(handover.connection)] if handover is not None and handover.connection is not None else []

    def _handover_refused(self, handover: Handover, error: GatewayError, now: float) -> list[Command]:
        """Handle a new connection that did not open, or was lost before the cut."""
        if error.status == 429 and handover.updates:
            self._counts["updates_without_second_slot"] += 1
            handover.connection, handover.ready = None, None
            handover.cut_finder = CutFinder(self.buffer, self._segments[-1].start, now, rotation=False)
            return self._advance(now)
        self._handover = None
        self._rotate_after = now + _ROTATION_RETRY_SECONDS
        return handover.answers(self._dialect, self._ms(self.buffer.end), refused=error)

    def _cut(self, now: float, *, settled: bool) -> list[Command]:
        """Cut the last segment and start the next one, if a handover waits and there is a cut now."""
        handover = self._handover
        if handover is None or handover.cut_finder is None:
            return []
        cut = handover.cut_finder.find(now, self._audio_at, settled=settled)
        if cut is None:
            return []
        self._handover = None
        old, new = self._segments[-1], self._new_segment(handover.settings, cut)
        old.end = cut
        self._segments.append(new)
        if handover.connection is not None and handover.ready is not None:
            new.link.attach(handover.connection, handover.ready_at)
            commands = self._outage.ready(handover.ready) + handover.answers(self._dialect, self._ms(cut))
        else:
            new.link.policy.lost_at = now
            new.link.handover, new.link.fallback = handover, old.link.settings
            commands = self._outage.lost(ErrorCode.RATE_LIMIT, attempt=0)
        if old.link.state is not LinkState.LIVE and old.is_transcribed(self.buffer):
            commands += self._finish(old)
        return commands

    @property
    def _rotates_at(self) -> float | None:
        """When the last segment moves to a fresh connection; None if that is not planned."""
        last = self._segments[-1].link if self._segments else None
        if last is None or last.ready_at is None or self._handover is not None or self._closing:
            return None
        return max(last.ready_at + self._options.rotate_seconds, self._rotate_after)

    def _segment_of(self, connection: int) -> Segment | None:
        return next((segment for segment in self._segments if segment.link.number == connection), None)

    def _ms(self, offset: int) -> int:
        return round(self.buffer.ms(offset))
