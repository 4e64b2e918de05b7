"""Sends the audio of segments upstream, with finalizes in their places."""

from __future__ import annotations

from collections.abc import Iterable

from slng_sidecar.protocol.commands import Command, SendUpstream
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.segment import Finalize, Segment

# How long audio waits after a ``backpressure``. SLNG does not document what it asks for.
_BACKPRESSURE_SECONDS = 0.25
_FINALIZE, _CLOSE = dump({"type": "finalize"}), dump({"type": "close"})


class SegmentSender:
    """Decides what of a segment goes upstream now. It writes the segments' ``sent`` and the finalizes' ``sent_on``.

    Mutable: ``paused_until``, set by backpressure; 0 when nothing is paused.
    """

    def __init__(self, options: SttOptions, buffer: ReplayBuffer) -> None:
        self.paused_until = 0.0
        self._lag = options.final_lag
        self._buffer = buffer

    def pause(self, now: float) -> None:
        """Send nothing for a moment: upstream reported backpressure."""
        self.paused_until = now + _BACKPRESSURE_SECONDS

    def wake(self, now: float) -> None:
        """End a pause whose time is over."""
        if self.paused_until and now >= self.paused_until:
            self.paused_until = 0.0

    def restart(self, segment: Segment, start: int) -> None:
        """Start with another connection of a segment, of which nothing is sent yet, at ``start``."""
        segment.sent.restart(start)

    def send(self, segment: Segment, limit: int, finalizes: Iterable[Finalize], now: float) -> list[Command]:
        """Return the commands that send a segment's audio up to ``limit``.

        Args:
            finalizes: the client's, of which those of this segment go up after the audio before them.
        """
        if now < self.paused_until:
            return []
        link, sent = segment.link, segment.sent
        commands: list[Command] = []
        for finalize in finalizes:
            is_sent = finalize.sent_on == link.number
            if not is_sent and segment.contains(finalize.offset) and finalize.offset <= limit:
                commands += self._audio(segment, finalize.offset)
                commands.append(SendUpstream(link.number, _FINALIZE))
                finalize.sent_on = link.number
                sent.advance(finalize.offset, now, self._lag)
        if sent.end < limit:
            commands += self._audio(segment, limit)
            sent.advance(limit, now, self._lag)
        return commands

    def close(self, segment: Segment, *, finalize: bool) -> list[Command]:
        """Return the commands that ask upstream to send what is left and close.

        Args:
            finalize: whether to ask for the last final before that.
        """
        number = segment.link.number
        close = [SendUpstream(number, _CLOSE)]
        return [SendUpstream(number, _FINALIZE), *close] if finalize else [*close]

    def _audio(self, segment: Segment, end: int) -> list[Command]:
        return [SendUpstream(segment.link.number, data) for data in self._buffer.read(segment.sent.end, end)]
