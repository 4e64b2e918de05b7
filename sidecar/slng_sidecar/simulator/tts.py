"""The TTS bridge: text in, audio and terminals out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from slng_sidecar.engines.pcm import ENCODINGS, encode
from slng_sidecar.engines.selection import LanguageUnsupported
from slng_sidecar.engines.synthesizers import Synthesizer
from slng_sidecar.engines.workers import WorkerFailed
from slng_sidecar.protocol.messages import type_of
from slng_sidecar.simulator.connection import SimulatedConnection

RATES = (8000, 16_000, 22_050, 24_000, 32_000, 48_000)
"""The sample rates that SLNG documents."""

_DEFAULT_RATE = 24_000
_MAX_WAITING = 1000


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    arrived: float


@dataclass(frozen=True, slots=True)
class _Flush:
    pass


@dataclass(frozen=True, slots=True)
class _Clear:
    due: float
    answered: bool


@dataclass(frozen=True, slots=True)
class _Expired:
    pass


class TtsSession:
    """One connection of the TTS bridge. One task handles texts, flushes and clears in their order."""

    def __init__(
        self, connection: SimulatedConnection, tasks: asyncio.TaskGroup, *, refused: tuple[str, str] | None = None
    ) -> None:
        """Start the session. ``refused`` is the code and the message of an error that is sent instead of ``ready``."""
        self._connection = connection
        self._tasks = tasks
        self._refused = refused
        self._synthesizer: Synthesizer | None = None
        self._encoding, self._rate = "linear16", _DEFAULT_RATE
        self._initialized = False
        self._ready = asyncio.Event()
        self._waiting: asyncio.Queue[_Text | _Flush | _Clear | _Expired] = asyncio.Queue(_MAX_WAITING)
        self._cleared = asyncio.Event()
        self._clear_due = 0.0
        self._texts_unflushed = 0
        # Written by the speaking task only:
        self._turn = 0
        self._in_turn = False
        self._hangs = False
        self._spent = False
        self._turn_bytes = 0
        self._audio_until = 0.0
        self._segment = 0
        self._sequence = 0
        self._output_at = connection.loop.time()
        self._unsent = b""
        tasks.create_task(self._speak(), name="simulator: speak")
        tasks.create_task(self._watch_expiry(), name="simulator: expiry")

    async def on_message(self, message: dict[str, Any]) -> None:
        """Handle a text message."""
        kind = type_of(message)
        if kind in ("text", "flush") and not self._initialized:
            await self._connection.send_error("invalid_request", f"'{kind}' came before 'init'")
            return
        match kind:
            case "init":
                await self._init(message)
            case "text":
                await self._text(message)
            case "flush":
                await self._flush()
            case "clear":
                await self._clear(answered=True)
            case "cancel":
                await self._clear(answered=False)
            case "close" if self._connection.profile.close_answer == "close":
                await self._connection.close(self._connection.profile.close_code)

    async def on_binary(self, data: bytes) -> None:
        """Handle a binary message, which the bridge does not expect."""
        match self._connection.profile.binary:
            case "error":
                await self._connection.send_error("invalid_request", "This bridge takes no binary messages.")
            case "close":
                await self._connection.close(1003, "no binary messages here")

    async def _init(self, message: dict[str, Any]) -> None:
        connection, profile = self._connection, self._connection.profile
        if self._initialized:
            return
        if self._refused:
            await connection.send_error(*self._refused)
            return
        given = message.get("config")
        config = given if isinstance(given, dict) else {}
        encoding = config.get("encoding", profile.default_encoding)
        rate = config.get("sample_rate", _DEFAULT_RATE)
        if encoding not in ENCODINGS:
            text = f"the simulator supports {', '.join(ENCODINGS)}, not {encoding!r}"
            await connection.send_error("config_error", text)
            return
        if rate not in RATES:
            text = f"sample_rate is one of {', '.join(map(str, RATES))}, not {rate!r}"
            await connection.send_error("config_error", text)
            return
        if await self._unknown_dictionary(config.get("pronunciation")):
            return
        language, voice = config.get("language", message.get("language")), message.get("voice")
        try:
            self._synthesizer = connection.simulator.synthesizer(
                connection.model,
                language if isinstance(language, str) else None,
                voice if isinstance(voice, str) else None,
            )
        except LanguageUnsupported as error:
            await connection.send_error("config_error", str(error))
            return
        self._encoding, self._rate = encoding, int(rate)
        self._initialized = True
        # The connection is read on meanwhile, because text before ready is accepted and spoken.
        self._tasks.create_task(self._become_ready(), name="simulator: ready")

    async def _become_ready(self) -> None:
        if await self._connection.become_ready():
            self._ready.set()
            await self._connection.moment("ready")

    async def _text(self, message: dict[str, Any]) -> None:
        connection, profile = self._connection, self._connection.profile
        text = message.get("text")
        if not isinstance(text, str):
            await connection.send_error("invalid_request", "'text' takes a text")
            return
        if await self._unknown_dictionary(message.get("pronunciation")):
            return
        if profile.letterless == "refuse" and text.strip() and not any(map(str.isalnum, text)):
            await connection.send_error("config_error", "the text has no letter of a supported language")
            return
        self._texts_unflushed += 1
        await self._waiting.put(_Text(text, connection.loop.time()))
        if message.get("flush") is True and profile.flush != "standalone":
            self._texts_unflushed = 0
            await self._waiting.put(_Flush())

    async def _flush(self) -> None:
        profile = self._connection.profile
        if profile.flush == "inline":
            return
        if self._texts_unflushed:
            self._texts_unflushed = 0
            await self._waiting.put(_Flush())
            return
        match profile.empty_flush:
            case "terminal":
                await self._waiting.put(_Flush())
            case "error":
                await self._connection.send_error("invalid_request", "'flush' without text")

    async def _clear(self, *, answered: bool) -> None:
        connection = self._connection
        owed = []
        while not self._waiting.empty():
            # Answers to earlier clears are still owed; everything else that waits is dropped.
            if isinstance(waiting := self._waiting.get_nowait(), _Clear):
                owed.append(waiting)
        self._texts_unflushed = 0
        due = connection.loop.time() + (connection.profile.clear_ms / 1000 if answered else 0)
        if not self._cleared.is_set():
            self._clear_due = due
            self._cleared.set()
        for clear in (*owed, _Clear(due, answered)):
            await self._waiting.put(clear)

    async def _unknown_dictionary(self, pronunciation: object) -> bool:
        if not isinstance(pronunciation, dict):
            return False
        name = pronunciation.get("name") or pronunciation.get("dictionary_id")
        if name not in (None, "unknown"):
            return False
        await self._connection.send_error("pronunciation_not_found", f"there is no pronunciation dictionary {name!r}")
        return True

    # Speaking

    async def _speak(self) -> None:
        await self._ready.wait()
        while True:
            item = await self._waiting.get()
            match item:
                case _Clear():
                    await self._connection.sleep_until(item.due)
                    if item.answered:
                        await self._answer_clear()
                case _Expired():
                    await self._connection.send_error("", "session expired: no output", shape="message")
                case _Text() if self._spent:
                    await self._refuse_spent(item)
                case _Text():
                    await self._say(item)
                case _Flush() if not self._spent:
                    await self._end_turn()
            self._interrupted_turn()

    def _interrupted_turn(self) -> None:
        """End the turn that a clear interrupted."""
        if not self._cleared.is_set():
            return
        self._cleared.clear()
        if self._in_turn and self._connection.profile.clear_spends:
            self._spent = True
        self._in_turn = self._hangs = False

    async def _refuse_spent(self, item: _Text) -> None:
        connection = self._connection
        await self._wait_until(item.arrived + connection.profile.spent_ms / 1000)
        message = f"Stream {connection.record.id} not found. Send a start message first."
        await connection.send_error("provider_error", message)

    async def _say(self, item: _Text) -> None:
        connection, profile = self._connection, self._connection.profile
        first = not self._in_turn
        if first:
            self._turn += 1
            self._in_turn = True
            self._turn_bytes = 0
            self._audio_until = max(self._audio_until, item.arrived + profile.first_audio_ms / 1000)
        if not any(map(str.isalnum, item.text)):
            self._hangs = self._hangs or profile.letterless == "hang"
            return
        if profile.silent:
            return
        assert self._synthesizer is not None
        self._segment += 1
        segment = {"segment_id": f"g-{self._segment}"}
        begun = False
        try:
            async with contextlib.aclosing(self._synthesizer.synthesize(item.text, self._rate)) as pieces:
                while (piece := await self._unless_cleared(anext(pieces, None))) is not None:
                    if not begun and profile.zero_length and first:
                        await connection.send_audio(b"")
                    if not begun and profile.segments:
                        await connection.send({"type": "segment_start", **segment})
                    begun = True
                    await self._play(encode(piece, self._encoding))
                    if self._cleared.is_set():
                        break
        except WorkerFailed as error:
            await connection.send_error("provider_error", str(error))
            return
        if begun and profile.segments:
            await connection.send({"type": "segment_end", **segment})
        if profile.segment_terminal and not self._cleared.is_set():
            await self._send_terminal()

    async def _unless_cleared(self, synthesis: Awaitable[bytes | None]) -> bytes | None:
        """Return the next piece of audio; None after the last one, or as soon as a clear comes."""
        next_piece = asyncio.ensure_future(synthesis)
        cleared = asyncio.ensure_future(self._cleared.wait())
        try:
            await asyncio.wait((next_piece, cleared), return_when=asyncio.FIRST_COMPLETED)
            return await next_piece if next_piece.done() else None
        finally:
            next_piece.cancel()
            cleared.cancel()
            await asyncio.wait((next_piece, cleared))

    async def _play(self, audio: bytes) -> None:
        """Send audio in real time. After a clear it goes on only until the answer is due, or not at all."""
        connection, profile = self._connection, self._connection.profile
        width = ENCODINGS[self._encoding]
        chunk = max(1, round(self._rate * profile.chunk_ms / 1000)) * width
        bytes_a_ms = self._rate * width / 1000
        begun = max(self._audio_until, connection.loop.time())
        for at in range(0, len(audio), chunk):
            if not profile.pace:
                await asyncio.sleep(0)
            ahead = at / bytes_a_ms / 1000 / profile.pace if profile.pace else 0
            await self._wait_until(begun + ahead)
            if self._cleared.is_set() and (not profile.clear_drains or connection.loop.time() >= self._clear_due):
                self._unsent = audio[at:]
                return
            await connection.audio_moment(self._turn_bytes / bytes_a_ms, self._turn)
            piece = audio[at : at + chunk]
            await self._send_audio(piece)
            self._turn_bytes += len(piece)
            self._output_at = connection.loop.time()
        await connection.audio_moment(self._turn_bytes / bytes_a_ms, self._turn)
        self._unsent = b""
        self._audio_until = begun + (len(audio) / bytes_a_ms / 1000 / profile.pace if profile.pace else 0)

    async def _wait_until(self, due: float) -> None:
        """Sleep until ``due``, or if a clear comes or has come, only until its answer is due."""
        loop = self._connection.loop
        if not self._cleared.is_set() and due > loop.time():
            try:
                async with asyncio.timeout_at(due):
                    await self._cleared.wait()
            except TimeoutError:
                return
        await self._connection.sleep_until(min(due, self._clear_due))

    async def _send_audio(self, data: bytes) -> None:
        connection = self._connection
        form = connection.profile.audio_form
        if form == "binary":
            await connection.send_audio(data)
            return
        encoded = base64.b64encode(data).decode()
        self._sequence += 1
        message: dict[str, Any]
        match form:
            case "audio_chunk":
                message = {"type": "audio_chunk", "data": encoded, "sequence": self._sequence}
            case "data.audio":
                message = {"type": "audio", "data": {"audio": encoded}}
            case "typeless":
                message = {"audio": encoded}
            case _:
                message = {"type": form, "audio": encoded}
        connection.record.audio_out += len(data)
        await connection.send(message)

    async def _end_turn(self) -> None:
        connection, profile = self._connection, self._connection.profile
        in_turn, self._in_turn = self._in_turn, False
        audio_until = max(self._audio_until if in_turn else 0, connection.loop.time())
        await self._wait_until(audio_until + profile.terminal_ms / 1000)
        if self._cleared.is_set() or self._hangs:
            self._in_turn = in_turn
            return
        await connection.moment("terminal")
        await self._send_terminal()
        self._output_at = connection.loop.time()
        if profile.stray_terminal_ms:
            due = connection.loop.time() + profile.stray_terminal_ms / 1000
            self._tasks.create_task(self._stray_terminal(due), name="simulator: stray terminal")
        if profile.after_turn == "spent":
            self._spent = True
        elif profile.after_turn == "close":
            await connection.sleep_until(connection.loop.time() + profile.after_turn_ms / 1000)
            await connection.close(1000)

    async def _stray_terminal(self, due: float) -> None:
        await self._connection.sleep_until(due)
        await self._send_terminal()

    async def _send_terminal(self) -> None:
        connection = self._connection
        seconds = self._turn_bytes / ENCODINGS[self._encoding] / self._rate
        for message in _TERMINALS[connection.profile.terminal](round(seconds, 3)):
            await connection.send(message)

    async def _answer_clear(self) -> None:
        connection, profile = self._connection, self._connection.profile
        if profile.clear_answer != "none":
            await connection.moment("cleared")
            await connection.send({"type": profile.clear_answer})
        self._output_at = connection.loop.time()
        if profile.late_audio_ms and self._unsent:
            count = round(self._rate * profile.late_audio_ms / 1000) * ENCODINGS[self._encoding]
            await self._send_audio(self._unsent[:count])
        self._unsent = b""

    async def _watch_expiry(self) -> None:
        loop = self._connection.loop
        expired_at = None
        while True:
            limit = self._connection.profile.expiry_s
            expired = self._output_at == expired_at
            due = (loop.time() if expired else self._output_at) + limit
            if limit and not expired and loop.time() >= due:
                expired_at = self._output_at
                await self._waiting.put(_Expired())
            await self._connection.nap(due if limit else None)


_Terminals = Callable[[float], list[dict[str, Any]]]
_TERMINALS: dict[str, _Terminals] = {
    "audio_end": lambda seconds: [{"type": "audio_end", "duration": seconds}],
    "flushed": lambda seconds: [{"type": "flushed"}],
    "both": lambda seconds: [{"type": "audio_end", "duration": seconds}, {"type": "flushed"}],
    "flushed_first": lambda seconds: [{"type": "flushed"}, {"type": "audio_end", "duration": seconds}],
    "twice": lambda seconds: [{"type": "audio_end", "duration": seconds}] * 2,
    "none": lambda seconds: [],
    "done": lambda seconds: [{"type": "done"}],
    "event": lambda seconds: [{"type": "event", "data": {"event_type": "final"}}],
    "is_final": lambda seconds: [{"isFinal": True}],
}
