"""One segment of a session's audio: what is sent of it, what is covered, and how its transcripts reach the client.

A segment is heard under one set of settings, by one connection after another. It is made of parts, each with one
writer: the timeline writes ``link``, the sender ``sent``, and the finalize tracker ``transcripts`` and
``deduplicator``. ``gate`` changes by its own methods only.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from slng_sidecar.protocol.commands import Command
from slng_sidecar.protocol.messages import Transcript
from slng_sidecar.protocol.reconnect import ReconnectPolicy
from slng_sidecar.protocol.stt.dedup import ReplayDeduplicator
from slng_sidecar.protocol.stt.handover import Handover
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.updates import ConnectionSettings

LONGEST_WORD_MS = 400
"""How far back a pause is looked for, so that a replay does not begin within a word."""


class LinkState(enum.Enum):
    """The state of a segment's connection."""

    DIALLING = "dialling"
    LIVE = "live"
    WAITING = "waiting"  # for the time, or for a free slot upstream, to be dialled
    DONE = "done"


@dataclass(slots=True, eq=False)
class Link:
    """The connection that hears a segment, and what is known of reconnecting it. The timeline writes it.

    Attributes:
        settings: what the connection is opened with.
        number: the connection's number; -1 without one.
        ready_at: when it became ready, which may be before it was taken from standby; None without one.
        redial_at: when it is dialled; None if that is not planned.
        asked_to_close: whether upstream was asked to send what is left and close.
        drain_by: when the last finals of an ended segment are no longer waited for.
        handover: the updates that the first ``ready`` answers, if upstream had no slot for a second connection.
        fallback: the settings to use if upstream refuses those of ``handover``.
    """

    settings: ConnectionSettings
    policy: ReconnectPolicy
    state: LinkState = LinkState.WAITING
    number: int = -1
    ready_at: float | None = None
    redial_at: float | None = None
    asked_to_close: bool = False
    drain_by: float | None = None
    handover: Handover | None = None
    fallback: ConnectionSettings | None = None

    def __repr__(self) -> str:
        return f"{self.state.value} {self.number}"

    def dial(self, number: int) -> None:
        """Record that a connection is being opened."""
        self.number, self.state, self.redial_at = number, LinkState.DIALLING, None

    def attach(self, number: int, ready_at: float | None) -> None:
        """Record that a connection is ready."""
        self.number, self.state, self.ready_at = number, LinkState.LIVE, ready_at
        self.asked_to_close = False

    def disconnect(self) -> None:
        """Record that the connection is lost."""
        self.state, self.number, self.ready_at, self.drain_by = LinkState.WAITING, -1, None, None

    def finish(self) -> None:
        """Record that the segment needs no connection any more."""
        self.state, self.number, self.drain_by, self.redial_at = LinkState.DONE, -1, None, None


class SentAudio:
    """What of a segment the present connection was sent. Offsets are bytes of the session's audio.

    The sender writes it.

    Mutable: ``start``, where the first byte of the present connection lies; ``end``, one past the last byte sent;
    ``_history``, when ``end`` was how far, for as long as a final may lag.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self._history: deque[tuple[float, int]] = deque()

    def advance(self, end: int, now: float, lag: float) -> None:
        """Record that audio up to ``end`` was sent now; ``lag`` is how long ``end_at`` may be asked for it."""
        self.end = end
        self._history.append((now, end))
        while len(self._history) > 1 and self._history[1][0] <= now - lag:
            self._history.popleft()

    def restart(self, start: int) -> None:
        """Start with another connection, of which nothing is sent yet, at ``start``."""
        self.start = self.end = start
        self._history.clear()

    def end_at(self, time: float) -> int:
        """Return the offset up to which audio had been sent at ``time``."""
        offset = self.start
        for sent_at, end in self._history:
            if sent_at > time:
                break
            offset = end
        return offset


@dataclass(slots=True, eq=False)
class Finalize:
    """A ``finalize`` of the client that is not settled yet. The finalize tracker writes it, but the sender ``sent_on``.

    Attributes:
        offset: where the audio ended when it came.
        deadline: when it is answered by ``timeout``. It is kept after that, for a final that comes late.
        sent_on: the last connection that it was sent on, after the audio before it.
        expired: whether it was answered by ``timeout``.
    """

    id: str | None
    offset: int
    deadline: float
    sent_on: int | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class HeldFinal:
    """A final that may answer a finalize, held until ``due`` in case another final is the answer instead.

    Attributes:
        covered: the offset up to which all was delivered before it.
    """

    message: Transcript
    finalize: Finalize
    due: float
    covered: int


@dataclass(slots=True, eq=False)
class SegmentTranscripts:
    """What upstream's transcripts say of a segment. The finalize tracker writes it.

    Attributes:
        covered: the offset up to which the audio is transcribed and will never be replayed.
        is_exact: whether no delivered word lies after ``covered``.
        held: the last final, as long as it may not be the answer to its finalize.
        last_final: the text of the last final that answered a finalize, until other words come.
        is_partial_pending: whether partials came that no final confirms yet.
        answered_last: whether a final came after upstream was asked to close.
    """

    covered: int
    is_exact: bool = True
    held: HeldFinal | None = None
    last_final: str = ""
    is_partial_pending: bool = False
    answered_last: bool = False

    @property
    def delivered_up_to(self) -> int:
        """The offset up to which the client may forget its audio."""
        return self.covered if self.held is None else self.held.covered


class OutputGate:
    """Holds a segment's commands for the client until the earlier segments are done.

    Mutable: ``is_active``; ``_pending``, the commands held until then.
    """

    def __init__(self, *, is_active: bool = False) -> None:
        self.is_active = is_active
        self._pending: list[Command] = []

    def emit(self, commands: list[Command]) -> list[Command]:
        """Return the commands if the segment is active. Otherwise hold them and return none."""
        if self.is_active:
            return commands
        self._pending += commands
        return []

    def activate(self) -> list[Command]:
        """Become active and return what was held."""
        self.is_active = True
        commands, self._pending = self._pending, []
        return commands


@dataclass(slots=True, eq=False)
class Segment:
    """Audio from ``start`` to ``end``, or to the newest as long as ``end`` is None.

    Only ``end`` changes, once, when the timeline cuts or closes.
    """

    start: int
    link: Link
    gate: OutputGate = field(default_factory=OutputGate)
    deduplicator: ReplayDeduplicator = field(default_factory=ReplayDeduplicator)
    end: int | None = None
    sent: SentAudio = field(init=False)
    transcripts: SegmentTranscripts = field(init=False)

    def __post_init__(self) -> None:
        self.sent = SentAudio(self.start)
        self.transcripts = SegmentTranscripts(self.start)

    def __repr__(self) -> str:
        end = "" if self.end is None else self.end
        covered = self.transcripts.covered
        return f"<{self.link} {self.start}-{end}, sent {self.sent.end}, covered {covered}>"

    def contains(self, offset: int) -> bool:
        """Return whether audio that ends at ``offset`` ends in this segment."""
        return self.start < offset and (self.end is None or offset <= self.end)

    def replay_start(self, buffer: ReplayBuffer) -> int:
        """Return the offset at which another connection must begin, so that nothing is left out."""
        covered = self.transcripts.covered
        start = max(covered, buffer.floor)
        if not self.transcripts.is_exact and start == covered:
            # Coverage without word times may end within a word: begin in a pause before it, if one is near.
            start = self._pause_before(start, buffer)
        return buffer.aligned(start)

    def is_transcribed(self, buffer: ReplayBuffer) -> bool:
        """Return whether no more transcripts of this segment can come.

        Silence at its end counts only once upstream answered the last finalize, since soft speech looks like silence.
        """
        transcripts = self.transcripts
        if self.end is None or transcripts.is_partial_pending or transcripts.held is not None:
            return False
        if transcripts.covered >= self.end:
            return True
        return transcripts.answered_last and buffer.is_silent(transcripts.covered, self.end)

    def release(self, buffer: ReplayBuffer) -> None:
        """Remove from the buffer what this segment will not need again."""
        # A replay may begin a word's length before what is covered. What is not covered is needed even if its audio is
        # gone, because it is remembered how loud it was.
        covered = self.transcripts.covered
        buffer.release(min(covered, buffer.back(covered, LONGEST_WORD_MS)))

    def _pause_before(self, offset: int, buffer: ReplayBuffer) -> int:
        """Return an offset before ``offset`` that lies within no word, as far as that can be known."""
        pause = buffer.silence_before(offset, LONGEST_WORD_MS)
        if pause is not None:
            return max(self.start, pause)
        earliest = buffer.back(offset, LONGEST_WORD_MS)
        return self.start if earliest <= self.start else buffer.quietest(earliest, offset)
