"""The cut: the moment in a session's audio from which a new upstream connection hears on.

Taken at once is a finalize's answer or a final with nothing pending (where no speech has begun since), 200 ms of
silence, or a client that sends nothing. After 1.5 s without one, up to 500 ms are held back and the quietest moment
among them is the cut (section 3.1 of the local contract). A rotation, which nobody waits for, is more patient.
"""

from __future__ import annotations

from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer

_SILENCE_MS = 200
_BREATH_MS = 60
_IDLE_SECONDS = 0.2
_SILENT_CLIENT_SECONDS = 1.5
_PATIENCE_SECONDS = 1.5
_ROTATION_PATIENCE_SECONDS = 60.0
_HOLD_MS = 500


class CutFinder:
    """Seeks one cut.

    Mutable: ``hold``, the offset from which audio is held back, once it is; ``_held_at``, since when; ``_looked_at``,
    when ``seek`` was called last.
    """

    def __init__(self, buffer: ReplayBuffer, start: int, since: float, *, rotation: bool) -> None:
        """Begin to seek.

        Args:
            start: where the stretch that is to be cut begins.
            since: when the new connection was ready.
        """
        self.hold: int | None = None
        self._buffer = buffer
        self._start = start
        self._force_at = since + (_ROTATION_PATIENCE_SECONDS if rotation else _PATIENCE_SECONDS)
        self._held_at = self._looked_at = 0.0

    def deadline(self, audio_at: float) -> float:
        """Give when ``seek`` should be called again, whatever happens.

        Args:
            audio_at: when audio came last.
        """
        hold = self._held_at + _SILENT_CLIENT_SECONDS if self.hold is not None else self._force_at
        looked = audio_at + _IDLE_SECONDS
        return min(hold, looked if looked > self._looked_at else audio_at + _SILENT_CLIENT_SECONDS)

    def seek(self, now: float, audio_at: float, *, settled: bool) -> int | None:
        """Give the cut, if it is found: the beginning of a sample.

        Args:
            settled: upstream just answered a finalize, or gave a final with nothing pending.
        """
        self._looked_at = now
        cut = self._cut(now, audio_at, settled=settled)
        return None if cut is None else max(self._start, self._buffer.aligned(cut))

    def _cut(self, now: float, audio_at: float, *, settled: bool) -> int | None:
        buffer = self._buffer
        end = buffer.end
        breath = buffer.compressed or self._is_silent(_BREATH_MS)
        idle = now >= audio_at + _IDLE_SECONDS
        # A client that only falters may do so within a word.
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
        # It is audio that is held back, so a client that falters delays nothing.
        if buffer.ms(end) - buffer.ms(self.hold) >= _HOLD_MS or now >= self._held_at + _SILENT_CLIENT_SECONDS:
            return buffer.quietest(self.hold, end)
        return None

    def _is_silent(self, ms: float) -> bool:
        """Tell whether the last ``ms`` of the stretch are silence."""
        buffer = self._buffer
        start = buffer.back(buffer.end, ms)
        long_enough = buffer.ms(buffer.end) - buffer.ms(max(start, self._start)) >= ms
        return long_enough and buffer.is_silent(start, buffer.end)
