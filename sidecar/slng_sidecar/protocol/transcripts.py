"""The speech-to-text session: audio goes up in order, transcripts come down filtered.

One upstream connection serves the session; when it is lost, the session ends with an error.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, Literal

from slng_sidecar.protocol.commands import CloseClient, Command, Dial, Retire, SendClient, SendUpstream, end_with, tell
from slng_sidecar.protocol.errors import GatewayError, closed_cleanly
from slng_sidecar.protocol.messages import (
    Failure,
    Other,
    Ready,
    Transcript,
    dump,
    parse_object,
    parse_stt,
    type_of,
)
from slng_sidecar.protocol.opening import INIT_FIRST, base64_refused, check_init, init_overdue, second_init

# Where sound is compressed its duration cannot be told from its size; 128 kbit/s is more than speech takes.
_COMPRESSED_BYTES_PER_SECOND = 16_000
_DEFAULT_SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class SttOptions:
    """What the operator set for STT sessions; times are seconds."""

    confidence_threshold: float = 0.5
    confidence_scope: Literal["all", "partials", "off"] = "all"
    replay_seconds: float = 30
    init_timeout: float = 30
    close_timeout: float = 5


class _State(enum.Enum):
    NEW = "new"  # no init yet
    OPENING = "opening"  # upstream is being opened; what comes is held
    LIVE = "live"
    CLOSING = "closing"  # the client asked to close; what is left comes down
    ENDED = "ended"


class SttMachine:
    """One STT session of a plain client.

    Mutable: ``_state``, ``_deadline``; ``_held``, what waits for ``ready``, of which ``_held_audio`` bytes are audio;
    ``_bytes_per_second``, known from init; ``_finalizes``, how many wait for an answer; ``_overflowed``, once.
    """

    def __init__(self, options: SttOptions) -> None:
        self._options = options
        self._state = _State.NEW
        self._deadline: float | None = None
        self._held: deque[str | bytes] = deque()
        self._held_audio = 0
        self._bytes_per_second = _DEFAULT_SAMPLE_RATE * 2
        self._finalizes = 0
        self._overflowed = False
        self.counts: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"SttMachine({self._state.value}, held={self._held_audio}, finalizes={self._finalizes})"

    @property
    def deadline(self) -> float | None:
        return self._deadline

    @property
    def reads_client(self) -> bool:
        return True

    @property
    def ahead_bytes(self) -> int:
        """One second of audio."""
        return self._bytes_per_second

    # The client

    def started(self, now: float) -> list[Command]:
        self._deadline = now + self._options.init_timeout
        return []

    def client_binary(self, data: bytes, now: float) -> list[Command]:
        match self._state:
            case _State.LIVE:
                return [SendUpstream(0, data)]
            case _State.OPENING:
                return self._hold_audio(data)
            case _State.NEW:
                return self._fail(GatewayError("bad_request", f"{INIT_FIRST}audio came before it."))
            case _:
                self.counts["audio_after_close"] += 1
                return []

    def client_text(self, text: str, now: float) -> list[Command]:
        if self._state in (_State.CLOSING, _State.ENDED):
            self.counts["message_after_close"] += 1
            return []
        try:
            message = parse_object(text)
            match type_of(message):
                case "init":
                    return self._init(message, now)
                case "close" | "stop":
                    return self._close(now)
                case _ if self._state is _State.NEW:
                    raise GatewayError("bad_request", f"{INIT_FIRST}this message was ignored.", fatal=False)
                case "finalize":
                    self._finalizes += 1
                    return self._send(dump({"type": "finalize"}))
                case "keepalive":
                    return []
                case "audio":
                    raise base64_refused()
                case _:
                    self.counts["unknown_client_message"] += 1
                    return []
        except GatewayError as error:
            return self._fail(error) if error.fatal else [tell(error)]

    def client_gone(self, now: float) -> list[Command]:
        state, self._state, self._deadline = self._state, _State.ENDED, None
        self._held.clear()
        return [] if state in (_State.NEW, _State.ENDED) else [Retire(0)]

    # Upstream

    def upstream_ready(self, connection: int, text: str, now: float) -> list[Command]:
        commands: list[Command] = [SendClient(dump(parse_object(text)))]
        commands += [SendUpstream(0, held) for held in self._held]
        self._held.clear()
        self._held_audio = 0
        if self._state is _State.OPENING:
            self._state = _State.LIVE
        return commands

    def upstream_text(self, connection: int, text: str, now: float) -> list[Command]:
        if self._state is _State.ENDED:
            return []
        try:
            message = parse_stt(text)
        except GatewayError:
            self.counts["unreadable_upstream_message"] += 1
            return []
        match message:
            case Transcript():
                return self._transcript(message)
            case Failure(error):
                return [tell(error)]
            case Ready():
                self.counts["extra_ready"] += 1
                return []
            case Other(raw):
                return [SendClient(dump(raw))]

    def upstream_binary(self, connection: int, data: bytes, now: float) -> list[Command]:
        self.counts["unexpected_upstream_binary"] += 1
        return []

    def upstream_lost(self, connection: int, error: GatewayError, now: float) -> list[Command]:
        if self._state is _State.ENDED:
            return []
        if self._state is _State.CLOSING and closed_cleanly(error):
            return self._end(1000)
        return self._fail(error, hang_up=False)

    def wake(self, now: float) -> list[Command]:
        if self._deadline is None or now < self._deadline:
            return []
        if self._state is _State.NEW:
            return self._fail(init_overdue(self._options.init_timeout))
        if self._state is _State.CLOSING:
            return [Retire(0), *self._end(1000)]
        self._deadline = None
        return []

    # What follows

    def _init(self, message: dict[str, Any], now: float) -> list[Command]:
        if self._state is not _State.NEW:
            raise second_init()
        config = check_init(message)
        if (config.get("encoding") or "linear16").lower() == "linear16":
            self._bytes_per_second = 2 * (config.get("sample_rate") or _DEFAULT_SAMPLE_RATE)
        else:
            self._bytes_per_second = _COMPRESSED_BYTES_PER_SECOND
        self._state = _State.OPENING
        self._deadline = None
        return [Dial(0, dump(message))]

    def _close(self, now: float) -> list[Command]:
        if self._state is _State.NEW:
            return self._end(1000)
        commands = self._send(dump({"type": "close"}))
        self._state = _State.CLOSING
        self._deadline = now + self._options.close_timeout
        return commands

    def _send(self, text: str) -> list[Command]:
        if self._state is _State.LIVE:
            return [SendUpstream(0, text)]
        self._held.append(text)
        return []

    def _hold_audio(self, data: bytes) -> list[Command]:
        self._held.append(data)
        self._held_audio += len(data)
        limit = int(self._options.replay_seconds * self._bytes_per_second)
        if self._held_audio <= limit:
            return []
        controls: list[str] = []
        while self._held_audio > limit:
            item = self._held.popleft()
            if isinstance(item, bytes):
                self._held_audio -= len(item)
                self.counts["audio_overflow_bytes"] += len(item)
            else:
                controls.append(item)
        self._held.extendleft(reversed(controls))
        if self._overflowed:
            return []
        self._overflowed = True
        return [
            tell(
                GatewayError(
                    "audio_overflow",
                    f"Upstream is not ready and more than {self._options.replay_seconds:g} s of audio wait for it; the "
                    "oldest is given up.",
                    fatal=False,
                )
            )
        ]

    def _transcript(self, message: Transcript) -> list[Command]:
        answers = message.final and self._finalizes > 0 and message.from_finalize is not False
        if answers:
            self._finalizes -= 1
        frame = message.raw
        if self._is_unsure(message):
            self.counts["dropped_finals" if message.final else "dropped_partials"] += 1
            if not message.final:
                return []
            # Somebody may wait for this final: its words are dropped, not the answer.
            frame = {"type": "final_transcript", "transcript": "", "confidence": message.confidence}
        if answers:
            frame = {**frame, "from_finalize": True}
        return [SendClient(dump(frame))]

    def _is_unsure(self, message: Transcript) -> bool:
        scope = self._options.confidence_scope
        if scope == "off" or (scope == "partials" and message.final) or message.confidence is None:
            return False
        return message.confidence < self._options.confidence_threshold

    def _fail(self, error: GatewayError, *, hang_up: bool = True) -> list[Command]:
        connected = self._state not in (_State.NEW, _State.ENDED)
        self._state, self._deadline = _State.ENDED, None
        return [*([Retire(0)] if connected and hang_up else []), *end_with(error)]

    def _end(self, code: int) -> list[Command]:
        self._state, self._deadline = _State.ENDED, None
        return [CloseClient(code, "")]
