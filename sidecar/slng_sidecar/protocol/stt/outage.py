"""What the client of an STT session learns of its upstream: ready, lost, back again, and audio that is dropped."""

from __future__ import annotations

from collections import Counter

from slng_sidecar.protocol.commands import Command, send_error
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import parse_object
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import LinkState, Segment


class OutageReporter:
    """Reports the state of upstream to the client, and counts what an outage cost.

    Mutable: ``ready_sent``, whether the client has its ``ready``; ``_overflow_reported``, once in an outage.
    """

    def __init__(self, dialect: SttDialect, buffer: ReplayBuffer, counts: Counter[str], replay_seconds: float) -> None:
        self.ready_sent = False
        self._overflow_reported = False
        self._dialect = dialect
        self._buffer = buffer
        self._counts = counts
        self._replay_seconds = replay_seconds

    def ready(self, text: str) -> list[Command]:
        """Send the client its ``ready``, which it gets once in a session."""
        if self.ready_sent:
            return []
        self.ready_sent = True
        return self._dialect.ready(parse_object(text))

    def lost(self, cause: str, attempt: int) -> list[Command]:
        """Report the start of an outage. Later attempts are not reported."""
        return [] if attempt > 1 else self._dialect.status("reconnecting", cause=cause, attempt=attempt)

    def connected(self, segment: Segment, replayed: int, dropped: int, now: float) -> list[Command]:
        """Report the end of an outage, if there was one.

        Args:
            replayed: bytes that are sent again.
            dropped: bytes that cannot be sent again.
        """
        self._overflow_reported = False
        policy = segment.link.policy
        if policy.lost_at is None:
            return []
        replayed_ms, dropped_ms = round(self._buffer.duration(replayed)), round(self._buffer.duration(dropped))
        self._counts["reconnects"] += 1
        self._counts["replayed_ms"] += replayed_ms
        self._counts["dropped_ms"] += dropped_ms
        return self._dialect.status(
            "connected",
            attempt=policy.attempt,
            gap_ms=round((now - policy.lost_at) * 1000),
            replayed_ms=replayed_ms,
            dropped_ms=dropped_ms,
        )

    def dropped(self, segment: Segment, error: GatewayError, *, is_last: bool) -> list[Command]:
        """Report how much of a segment is not transcribed and will not be sent again.

        Args:
            is_last: whether it is the session's last segment.
        """
        end = self._buffer.end if segment.end is None else segment.end
        covered, link = segment.transcripts.covered, segment.link
        if self._buffer.is_silent(covered, end):
            return []
        dropped_ms = round(self._buffer.ms(end)) - round(self._buffer.ms(covered))
        self._counts["dropped_ms"] += dropped_ms
        # The session itself goes on, unless it is about to end.
        state = "reconnecting" if is_last and link.state is not LinkState.LIVE else "connected"
        fields = {"gap_ms": 0, "replayed_ms": 0, "dropped_ms": dropped_ms}
        return self._dialect.status(state, cause=error.code, attempt=link.policy.attempt, **fields)

    def overflow(self, last: Segment | None, added: int) -> list[Command]:
        """Report, once in an outage, that audio is dropped which no connection was sent.

        Args:
            last: the session's last segment.
            added: bytes of audio that just came.
        """
        if last is None or last.link.state is LinkState.LIVE or self._buffer.floor <= last.sent.end:
            return []
        self._counts["audio_overflow_bytes"] += min(added, self._buffer.floor - last.sent.end)
        if self._overflow_reported:
            return []
        self._overflow_reported = True
        text = (
            f"Upstream accepts no audio now, and more than {self._replay_seconds:g} s wait for it. The oldest is "
            "dropped. SIDECAR_REPLAY_SECONDS sets how much is kept."
        )
        return [send_error(GatewayError(ErrorCode.AUDIO_OVERFLOW, text, fatal=False))]
