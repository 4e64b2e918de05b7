"""One stretch of a session's audio, the upstream connection that hears it, and what follows from what it says.

Upstream does not say which audio a final covers. The rule (section 3.1 of the local contract): up to its last word's
end where word times come; else, if it answers a finalize, up to that finalize; else nothing newer than ``final_lag``
before its arrival. In doubt audio counts as not covered, and is replayed after a drop.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from slng_sidecar.protocol.commands import Command
from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.reconnect import ReconnectPolicy
from slng_sidecar.protocol.stt.dedup import ReplayDeduplicator, without_first_words
from slng_sidecar.protocol.stt.handover import CutFinder
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.updates import ConnectionSettings, Update

# So much sound that is loud enough for speech is taken for a word that was not transcribed yet.
PENDING_SPEECH_MS = 100
# How far back a pause is looked for, so as not to begin within a word.
LONGEST_WORD_MS = 400
# A pause as long as that may have let upstream end an utterance, whose final is then still to come.
_ENDPOINT_MS = 200


class State(enum.Enum):
    """The state of a stretch's connection."""

    DIALLING = "dialling"
    LIVE = "live"
    WAITING = "waiting"  # for the time, or for its turn, to be dialled
    DONE = "done"


@dataclass(slots=True)
class Finalize:
    """A ``finalize`` of the client's that is not settled yet.

    Attributes:
        offset: the audio's end when it came.
        deadline: when it is answered by ``timeout``; it stays here after that, for a final that comes late.
        sent_on: the connection on which it went up, after the audio before it.
    """

    id: str | None
    offset: int
    deadline: float
    sent_on: int | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A final that may answer a finalize, kept until ``due`` for another one that would be the answer instead.

    Attributes:
        covered: the offset up to which all was told before it.
    """

    message: Transcript
    finalize: Finalize
    due: float
    covered: int


@dataclass(slots=True)
class Change:
    """An update, or a rotation, on its way.

    Attributes:
        voicing: what the candidate connection is opened with.
        updates: those of the client that it answers, each with what it found unchanged; none for a rotation.
        connection: the candidate; None where upstream has no second slot, so that the old one must go first.
        ready: the candidate's ``ready``, once it came, with since when it is, and the cutter that seeks the cut from
            then on.
    """

    settings: ConnectionSettings
    updates: list[tuple[Update, list[str]]]
    connection: int | None = None
    ready: str | None = None
    ready_at: float | None = None
    cut_finder: CutFinder | None = None


@dataclass(slots=True)
class Segment:
    """Audio from ``start`` to ``end`` (None: still growing), heard under one voicing by one connection after another.

    Attributes:
        sent: offset up to which audio is upstream on the present connection, whose first byte was ``life_start``.
        covered: offset up to which it is done with; ``exact``, where nothing told lies after it.
        sends: when ``sent`` was how far, for as long as a final may lag.
        held: its last final, as long as it may not be the answer.
        told: the words of its finals, for recognising them when they are said again.
        out: what it has to tell as long as it has not the word, because an earlier stretch is not done.
        change: the update that its first ``ready`` is the answer to, where upstream had no second slot; ``fallback`` is
            what it is opened with if that is refused.
    """

    settings: ConnectionSettings
    start: int
    recovery: ReconnectPolicy
    end: int | None = None
    state: State = State.WAITING
    connection: int = -1
    ready_at: float | None = None
    redial_at: float | None = None
    life_start: int = 0
    sent: int = 0
    covered: int = 0
    exact: bool = True
    asked_to_close: bool = False
    answered_last: bool = False
    drain_by: float | None = None
    partial_pending: bool = False
    last_final: str = ""
    held: Held | None = None
    sends: deque[tuple[float, int]] = field(default_factory=deque)
    told: list[str] = field(default_factory=list)
    dedup: ReplayDeduplicator | None = None
    pending_output: list[Command] = field(default_factory=list)
    is_active: bool = False
    change: Change | None = None
    fallback: ConnectionSettings | None = None

    def __repr__(self) -> str:
        end = "" if self.end is None else self.end
        return f"<{self.state.value} {self.connection} {self.start}-{end}, sent {self.sent}, covered {self.covered}>"

    def emit(self, commands: list[Command]) -> list[Command]:
        """Tell the client, if this stretch has the word, else once it has."""
        if self.is_active:
            return commands
        self.pending_output += commands
        return []

    def activate(self) -> list[Command]:
        """Have the word from now on; give what waited for it."""
        self.is_active = True
        commands, self.pending_output = self.pending_output, []
        return commands

    def begin(self, at: int) -> None:
        """Begin, with nothing heard yet, at an offset."""
        self.start = self.life_start = self.sent = self.covered = at

    def contains(self, offset: int) -> bool:
        """Tell whether audio that ends at ``offset`` ends in this stretch."""
        return self.start < offset and (self.end is None or offset <= self.end)

    def note_sent(self, offset: int, now: float, lag: float) -> None:
        """Note that audio up to ``offset`` went up now."""
        self.sent = offset
        self.sends.append((now, offset))
        while len(self.sends) > 1 and self.sends[1][0] <= now - lag:
            self.sends.popleft()

    def live_again(self, buffer: ReplayBuffer) -> tuple[int, int]:
        """Begin another connection's life where the last one left off; give the bytes replayed, and those given up."""
        dropped = max(0, buffer.floor - self.covered)
        start = max(self.covered, buffer.floor)
        if not self.exact and not dropped:
            # It may lie within a word: begin in a pause before it, if one is near.
            start = self._pause_before(start, buffer)
        start = buffer.aligned(start)
        replayed = max(0, self.sent - start)
        self.dedup = ReplayDeduplicator(self.told) if replayed and not self.exact else None
        self.life_start = self.sent = start
        self.sends.clear()
        self.partial_pending = self.asked_to_close = self.answered_last = False
        return replayed, dropped

    @property
    def told_up_to(self) -> int:
        """The offset that the client may forget its audio up to."""
        return self.covered if self.held is None else self.held.covered

    def word_span(self, message: Transcript, buffer: ReplayBuffer) -> tuple[int, int] | None:
        """Give the offsets at which a transcript's words begin and end, where it says so."""
        if not message.words:
            return None
        began = buffer.ms(self.life_start)
        first, last = message.words[0].start * 1000, max(word.end for word in message.words) * 1000
        return buffer.offset_at(began + first), min(self.sent, buffer.offset_at(began + last))

    def answered_by(
        self, message: Transcript, finalizes: deque[Finalize], buffer: ReplayBuffer
    ) -> tuple[Finalize | None, list[Finalize], bool]:
        """Give the finalize that a final answers, those older ones for which nothing was to be said, and whether sure.

        It is not sure where there is sound between the final's last word and the finalize that may be speech: then
        another final may follow, and be the answer.
        """
        mine = [finalize for finalize in finalizes if finalize.sent_on == self.connection]
        if not mine or message.from_finalize is False:
            return None, [], True
        waiting = [finalize for finalize in mine if not finalize.expired]
        span = self.word_span(message, buffer)
        if span is None:
            if not message.text.strip() and self.partial_pending and not message.from_finalize:
                return None, [], True
            return (waiting or mine)[0], [], True
        passed: list[Finalize] = []
        for finalize in mine:
            if span[0] >= finalize.offset:
                passed.append(finalize)
            else:
                pending = buffer.speech_ms(span[1], finalize.offset) >= PENDING_SPEECH_MS
                return finalize, passed, bool(message.from_finalize) or not pending
        return None, passed, True

    def cover(
        self, message: Transcript, answered: Finalize | None, buffer: ReplayBuffer, now: float, lag: float
    ) -> None:
        """Note what audio a final covers."""
        span = self.word_span(message, buffer)
        heard = bool(message.text.strip())
        if span is not None:
            offset, exact = span[1], True
        elif (
            answered is not None
            and self._covers_finalize(message, answered, buffer, heard)
            # A finalize may come within a word, which is then not among those it drew.
            and (pause := buffer.silence_before(answered.offset, LONGEST_WORD_MS)) is not None
        ):
            offset, exact = pause, True
        elif heard:
            offset, exact = self._sent_before(now - lag), False
        else:
            return
        self.covered = min(max(offset, self.covered), self.sent)
        self.exact = exact

    def without_repeats(self, message: Transcript) -> tuple[Transcript, int]:
        """Give a final without the words that were told before the connection was lost, and how many those are."""
        count = self.dedup.repeated(message.text) if self.dedup is not None else 0
        self.told += message.text.split()[count:]
        del self.told[:-200]
        if not count:
            return message, 0
        raw: dict[str, Any] = {**message.raw, "transcript": without_first_words(message.text, count)}
        if isinstance(raw.get("words"), list):
            raw["words"] = raw["words"][count:]
        return replace(message, text=raw["transcript"], words=message.words[count:], raw=raw), count

    def is_all_told(self, buffer: ReplayBuffer) -> bool:
        """Tell whether nothing of what this stretch holds is still to be heard of.

        That its rest is silence counts only once upstream answered the last finalize: soft speech looks like silence.
        """
        if self.end is None or self.partial_pending or self.held is not None:
            return False
        return self.covered >= self.end or (self.answered_last and buffer.is_silent(self.covered, self.end))

    def _covers_finalize(self, message: Transcript, answered: Finalize, buffer: ReplayBuffer, heard: bool) -> bool:
        """Tell whether an answer without word times can be trusted to cover all up to its finalize."""
        if message.from_finalize or buffer.compressed:
            return True
        if not heard:
            return buffer.speech_ms(self.covered, answered.offset) < PENDING_SPEECH_MS
        # Where speech paused before the finalize, this may be the final of what was before the pause.
        return not buffer.has_pause(self.covered, answered.offset, _ENDPOINT_MS)

    def release(self, buffer: ReplayBuffer) -> None:
        """Let the ledger go of what this stretch will not need again."""
        # A replay may begin a word's length before what is covered.
        buffer.release(buffer.back(self.covered, LONGEST_WORD_MS))

    def _pause_before(self, offset: int, buffer: ReplayBuffer) -> int:
        """Give where a replay can begin before ``offset``: not within a word, as far as that can be told."""
        pause = buffer.silence_before(offset, LONGEST_WORD_MS)
        if pause is not None:
            return max(self.start, pause)
        earliest = buffer.back(offset, LONGEST_WORD_MS)
        return self.start if earliest <= self.start else buffer.quietest(earliest, offset)

    def _sent_before(self, time: float) -> int:
        offset = self.life_start
        for sent_at, sent in self.sends:
            if sent_at > time:
                break
            offset = sent
        return offset
