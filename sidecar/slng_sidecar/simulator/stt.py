"""The STT bridge: audio in, partials and finals out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slng_sidecar.engines.interface import RecognizedWord
from slng_sidecar.engines.recognizers import RecognizedUtterance, Recognizer, mean_confidence
from slng_sidecar.engines.selection import LanguageUnsupported
from slng_sidecar.engines.workers import WorkerFailed
from slng_sidecar.protocol.messages import type_of
from slng_sidecar.simulator.connection import SimulatedConnection

ENCODINGS = ("linear16", "mp3", "opus")
"""The encodings that SLNG accepts for STT, which do not include mu-law and A-law."""

_MIN_RATE, _MAX_RATE = 8000, 48_000
_DEFAULT_RATE = 16_000
_MAX_WAITING = 256
_TO_TEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMERALS = {word: str(number) for number, word in enumerate(_TO_TEN)}


@dataclass(frozen=True, slots=True)
class _Final:
    """A final, or several of one utterance, to be sent.

    Attributes:
        utterance: what it transcribes; None for an empty final.
        due: when, on the loop's clock.
        from_finalize: whether it answers a finalize.
        closes: whether the connection is closed after it.
    """

    utterance: RecognizedUtterance | None
    due: float
    from_finalize: bool = False
    closes: bool = False


class SttSession:
    """One connection of the STT bridge."""

    def __init__(
        self, connection: SimulatedConnection, tasks: asyncio.TaskGroup, *, refused: tuple[str, str] | None = None
    ) -> None:
        """Start the session. ``refused`` is the code and the message of an error that is sent instead of ``ready``."""
        self._connection = connection
        self._tasks = tasks
        self._refused = refused
        self._recognizer: Recognizer | None = None
        self._ready = False
        self._bytes_a_ms = 0.0
        self._language: str | None = None
        self._partials_wanted = False
        self._partial_at_ms = 0.0
        self._partial: asyncio.Task[None] | None = None
        self._said = ""
        self._utterance = 0
        self._finals: asyncio.Queue[_Final] = asyncio.Queue(_MAX_WAITING)
        tasks.create_task(self._send_finals(), name="simulator: finals")

    async def on_message(self, message: dict[str, Any]) -> None:
        """Handle a text message."""
        match type_of(message):
            case "init":
                await self._init(message)
            case "audio":
                await self._connection.send_error("invalid_request", "Send audio as binary messages.")
            case "finalize":
                await self._finalize()
            case "close" | "stop":
                await self._close()

    async def on_binary(self, data: bytes) -> None:
        """Handle audio."""
        connection = self._connection
        if not self._ready or self._recognizer is None:
            await connection.close(1008, "audio before ready")
        elif data:
            for utterance in self._recognizer.feed(data):
                self._utterance += 1
                await self._finals.put(_Final(utterance, self._due()))
            await connection.audio_moment(connection.record.audio_in / self._bytes_a_ms)
            self._maybe_send_partial(self._recognizer)

    async def _init(self, message: dict[str, Any]) -> None:
        connection, profile = self._connection, self._connection.profile
        if self._recognizer is not None:
            return
        if self._refused:
            await connection.send_error(*self._refused)
            return
        given = message.get("config")
        config = given if isinstance(given, dict) else {}
        encoding = config.get("encoding", "linear16")
        rate = config.get("sample_rate", _DEFAULT_RATE)
        if encoding not in ENCODINGS:
            text = f"encoding {encoding!r} is not supported; it is one of {', '.join(ENCODINGS)}"
            if profile.bad_encoding == "close":
                await connection.close(1008, text)
            await connection.send_error("config_error", text)
            return
        if isinstance(rate, bool) or not isinstance(rate, int) or not _MIN_RATE <= rate <= _MAX_RATE:
            await connection.send_error("config_error", f"sample_rate is {_MIN_RATE} to {_MAX_RATE}, not {rate!r}")
            return
        self._language = config.get("language") if isinstance(config.get("language"), str) else None
        if profile.languages and self._language and self._language not in profile.languages.split(","):
            await connection.close(1008, f"language {self._language} is not supported")
        self._partials_wanted = bool(config.get("enable_partials") or config.get("enable_partial_transcripts"))
        # The length of compressed audio is unknown: a message counts as 20 ms, the usual length of its frames.
        self._bytes_a_ms = rate / 500
        pcm_rate = rate if encoding == "linear16" else None
        try:
            self._recognizer = connection.simulator.recognizer(
                connection.model, self._language, pcm_rate, profile.endpoint_ms
            )
        except LanguageUnsupported as error:
            await connection.send_error("config_error", str(error))
            return
        # The connection is read on meanwhile, because audio before ready is a violation.
        self._tasks.create_task(self._become_ready(), name="simulator: ready")

    async def _become_ready(self) -> None:
        connection = self._connection
        self._ready = await connection.become_ready()
        if self._ready:
            if connection.profile.results:
                await connection.send({"type": "Metadata", "request_id": f"r-{connection.record.id}"})
            await connection.moment("ready")

    async def _finalize(self) -> None:
        profile = self._connection.profile
        if self._recognizer is None or not self._ready:
            return
        if profile.stray_final:
            await self._send_final([RecognizedWord(profile.stray_final, 0, 0)], from_finalize=False, times=False)
        if profile.finalize_answer == "none":
            return
        if profile.finalize_answer == "empty":
            await self._finals.put(_Final(None, self._due(), from_finalize=True))
            return
        utterance = self._recognizer.finish()
        if utterance is None and profile.empty_finalize == "ignore":
            return
        self._utterance += 1
        await self._finals.put(_Final(utterance, self._due(), from_finalize=True))

    async def _close(self) -> None:
        if self._connection.profile.close_answer == "ignore":
            return
        utterance = self._recognizer.finish(last=True) if self._recognizer else None
        await self._finals.put(_Final(utterance, self._due() if utterance else 0, closes=True))

    def _due(self) -> float:
        return self._connection.loop.time() + self._connection.profile.final_ms / 1000

    # Finals

    async def _send_finals(self) -> None:
        connection = self._connection
        while True:
            final = await self._finals.get()
            try:
                words = await self._recognizer.words(final.utterance) if self._recognizer and final.utterance else ()
            except WorkerFailed as error:
                await connection.send_error("provider_error", str(error))
                words = ()
            await connection.sleep_until(final.due)
            if final.utterance or not final.closes:
                await self._send_utterance(words, from_finalize=final.from_finalize)
            if final.closes:
                await connection.close(connection.profile.close_code)

    async def _send_utterance(self, words: Sequence[RecognizedWord], *, from_finalize: bool) -> None:
        connection, profile = self._connection, self._connection.profile
        if not words and not from_finalize:
            return
        count = max(1, min(profile.finals, len(words)))
        for part in range(count):
            part_words = words[part * len(words) // count : (part + 1) * len(words) // count]
            await connection.moment("final")
            await self._send_final(part_words, from_finalize=from_finalize and part == count - 1, times=profile.words)
        if profile.utterance_end and words:
            await connection.send({"type": "utterance_end", "last_word_end": words[-1].end})

    async def _send_final(self, words: Sequence[RecognizedWord], *, from_finalize: bool, times: bool) -> None:
        profile = self._connection.profile
        fields = self._fields(words)
        if times and words:
            fields["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in words]
            fields["duration"] = round(words[-1].end - words[0].start, 3)
        if self._language:
            fields["language"] = self._language
        if profile.results:
            await self._connection.send(_results(fields, final=True, from_finalize=from_finalize))
        else:
            answers = {"from_finalize": from_finalize} if profile.from_finalize else {}
            await self._connection.send({"type": "final_transcript", **fields, **answers})
        self._said = ""

    def _fields(self, words: Sequence[RecognizedWord]) -> dict[str, Any]:
        profile = self._connection.profile
        texts = (_NUMERALS.get(word.text.lower(), word.text) if profile.numerals else word.text for word in words)
        fields: dict[str, Any] = {"transcript": " ".join(texts)}
        if words and profile.confidence is not None:
            score = mean_confidence(words)
            fields["confidence"] = profile.confidence if score is None else score
        return fields

    # Partials

    def _maybe_send_partial(self, recognizer: Recognizer) -> None:
        profile = self._connection.profile
        wanted = self._partials_wanted and profile.partials
        if not wanted or recognizer.position_ms < self._partial_at_ms or self._partial is not None:
            return
        if not recognizer.is_free or (partial := recognizer.partial()) is None:
            return
        self._partial_at_ms = recognizer.position_ms + profile.partial_every_ms
        self._partial = self._tasks.create_task(self._send_partial(recognizer, partial), name="simulator: partial")

    async def _send_partial(self, recognizer: Recognizer, partial: RecognizedUtterance) -> None:
        connection, utterance = self._connection, self._utterance
        try:
            words = await recognizer.words(partial)
        except WorkerFailed:
            words = ()
        finally:
            self._partial = None
        fields = self._fields(words)
        # If the utterance has ended since, its final has these words.
        if words and utterance == self._utterance and fields["transcript"] != self._said:
            await connection.moment("partial")
            if connection.profile.results:
                if not self._said:
                    await connection.send({"type": "SpeechStarted", "timestamp": words[0].start})
                await connection.send(_results(fields, final=False, from_finalize=False))
            else:
                await connection.send({"type": "partial_transcript", **fields})
            self._said = fields["transcript"]


def _results(fields: dict[str, Any], *, final: bool, from_finalize: bool) -> dict[str, Any]:
    """Return a transcript in Deepgram's own form."""
    alternative = {"confidence": 0.0, "words": [], **fields}
    alternative.pop("duration", None)
    alternative.pop("language", None)
    words = alternative["words"]
    return {
        "type": "Results",
        "channel_index": [0, 1],
        "start": words[0]["start"] if words else 0.0,
        "duration": fields.get("duration", 0.0),
        "is_final": final,
        "speech_final": final,
        "from_finalize": from_finalize,
        "channel": {"alternatives": [alternative]},
    }
