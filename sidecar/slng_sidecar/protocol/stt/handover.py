"""The hand-over of a session's audio from one connection to the next: the cut, and the update that waits for it.

A cut is taken at once at a finalize's answer or a final with nothing pending (unless speech has begun since), at
200 ms of silence, or if the client sends nothing. After 1.5 s without one, up to 500 ms are held back and the quietest
moment among them is the cut. A rotation, which no client waits for, is more patient.
"""

from __future__ import annotations

from dataclasses import dataclass

from slng_sidecar.protocol.commands import Command
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.updates import ConnectionSettings, Update

_SILENCE_MS = 200
_BREATH_MS = 60
_IDLE_SECONDS = 0.2
_SILENT_CLIENT_SECONDS = 1.5
_PATIENCE_SECONDS = 1.5
_ROTATION_PATIENCE_SECONDS = 60.0
_HOLD_MS = 500


class CutFinder:
    """Looks for one cut.

    Mutable: ``hold``, the offset from which audio is held back, once it is; ``_held_at``, since when; ``_looked_at``,
    when ``find`` was last called.
    """

    def __init__(self, buffer: ReplayBuffer, start: int, since: float, *, rotation: bool) -> None:
        """Start to look for a cut.

        Args:
            start: where the segment that is to be cut begins.
            since: when the new connection was ready.
            rotation: whether no client waits for the cut.
        """
        self.hold: int | None = None
        self._buffer = buffer
        self._start = start
        self._force_at = since + (_ROTATION_PATIENCE_SECONDS if rotation else _PATIENCE_SECONDS)
        self._held_at = self._looked_at = 0.0

    def deadline(self, audio_at: float) -> float:
        """Return when to call ``find`` again, whatever happens until then.

        Args:
            audio_at: when audio last came.
        """
        hold = self._held_at + _SILENT_CLIENT_SECONDS if self.hold is not None else self._force_at
        idle = audio_at + _IDLE_SECONDS
        return min(hold, idle if idle > self._looked_at else audio_at + _SILENT_CLIENT_SECONDS)

    def find(self, now: float, audio_at: float, *, settled: bool) -> int | None:
        """Return the cut if there is one now: the first byte of a sample.

        Args:
            settled: whether upstream just answered a finalize, or sent a final with nothing pending.
        """
        self._looked_at = now
        cut = self._cut(now, audio_at, settled=settled)
        return None if cut is None else max(self._start, self._buffer.aligned(cut))

    def _cut(self, now: float, audio_at: float, *, settled: bool) -> int | None:
        buffer = self._buffer
        end = buffer.end
        breath = buffer.compressed or self._is_silent(_BREATH_MS)
        idle = now >= audio_at + _IDLE_SECONDS
        # A client whose audio falters for a moment may do so within a word.
        if end == self._start or (breath and (settled or idle)) or now >= audio_at + _SILENT_CLIENT_SECONDS:
            return end
        if self._is_silent(_SILENCE_MS):
            return end
        if self.hold is None:
            if now < self._force_at:
                return None
            if buffer.compressed:
                return end
            self.hold, self._held_at = end, now
            return None
        # The bound is on audio, not on time, so a client that falters causes no delay.
        if buffer.ms(end) - buffer.ms(self.hold) >= _HOLD_MS or now >= self._held_at + _SILENT_CLIENT_SECONDS:
            return buffer.quietest(self.hold, end)
        return None

    def _is_silent(self, ms: float) -> bool:
        """Return whether the last ``ms`` of the segment are silence."""
        buffer = self._buffer
        start = buffer.back(buffer.end, ms)
        long_enough = buffer.ms(buffer.end) - buffer.ms(max(start, self._start)) >= ms
        return long_enough and buffer.is_silent(start, buffer.end)


@dataclass(slots=True, eq=False)
class Handover:
    """An update, or a rotation, that waits for its connection and its cut. The timeline writes it.

    Attributes:
        settings: what the new connection is opened with.
        updates: the client's updates that it answers, each with the fields found unchanged; none for a rotation.
        connection: the new connection; None if upstream has no second slot, so that the old one must go first.
        ready: the new connection's ``ready``, once it came.
        ready_at: since when it is ready.
        cut_finder: looks for the cut from then on.
    """

    settings: ConnectionSettings
    updates: list[tuple[Update, list[str]]]
    connection: int | None = None
    ready: str | None = None
    ready_at: float | None = None
    cut_finder: CutFinder | None = None

    def answers(self, dialect: SttDialect, cut_ms: int, refused: GatewayError | None = None) -> list[Command]:
        """Return the answers to its updates.

        Args:
            cut_ms: from where the settings hold, in milliseconds of the session's audio.
            refused: why none of them holds.
        """
        commands: list[Command] = []
        for update, unchanged in self.updates:
            changed = [name for name in update.wanted if name not in unchanged]
            applied, rejected = {name: update.wanted[name] for name in changed}, update.rejected
            if refused is not None:
                applied, rejected = {}, {**rejected, **dict.fromkeys(changed, refused.message)}
            commands += dialect.updated(update.id, applied, unchanged, rejected, cut_ms)
        return commands
