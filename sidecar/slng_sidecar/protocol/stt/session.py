"""The speech-to-text session: audio goes up in order and is kept until a final covers it; transcripts come down."""

from __future__ import annotations

import enum
from collections import Counter
from typing import Any

from slng_sidecar.protocol.commands import DRAIN_GRACE, SHUTDOWN, CloseClient, Command, cut_off, end_with, tell
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.lifecycle import INIT_FIRST, base64_refused, check_init, init_overdue, second_init
from slng_sidecar.protocol.messages import parse_object, type_of
from slng_sidecar.protocol.reports import new_reports
from slng_sidecar.protocol.stt.dialects import SttDialect
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer
from slng_sidecar.protocol.stt.timeline import Timeline
from slng_sidecar.protocol.updates import ConnectionSettings

__all__ = ["SttMachine", "SttOptions"]

# Where sound is compressed its duration cannot be told from its size; 128 kbit/s is more than speech takes.
_COMPRESSED_BYTES_PER_SECOND = 16_000
_DEFAULT_SAMPLE_RATE = 16_000
_SCOPES = ("off", "partials", "all")


class _Phase(enum.Enum):
    NEW = "new"  # no init yet
    OPEN = "open"
    CLOSING = "closing"  # the client asked to close; what is left comes down
    ENDED = "ended"


class SttMachine:
    """One STT session, of either dialect: what the client says, and how the session ends.

    Mutable: ``_phase`` with its deadline ``_by``; ``_timeline``, once there was an ``init`` and until the end;
    ``_drain_by``, once it is to end at the next quiet moment from ``_drain_from`` on; ``_goodbye``, how the client is
    closed.
    """

    def __init__(self, options: SttOptions, dialect: SttDialect) -> None:
        self._options = options
        self._dialect = dialect
        self._phase = _Phase.NEW
        self._by: float | None = None
        self._timeline: Timeline | None = None
        self._drain_by: float | None = None
        self._drain_from = 0.0
        self._goodbye = CloseClient(1000, "")
        self._bytes_per_second = 2 * _DEFAULT_SAMPLE_RATE
        self.counts: Counter[str] = Counter()
        self.reports = new_reports()
        self.wants_standby = False
        self._buffer: ReplayBuffer | None = None

    def __repr__(self) -> str:
        return f"SttMachine({self._phase.value}{f', {self._timeline}' if self._timeline else ''})"

    @property
    def deadline(self) -> float | None:
        times = [self._by, self._drain_by if self._phase is not _Phase.ENDED else None]
        if self._timeline is not None:
            times.append(self._timeline.deadline)
            if self._drain_by is not None and self._phase is _Phase.OPEN:
                times.append(max(self._drain_from, self._timeline.quiet_at))
        return min((time for time in times if time is not None), default=None)

    @property
    def audio_seconds(self) -> float:
        """How much was heard so far."""
        return self._buffer.ms(self._buffer.end) / 1000 if self._buffer is not None else 0.0

    @property
    def reads_client(self) -> bool:
        return True

    @property
    def ahead_bytes(self) -> int:
        """One second of audio."""
        return self._bytes_per_second

    # The client

    def started(self, now: float) -> list[Command]:
        self._by = now + self._options.init_timeout
        return []

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        if self._phase is _Phase.NEW:
            return self._fail(GatewayError("bad_request", f"{INIT_FIRST}audio came before it."))
        if self._phase is not _Phase.OPEN or self._timeline is None:
            self.counts["audio_after_close"] += 1
            return []
        return self._drained(self._timeline.client_audio(data, now), now) if data else []

    def client_text(self, text: str, now: float) -> list[Command]:
        if self._phase in (_Phase.CLOSING, _Phase.ENDED):
            self.counts["message_after_close"] += 1
            return []
        try:
            return self._drained(self._message(parse_object(text), now), now)
        except GatewayError as error:
            return self._fail(error) if error.fatal else [tell(error)]

    def client_gone(self, now: float) -> list[Command]:
        return self._hang_up()

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float, since: float | None = None) -> list[Command]:
        if self._timeline is None:
            return []
        return self._go_on(self._timeline.upstream_ready(connection, text, now, since), now)

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        return (
            self._go_on(self._timeline.upstream_text(connection, text, now), now) if self._timeline is not None else []
        )

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        self.counts["unexpected_upstream_binary"] += 1
        return []

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if self._timeline is None:
            return []
        try:
            return self._go_on(self._timeline.upstream_lost(connection, error, now), now)
        except GatewayError as hopeless:
            return self._fail(hopeless)

    def wake(self, now: float) -> list[Command]:
        if self._by is not None and now >= self._by:
            if self._phase is _Phase.NEW:
                return self._fail(init_overdue(self._options.init_timeout))
            return self._give_up_closing()
        if self._drain_by is not None and now >= self._drain_by:
            return self._fail(cut_off())
        return self._go_on(self._timeline.wake(now), now) if self._timeline is not None else []

    def is_busy(self, now: float) -> bool:
        if self._timeline is None or self._phase is _Phase.ENDED:
            return False
        return self._phase is _Phase.CLOSING or not self._timeline.is_quiet(now)

    def drain(self, by: float, now: float) -> list[Command]:
        """End at the next finalize's answer or quiet second; the client hears that and when at the latest."""
        if self._phase in (_Phase.CLOSING, _Phase.ENDED) or self._drain_by is not None:
            return []
        self._drain_by = by
        self._drain_from = now + DRAIN_GRACE if self._phase is _Phase.NEW else now
        told = self._dialect.status("draining", cause="shutdown", deadline_ms=round((by - now) * 1000))
        return self._drained(told, now)

    # What follows

    def _message(self, message: dict[str, Any], now: float) -> list[Command]:
        kind = type_of(message)
        if kind == "init":
            return self._init(message, now)
        if kind in ("close", "stop"):
            return self._close(now)
        if self._timeline is None:
            raise GatewayError("bad_request", f"{INIT_FIRST}this message was ignored.", fatal=False)
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

    def _init(self, message: dict[str, Any], now: float) -> list[Command]:
        if self._phase is not _Phase.NEW:
            raise second_init()
        config = check_init(message)
        self.wants_standby = message.get("standby") is True
        init = {name: value for name, value in message.items() if name not in ("standby", "confidence_scope")}
        if "config" in init:
            init["config"] = {name: value for name, value in config.items() if name != "confidence_scope"}
        asked = message.get("confidence_scope", config.get("confidence_scope"))
        scope: str = self._options.confidence_scope
        if asked in _SCOPES:
            # A client may narrow what the filter is for, not widen it.
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
        self._phase, self._by = _Phase.OPEN, None
        return self._timeline.open()

    def _close(self, now: float) -> list[Command]:
        if self._timeline is None:
            self._phase, self._by = _Phase.ENDED, None
            return [CloseClient(1000, "")]
        self._phase, self._by = _Phase.CLOSING, now + self._options.close_timeout
        return self._go_on(self._timeline.close(now), now)

    def _go_on(self, commands: list[Command], now: float) -> list[Command]:
        """End the session, if all is told."""
        if self._timeline is None or not self._timeline.over:
            return self._drained(commands, now)
        return [*commands, *self._hang_up(), self._goodbye]

    def _drained(self, commands: list[Command], now: float) -> list[Command]:
        """Close, as if the client had asked for it, where that is due and nobody is speaking."""
        timeline = self._timeline
        if self._drain_by is None or self._phase is not _Phase.OPEN or timeline is None:
            return commands
        if now < self._drain_from or not timeline.is_quiet(now):
            return commands
        self._goodbye = SHUTDOWN
        commands = commands + self._close(now)
        if self._by is not None:
            self._by = min(self._by, self._drain_by)
        return commands

    def _give_up_closing(self) -> list[Command]:
        """End although something may be left; where that is audio, say so."""
        assert self._timeline is not None
        commands, unheard = self._timeline.give_up()
        if unheard:
            return [
                *commands,
                *self._fail(GatewayError("upstream_timeout", f"{unheard:.0f} ms of audio were not heard.")),
            ]
        return [*commands, *self._hang_up(), self._goodbye]

    def _fail(self, error: GatewayError) -> list[Command]:
        told = self._timeline.give_up()[0] if self._timeline is not None else []
        return [*told, *self._hang_up(), *end_with(error)]

    def _hang_up(self) -> list[Command]:
        timeline, self._timeline = self._timeline, None
        self._phase, self._by = _Phase.ENDED, None
        return timeline.hang_up() if timeline is not None else []
