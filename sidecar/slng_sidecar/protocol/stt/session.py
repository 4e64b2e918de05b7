"""The speech-to-text session: the client's messages, and how the session ends.

Audio goes up in order and is kept until a final covers it. Transcripts come down.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from slng_sidecar.protocol.commands import CloseClient, Command, close_with, send_error
from slng_sidecar.protocol.errors import Close, ErrorCode, GatewayError
from slng_sidecar.protocol.lifecycle import (
    INIT_FIRST,
    SHUTDOWN,
    Lifecycle,
    Phase,
    base64_refused,
    check_init,
    init_missing,
    second_init,
)
from slng_sidecar.protocol.messages import parse_object, type_of
from slng_sidecar.protocol.reports import new_reports
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.timeline import Timeline
from slng_sidecar.protocol.updates import ConnectionSettings

# The length of compressed audio cannot be derived from its size. Speech takes less than 128 kbit/s.
_COMPRESSED_BYTES_PER_SECOND = 16_000
_DEFAULT_SAMPLE_RATE = 16_000
_SCOPES = ("off", "partials", "all")


class SttMachine:
    """One STT session, of either dialect.

    Mutable: ``_life``, its phase and deadlines; ``_timeline``, once there was an ``init`` and until the end;
    ``_goodbye``, how the client is closed.
    """

    def __init__(self, options: SttOptions, dialect: SttDialect) -> None:
        self._options = options
        self._dialect = dialect
        self._life = Lifecycle(options.init_timeout, options.close_timeout)
        self._timeline: Timeline | None = None
        self._goodbye = CloseClient(1000, "")
        self._bytes_per_second = 2 * _DEFAULT_SAMPLE_RATE
        self._buffer: ReplayBuffer | None = None
        self.counts: Counter[str] = Counter()
        self.reports = new_reports()
        self.wants_standby = False

    def __repr__(self) -> str:
        return f"SttMachine({self._life.phase.value}{f', {self._timeline}' if self._timeline else ''})"

    @property
    def deadline(self) -> float | None:
        """When to call ``wake``; None for never."""
        times = [self._life.deadline]
        if self._timeline is not None:
            times.append(self._timeline.deadline)
            if self._life.is_draining and self._life.phase is Phase.OPEN:
                times.append(max(self._life.drains_from, self._timeline.quiet_at))
        return min((time for time in times if time is not None), default=None)

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that the client has sent."""
        return self._buffer.ms(self._buffer.end) / 1000 if self._buffer is not None else 0.0

    @property
    def reads_client(self) -> bool:
        """Whether there is room for more audio. In an outage there always is, because then the oldest is dropped."""
        return self._timeline is None or self._timeline.has_room

    @property
    def ahead_bytes(self) -> int:
        """One second of audio."""
        return self._bytes_per_second

    # The client

    def started(self, now: float) -> list[Command]:
        """Start to wait for the ``init``."""
        self._life.start(now)
        return []

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        """Handle audio of the client."""
        if self._life.phase is Phase.NEW:
            return self._fail(GatewayError(ErrorCode.BAD_REQUEST, f"{INIT_FIRST}audio came before it."))
        if self._life.phase is not Phase.OPEN or self._timeline is None:
            self.counts["audio_after_close"] += 1
            return []
        return self._end_if_drained(self._timeline.client_audio(data, now), now) if data else []

    def client_text(self, text: str, now: float) -> list[Command]:
        """Handle a text message of the client."""
        if not self._life.takes_messages:
            self.counts["message_after_close"] += 1
            return []
        try:
            return self._end_if_drained(self._message(parse_object(text), now), now)
        except GatewayError as error:
            return self._fail(error) if error.fatal else [send_error(error)]

    def client_gone(self, now: float) -> list[Command]:
        """Close everything: the client is gone."""
        return self._hang_up()

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        """Handle a connection's ``ready``."""
        if self._timeline is None:
            return []
        return self._end_if_over(self._timeline.upstream_ready(connection, text, now, since), now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        """Handle a text message of upstream."""
        if self._timeline is None:
            return []
        return self._end_if_over(self._timeline.upstream_text(connection, text, now), now)

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        """Count a binary message of upstream, which means nothing on this bridge."""
        self.counts["unexpected_upstream_binary"] += 1
        return []

    def upstream_lost(self, connection: int, close: Close, now: float) -> list[Command]:
        """Handle the end of a connection that was not retired."""
        if self._timeline is None:
            return []
        try:
            return self._end_if_over(self._timeline.upstream_lost(connection, close, now), now)
        except GatewayError as hopeless:
            return self._fail(hopeless)

    def wake(self, now: float) -> list[Command]:
        """Do what is due at ``deadline``."""
        if (overdue := self._life.init_overdue(now)) is not None:
            return self._fail(overdue)
        if self._life.close_is_overdue(now):
            return self._give_up_closing()
        if (overdue := self._life.drain_overdue(now)) is not None:
            return self._fail(overdue)
        return self._end_if_over(self._timeline.wake(now), now) if self._timeline is not None else []

    def is_busy(self, now: float) -> bool:
        """Return whether an end now would cut something that is being transcribed."""
        if self._timeline is None or self._life.is_ended:
            return False
        return self._life.phase is Phase.CLOSING or not self._timeline.is_quiet(now)

    def drain(self, by: float, now: float) -> list[Command]:
        """End at the next finalize's answer or quiet second, and report that and ``by`` to the client."""
        if not self._life.takes_messages or self._life.is_draining:
            return []
        self._life.drain(by, now)
        status = self._dialect.status("draining", cause="shutdown", deadline_ms=round((by - now) * 1000))
        return self._end_if_drained(status, now)

    # What the client asks for

    def _message(self, message: dict[str, Any], now: float) -> list[Command]:
        kind = type_of(message)
        if kind == "init":
            return self._init(message)
        if kind in ("close", "stop"):
            return self._close(now)
        if self._timeline is None:
            raise init_missing()
        match kind:
            case "finalize":
                name = message.get("id")
                return self._timeline.finalize(name if isinstance(name, str) else None, now)
            case "update" if self._dialect.takes_updates:
                return self._timeline.update(message, now)
            case "keepalive":
                return []
            case "audio":
                raise base64_refused()
        self.counts["unknown_client_message"] += 1
        return []

    def _init(self, message: dict[str, Any]) -> list[Command]:
        if self._life.phase is not Phase.NEW:
            raise second_init()
        config = check_init(message)
        self.wants_standby = message.get("standby") is True
        init = {name: value for name, value in message.items() if name not in ("standby", "confidence_scope")}
        if "config" in init:
            init["config"] = {name: value for name, value in config.items() if name != "confidence_scope"}
        asked = message.get("confidence_scope", config.get("confidence_scope"))
        scope: str = self._options.confidence_scope
        if asked in _SCOPES:
            # A client may narrow what the filter applies to, not widen it.
            scope = min(scope, asked, key=_SCOPES.index)
        compressed = (config.get("encoding") or "linear16").lower() != "linear16"
        if compressed:
            self._bytes_per_second = _COMPRESSED_BYTES_PER_SECOND
        else:
            self._bytes_per_second = 2 * (config.get("sample_rate") or _DEFAULT_SAMPLE_RATE)
        buffer = ReplayBuffer(self._bytes_per_second, self._options.replay_seconds, compressed=compressed)
        self._buffer = buffer
        settings = ConnectionSettings(self._options.model, init)
        self._timeline = Timeline(self._options, self._dialect, self.counts, self.reports, settings, buffer, scope)
        self._life.open()
        return self._timeline.open()

    def _close(self, now: float, limit: float | None = None) -> list[Command]:
        """Deliver what is left, and end by ``limit``."""
        if self._timeline is None:
            self._life.end()
            return [CloseClient(1000, "")]
        self._life.close(now, limit)
        return self._end_if_over(self._timeline.close(now), now)

    # The end

    def _end_if_over(self, commands: list[Command], now: float) -> list[Command]:
        """Add the end of the session if everything is delivered."""
        if self._timeline is None or not self._timeline.over:
            return self._end_if_drained(commands, now)
        return [*commands, *self._hang_up(), self._goodbye]

    def _end_if_drained(self, commands: list[Command], now: float) -> list[Command]:
        """Close as if the client had asked for it, if the sidecar drains and nobody is speaking."""
        life, timeline = self._life, self._timeline
        if life.phase is not Phase.OPEN or timeline is None or not life.may_drain(now) or not timeline.is_quiet(now):
            return commands
        self._goodbye = SHUTDOWN
        return commands + self._close(now, life.drain_by)

    def _give_up_closing(self) -> list[Command]:
        """End although something may be left, and report audio that upstream was never sent."""
        assert self._timeline is not None
        commands, unsent = self._timeline.give_up()
        if unsent:
            text = f"{unsent:.0f} ms of audio were not transcribed."
            return [*commands, *self._fail(GatewayError(ErrorCode.UPSTREAM_TIMEOUT, text))]
        return [*commands, *self._hang_up(), self._goodbye]

    def _fail(self, error: GatewayError) -> list[Command]:
        delivered = self._timeline.give_up()[0] if self._timeline is not None else []
        return [*delivered, *self._hang_up(), *close_with(error)]

    def _hang_up(self) -> list[Command]:
        timeline, self._timeline = self._timeline, None
        self._life.end()
        return timeline.hang_up() if timeline is not None else []
