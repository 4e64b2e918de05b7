"""Delivers transcripts and answers finalizes: the way down of an STT session."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from slng_sidecar.protocol.commands import Command
from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.stt.dedup import plain_word
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.matching import PENDING_SPEECH_MS, FinalMatch, HeldOutcome, match_final
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import Finalize, HeldFinal, Segment

# Routes that split one sentence into several finals (Gradium: nine): seconds that the next one may take to come.
_SETTLE = {"gradium": 0.3}
# Seconds that a final waits for another one if sound before the finalize may be speech that it does not cover.
_DOUBT = 0.5


class FinalizeTracker:
    """Delivers each transcript once, and answers each finalize once and within its deadline.

    A final goes one way: ``match_final`` decides what it means, ``_apply`` writes that to its segment, and ``_deliver``
    returns the commands.

    Mutable: ``finalizes``, those that are not settled, oldest first; ``last_offset``, where the audio ended at the
    client's last one; ``counts``, which are the session's; and the ``transcripts`` of every segment.
    """

    def __init__(
        self,
        dialect: SttDialect,
        buffer: ReplayBuffer,
        counts: Counter[str],
        reports: deque[TurnReport],
        *,
        scope: str,
        threshold: float,
        final_lag: float,
        finalize_timeout: float,
    ) -> None:
        self.finalizes: deque[Finalize] = deque()
        self.last_offset = 0
        self._dialect = dialect
        self._buffer = buffer
        self._counts = counts
        self._reports = reports
        self._scope = scope
        self._threshold = threshold
        self._final_lag = final_lag
        self._finalize_timeout = finalize_timeout

    @property
    def deadline(self) -> float | None:
        """When the next finalize runs out of time."""
        return min((finalize.deadline for finalize in self.finalizes if not finalize.expired), default=None)

    @property
    def is_settled(self) -> bool:
        """Whether no finalize waits for its answer."""
        return all(finalize.expired for finalize in self.finalizes)

    # What the client and the clock ask for

    def add(self, name: str | None, segments: deque[Segment], now: float) -> list[Command]:
        """Add a finalize of the client. If there is no audio for it, answer it at once."""
        end = self._buffer.end
        has_audio, self.last_offset = end > self.last_offset, end
        # Audio in no segment is delivered already: the finalize came right after a cut.
        if not has_audio or not any(segment.contains(end) for segment in segments):
            return self._dialect.finalized(name, "empty", self._ms(segments[0]))
        self.finalizes.append(Finalize(name, end, now + self._finalize_timeout))
        return []

    def wake(self, segments: deque[Segment], now: float) -> list[Command]:
        """Deliver finals that were held long enough, and answer finalizes whose time has run out."""
        commands: list[Command] = []
        for segment in segments:
            held = segment.transcripts.held
            if held is not None and now >= held.due:
                commands += self._release(segment)
        for finalize in self.finalizes:
            if not finalize.expired and now >= finalize.deadline:
                commands += self._expire(finalize, segments[0])
        return commands

    # What upstream says

    def partial(self, segment: Segment, message: Transcript) -> list[Command]:
        """Deliver a partial, unless a final is awaited or the partial only repeats one."""
        transcripts = segment.transcripts
        transcripts.is_partial_pending = bool(message.text.strip())
        if self._is_unsure(message):
            self._counts["dropped_partials"] += 1
            return segment.gate.emit(self._dialect.dropped(message, self._threshold, 0, answers=False, finalize=None))
        is_awaited = any(f.sent_on == segment.link.number and not f.expired for f in self.finalizes)
        if is_awaited or _begins_with(transcripts.last_final, message.text) or segment.deduplicator.is_pending:
            self._counts["held_partials"] += 1
            return []
        transcripts.last_final = ""
        return segment.gate.emit(self._dialect.partial(message))

    def final(self, segment: Segment, message: Transcript, now: float) -> list[Command]:
        """Deliver a final and the answers that follow from it."""
        match = match_final(message, segment, self.finalizes, self._buffer, now, self._final_lag)
        commands = self._settle_before(segment, match)
        covered_before = segment.transcripts.covered
        self._apply(segment, match, message)
        if match.held is HeldOutcome.CONFIRMED:
            return commands
        message, repeats = segment.deduplicator.remove_repeats(message)
        if repeats:
            self._counts["repeated_words"] += repeats
        if repeats and not message.text and match.answered is None:
            return commands
        if (due := self._hold_until(segment, match, message, now)) is not None:
            assert match.answered is not None
            segment.transcripts.held = HeldFinal(message, match.answered, due, covered_before)
            return commands
        return [*commands, *self._deliver(segment, message, match.answered)]

    # What becomes of a segment

    def restart(self, segment: Segment, *, replayed: int) -> list[Command]:
        """Continue a segment on another connection: finalizes are sent again if there is audio for them.

        Args:
            replayed: bytes that the new connection gets again.
        """
        transcripts = segment.transcripts
        transcripts.is_partial_pending = transcripts.answered_last = False
        segment.deduplicator.restart(replays=bool(replayed) and not transcripts.is_exact)
        # A held final is the answer, unless the replay holds more speech before its finalize.
        start, held = segment.sent.start, transcripts.held
        replayed_speech = self._buffer.speech_ms(start, held.finalize.offset) if held else 0
        commands = self._release(segment, answers=replayed_speech < PENDING_SPEECH_MS)
        for finalize in tuple(self.finalizes):
            if segment.contains(finalize.offset) and (finalize.offset <= start or finalize.expired):
                commands += self._settle(segment, finalize, "empty")
        return commands

    def finish(self, segment: Segment) -> list[Command]:
        """Settle what is open of a segment that gets no more transcripts."""
        commands = self._release(segment)
        for finalize in tuple(self.finalizes):
            if segment.contains(finalize.offset):
                commands += self._settle(segment, finalize, "empty")
        return commands

    def give_up(self, segments: Iterable[Segment]) -> list[Command]:
        """Answer every open finalize before its time has run out, because the session ends."""
        segments = tuple(segments)
        commands = [command for segment in segments for command in self._release(segment)]
        for finalize in self.finalizes:
            if not finalize.expired:
                commands += self._expire(finalize, segments[0])
        return commands

    # The steps of a final

    def _settle_before(self, segment: Segment, match: FinalMatch) -> list[Command]:
        """Deliver what comes before a final: the one that was held, and the finalizes that this one passes over."""
        commands: list[Command] = []
        if match.held is not HeldOutcome.NONE:
            commands += self._release(segment, answers=match.held is not HeldOutcome.CONTINUED)
        for finalize in match.passed:
            commands += self._settle(segment, finalize, "empty")
        return commands

    def _apply(self, segment: Segment, match: FinalMatch, message: Transcript) -> None:
        """Write a decision to its segment."""
        transcripts = segment.transcripts
        transcripts.answered_last = segment.link.asked_to_close
        transcripts.covered, transcripts.is_exact = match.covered, match.is_exact
        if message.text.strip():
            transcripts.is_partial_pending = False
            transcripts.last_final = message.text if match.answered is not None else ""

    def _hold_until(self, segment: Segment, match: FinalMatch, message: Transcript, now: float) -> float | None:
        """Return until when a final is held because another one may be the answer; None to deliver it now."""
        settle = next((time for name, time in _SETTLE.items() if name in segment.link.settings.model), 0.0)
        if not match.is_sure:
            settle = max(settle, _DOUBT)
        answered = match.answered
        if answered is None or not settle or answered.expired or not message.text.strip():
            return None
        return min(now + settle, answered.deadline)

    def _release(self, segment: Segment, *, answers: bool = True) -> list[Command]:
        """Deliver the final that a segment holds, if there is one, as the answer to its finalize or not."""
        held, segment.transcripts.held = segment.transcripts.held, None
        return [] if held is None else self._deliver(segment, held.message, held.finalize if answers else None)

    def _deliver(self, segment: Segment, message: Transcript, answered: Finalize | None) -> list[Command]:
        dialect, covered_ms = self._dialect, self._ms(segment)
        late = answered is not None and answered.expired
        answers = answered is not None and not late
        name = answered.id if answered is not None else None
        if not message.text.strip() and answered is not None and answers:
            return self._settle(segment, answered, "empty")
        outcome = "final"
        if self._is_unsure(message):
            self._counts["dropped_finals"] += 1
            outcome = "dropped"
            frames = dialect.dropped(message, self._threshold, covered_ms, answers=answers, finalize=name)
        else:
            frames = dialect.final(message, covered_ms, answers=answers, finalize=name, late=late)
        commands = segment.gate.emit(frames)
        if answered is not None:
            commands += self._settle(segment, answered, outcome)
        return commands

    def _settle(self, segment: Segment, finalize: Finalize, outcome: str) -> list[Command]:
        """Answer a finalize, unless its time had run out, and forget it."""
        self.finalizes.remove(finalize)
        if finalize.expired:
            return []
        self._report(finalize, outcome)
        return segment.gate.emit(self._dialect.finalized(finalize.id, outcome, self._ms(segment)))

    def _expire(self, finalize: Finalize, first: Segment) -> list[Command]:
        finalize.expired = True
        self._report(finalize, "timeout")
        return self._dialect.finalized(finalize.id, "timeout", self._ms(first))

    def _report(self, finalize: Finalize, outcome: str) -> None:
        self._counts[f"finalizes_{outcome}"] += 1
        self._reports.append(TurnReport("finalize", outcome, finalize.deadline - self._finalize_timeout))

    def _is_unsure(self, message: Transcript) -> bool:
        """Return whether the confidence filter drops a transcript."""
        if self._scope == "off" or (self._scope == "partials" and message.final) or message.confidence is None:
            return False
        return message.confidence < self._threshold and bool(message.text.strip())

    def _ms(self, segment: Segment) -> int:
        return round(self._buffer.ms(segment.transcripts.delivered_up_to))


def _begins_with(text: str, start: str) -> bool:
    """Return whether ``text`` begins with the words of ``start``, of which there must be some."""
    words, first = [plain_word(word) for word in text.split()], [plain_word(word) for word in start.split()]
    return bool(first) and words[: len(first)] == first
