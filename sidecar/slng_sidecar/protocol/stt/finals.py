"""What of the transcripts is told, and which finalize each final answers: the way down of an STT session."""

from __future__ import annotations

from collections import Counter, deque

from slng_sidecar.protocol.commands import Command
from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.stt.dedup import plain_word
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import PENDING_SPEECH_MS, Finalize, Held, Segment

# Routes that split one sentence into several finals (Gradium: nine): how long the next one may take to come.
_SETTLE = {"gradium": 0.3}
# How long a final waits for another one where not all that sounds like speech before the finalize is in it.
_DOUBT = 0.5


class FinalizeTracker:
    """Tells transcripts and answers finalizes, each once and within its deadline.

    Mutable: ``finalizes``, those that are not settled, oldest first; ``last``, the offset of the client's last one;
    ``counts``, the session's. What is held of a stretch is the stretch's.
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
        self._dialect = dialect
        self._buffer = buffer
        self._counts = counts
        self._reports = reports
        self._scope = scope
        self._threshold = threshold
        self._final_lag = final_lag
        self._finalize_timeout = finalize_timeout
        self.last = 0

    @property
    def deadline(self) -> float | None:
        """When the time of a finalize runs out."""
        return min((finalize.deadline for finalize in self.finalizes if not finalize.expired), default=None)

    @property
    def is_settled(self) -> bool:
        """Whether no finalize waits for its answer."""
        return all(finalize.expired for finalize in self.finalizes)

    def take(self, name: str | None, segments: deque[Segment], now: float) -> list[Command]:
        """Take a finalize of the client's; one for which there is nothing to hear is answered at once."""
        end = self._buffer.end
        said, self.last = end > self.last, end
        # Audio in no stretch is told already: the finalize came right after a cut.
        if not said or not any(segment.contains(end) for segment in segments):
            return self._dialect.finalized(name, "empty", self._ms(segments[0]))
        self.finalizes.append(Finalize(name, end, now + self._finalize_timeout))
        return []

    def wake(self, segments: deque[Segment], now: float) -> list[Command]:
        """Tell what was held long enough, and answer the finalizes whose time has run out."""
        commands: list[Command] = []
        for segment in segments:
            if segment.held is not None and now >= segment.held.due:
                commands += self._release(segment)
        for finalize in self.finalizes:
            if not finalize.expired and now >= finalize.deadline:
                commands += self._expire(finalize, segments[0])
        return commands

    def partial(self, segment: Segment, message: Transcript) -> list[Command]:
        """Tell a partial, unless a final is awaited or it only repeats one."""
        segment.partial_pending = bool(message.text.strip())
        if self._is_unsure(message):
            self._counts["dropped_partials"] += 1
            return segment.emit(self._dialect.dropped(message, self._threshold, 0, answers=False, finalize=None))
        awaited = any(f.sent_on == segment.connection and not f.expired for f in self.finalizes)
        repeats = _begins_with(segment.last_final, message.text)
        if awaited or repeats or (segment.dedup is not None and not segment.dedup.over):
            self._counts["held_partials"] += 1
            return []
        segment.last_final = ""
        return segment.emit(self._dialect.partial(message))

    def final(self, segment: Segment, message: Transcript, now: float) -> list[Command]:
        """Tell a final, and whatever it answers."""
        answered, passed, sure = segment.answered_by(message, self.finalizes, self._buffer)
        segment.answered_last = segment.asked_to_close
        commands: list[Command] = []
        if (held := segment.held) is not None:
            if held.finalize in passed:
                commands += self._release(segment)
                passed.remove(held.finalize)
            elif answered is held.finalize and not message.text.strip():
                commands += self._release(segment)
                segment.cover(message, answered, self._buffer, now, self._final_lag)
                return commands
            else:
                # That one was not the last of its sentence after all: this one is.
                commands += self._release(segment, answers=False)
                answered = answered or held.finalize
        for finalize in passed:
            commands += self._settle(segment, finalize, "empty")
        covered = segment.covered
        segment.cover(message, answered, self._buffer, now, self._final_lag)
        if message.text.strip():
            segment.partial_pending = False
            segment.last_final = message.text if answered is not None else ""
        message, repeats = segment.without_repeats(message)
        if repeats:
            self._counts["repeated_words"] += repeats
        if repeats and not message.text and answered is None:
            return commands
        settle = next((time for name, time in _SETTLE.items() if name in segment.settings.model), 0.0)
        if not sure:
            settle = max(settle, _DOUBT)
        if answered is not None and settle and not answered.expired and message.text.strip():
            segment.held = Held(message, answered, min(now + settle, answered.deadline), covered)
            return commands
        return [*commands, *self._tell(segment, message, answered)]

    def begin_again(self, segment: Segment) -> list[Command]:
        """Note that a stretch has another connection: what it was asked is asked again, if there is audio for it."""
        # A final that is held is the answer, unless more speech is heard again before the finalize.
        again = self._buffer.speech_ms(segment.life_start, segment.held.finalize.offset) if segment.held else 0
        commands = self._release(segment, answers=again < PENDING_SPEECH_MS)
        for finalize in tuple(self.finalizes):
            if segment.contains(finalize.offset):
                finalize.sent_on = None
                if finalize.offset <= segment.life_start or finalize.expired:
                    commands += self._settle(segment, finalize, "empty")
        return commands

    def done(self, segment: Segment) -> list[Command]:
        """Settle what is open of a stretch of which no more will come."""
        commands = self._release(segment)
        for finalize in tuple(self.finalizes):
            if segment.contains(finalize.offset):
                commands += self._settle(segment, finalize, "empty")
        return commands

    def give_up(self, segments: deque[Segment]) -> list[Command]:
        """Answer what is open although its time has not run out: the session ends."""
        commands = [command for segment in segments for command in self._release(segment)]
        for finalize in self.finalizes:
            if not finalize.expired:
                commands += self._expire(finalize, segments[0])
        return commands

    def _release(self, segment: Segment, *, answers: bool = True) -> list[Command]:
        """Tell the final that is held, if there is one."""
        held, segment.held = segment.held, None
        return [] if held is None else self._tell(segment, held.message, held.finalize if answers else None)

    def _tell(self, segment: Segment, message: Transcript, answered: Finalize | None) -> list[Command]:
        dialect, covered = self._dialect, self._ms(segment)
        late = answered is not None and answered.expired
        answers = answered is not None and not late
        name = answered.id if answered is not None else None
        if not message.text.strip() and answered is not None and answers:
            return self._settle(segment, answered, "empty")
        outcome = "final"
        if self._is_unsure(message):
            self._counts["dropped_finals"] += 1
            outcome = "dropped"
            told = dialect.dropped(message, self._threshold, covered, answers=answers, finalize=name)
        else:
            told = dialect.final(message, covered, answers=answers, finalize=name, late=late)
        commands = segment.emit(told)
        if answered is not None:
            commands += self._settle(segment, answered, outcome)
        return commands

    def _settle(self, segment: Segment, finalize: Finalize, outcome: str) -> list[Command]:
        """Answer a finalize, unless its time had run out, and forget it."""
        self.finalizes.remove(finalize)
        if finalize.expired:
            return []
        self._report(finalize, outcome)
        return segment.emit(self._dialect.finalized(finalize.id, outcome, self._ms(segment)))

    def _expire(self, finalize: Finalize, head: Segment) -> list[Command]:
        finalize.expired = True
        self._report(finalize, "timeout")
        return self._dialect.finalized(finalize.id, "timeout", self._ms(head))

    def _report(self, finalize: Finalize, outcome: str) -> None:
        self._counts[f"finalizes_{outcome}"] += 1
        self._reports.append(TurnReport("finalize", outcome, finalize.deadline - self._finalize_timeout))

    def _is_unsure(self, message: Transcript) -> bool:
        if self._scope == "off" or (self._scope == "partials" and message.final) or message.confidence is None:
            return False
        return message.confidence < self._threshold and bool(message.text.strip())

    def _ms(self, segment: Segment) -> int:
        return round(self._buffer.ms(segment.told_up_to))


def _begins_with(text: str, start: str) -> bool:
    """Tell whether a partial only repeats the beginning of a final."""
    words, first = [plain_word(w) for w in text.split()], [plain_word(w) for w in start.split()]
    return bool(first) and words[: len(first)] == first
