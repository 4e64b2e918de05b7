"""What is asked of a transcription, and the shapes in which it is told: OpenAI's and SLNG's."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump
from slng_sidecar.sessions.http_transcription import TranscriptSegment

_ENCODINGS = {
    "linear16": "linear16", "pcm": "linear16", "pcm16": "linear16", "s16le": "linear16",
    "mulaw": "mulaw", "alaw": "alaw",
}  # fmt: skip
_TYPES = {
    "audio/pcm": "linear16", "audio/l16": "linear16",
    "audio/basic": "mulaw", "audio/pcmu": "mulaw", "audio/pcma": "alaw",
}  # fmt: skip
_DEFAULT_RATES = {"linear16": 16_000, "mulaw": 8_000, "alaw": 8_000}
_RATES = range(4_000, 192_001)


class TranscriptText:
    """The words so far, and no more of them than the reply shows: a long file has many.

    Attributes:
        segments, words: as they stand in the reply, each a JSON object; kept only where it shows them.
        dropped: what the confidence filter left out, likewise.
        language: what upstream took it for.
    """

    def __init__(self, *, segments: bool = False, words: bool = False) -> None:
        self.segments: list[str] = []
        self.words: list[str] = []
        self.dropped: list[str] = []
        self.language: str | None = None
        self._keeps_segments = segments
        self._keeps_words = words
        self._texts: list[str] = []
        self._scored = 0
        self._score = 0.0

    def add(self, segment: TranscriptSegment) -> str:
        """Add a final; give what it adds to the text."""
        if segment.is_dropped:
            if self._keeps_segments or self._keeps_words:
                self.dropped.append(dump({"text": segment.text, "confidence": segment.confidence}))
            return ""
        if not segment.text:
            return ""
        self.language = self.language or segment.language
        if segment.confidence is not None:
            self._scored += len(segment.text)
            self._score += len(segment.text) * segment.confidence
        if self._keeps_segments:
            self.segments.append(_segment_json(len(self.segments), segment))
        if self._keeps_words:
            self.words += map(_word_json, segment.words)
        self._texts.append(segment.text)
        return segment.text if len(self._texts) == 1 else f" {segment.text}"

    @property
    def text(self) -> str:
        return " ".join(self._texts)

    @property
    def confidence(self) -> float | None:
        """The mean of the finals' own, by their length."""
        return round(self._score / self._scored, 4) if self._scored else None


def _segment_json(number: int, segment: TranscriptSegment) -> str:
    start, end = (None if time is None else round(time, 3) for time in (segment.start, segment.end))
    return dump({"id": number, "start": start, "end": end, "text": segment.text, "confidence": segment.confidence})


def _word_json(word: dict[str, Any]) -> str:
    text = str(word.get("word", word.get("text", "")))
    return dump({"word": text, "start": round(word["start"], 3), "end": round(word["end"], 3)})


class TranscriptionOptions:
    """What is asked of one transcription, field by field.

    Mutable: all of it, by ``take``.

    Attributes:
        model: as the request names it.
        stream: whether the words come while they are recognised.
        ignored: the fields that nothing was done about.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.stream = False
        self.ignored: list[str] = []
        self.language: str | None = None
        self._encoding: str | None = None
        self._rate: int | None = None

    def take(self, name: str, value: str) -> None:
        """Take one field.

        Raises:
            GatewayError: the value cannot be had.
        """
        match name:
            case "language":
                self.language = value.strip() or None
            case "sample_rate":
                if not value.strip().isdecimal() or int(value) not in _RATES:
                    raise GatewayError(ErrorCode.CONFIG_ERROR, "sample_rate must be a number of Hz such as 16000.")
                self._rate = int(value)
            case "encoding" if value.strip():
                if value.strip().lower() not in _ENCODINGS:
                    known = ", ".join(dict.fromkeys(_ENCODINGS.values()))
                    raise GatewayError(
                        ErrorCode.CONFIG_ERROR,
                        f"encoding names headerless samples: {known}. A file with a header needs none.",
                    )
                self._encoding = _ENCODINGS[value.strip().lower()]
            case _:
                self.ignored.append(name)

    def check(self) -> None:
        """Refuse what does not go together."""

    def config(self) -> dict[str, Any]:
        """Give the config of the session, without what describes the sound."""
        config: dict[str, Any] = {"enable_partials": False}
        return {**config, "language": self.language} if self.language else config

    def headerless(self, content_type: str) -> tuple[str | None, int]:
        """Give the encoding and rate of a file without a header; no encoding where it has one."""
        kind, _, parameters = content_type.partition(";")
        encoding = self._encoding or _TYPES.get(kind.strip().lower())
        rate = self._rate
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if rate is None and name.strip().lower() == "rate" and value.strip().isdecimal() and int(value) in _RATES:
                rate = int(value)
        return encoding, rate or _DEFAULT_RATES.get(encoding or "", 16_000)

    def transcript(self) -> TranscriptText:
        """Give what keeps as much as the reply shows."""
        return TranscriptText()

    def render(self, transcript: TranscriptText, seconds: float) -> tuple[str, bytes]:
        """Give the reply's Content-Type and body."""
        raise NotImplementedError


class SlngOptions(TranscriptionOptions):
    """SLNG's shape."""

    def render(self, transcript: TranscriptText, seconds: float) -> tuple[str, bytes]:
        alternative = {"transcript": transcript.text, "confidence": transcript.confidence}
        reply = {
            "type": "transcription",
            "is_final": True,
            "alternatives": [alternative],
            "channel": 0,
            "language": transcript.language or self.language,
            "duration": round(seconds, 3),
        }
        return "application/json", dump(reply).encode()


class OpenAIOptions(TranscriptionOptions):
    """OpenAI's shape."""

    def __init__(self) -> None:
        super().__init__()
        self._format = "json"
        self._granularities: set[str] = set()

    def take(self, name: str, value: str) -> None:
        match name:
            case "model":
                self.model = value.strip() or None
            case "response_format":
                if value not in ("json", "text", "verbose_json"):
                    raise GatewayError(
                        ErrorCode.CONFIG_ERROR, f"response_format is json, text or verbose_json, not {value[:40]!r}."
                    )
                self._format = value
            case "stream":
                self.stream = value.strip().lower() in ("true", "1")
            case "timestamp_granularities[]" | "timestamp_granularities":
                if value not in ("word", "segment"):
                    raise GatewayError(
                        ErrorCode.CONFIG_ERROR, f"timestamp_granularities are word and segment, not {value[:40]!r}."
                    )
                self._granularities.add(value)
            case _:
                super().take(name, value)

    def check(self) -> None:
        if self.stream and self._format == "verbose_json":
            raise GatewayError(
                ErrorCode.CONFIG_ERROR, "stream gives the text only: take response_format json or text with it."
            )

    def render(self, transcript: TranscriptText, seconds: float) -> tuple[str, bytes]:
        match self._format:
            case "text":
                return "text/plain; charset=utf-8", f"{transcript.text}\n".encode()
            case "verbose_json":
                return "application/json", self._verbose(transcript, seconds)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        return "application/json", dump({"text": transcript.text, "usage": usage}).encode()

    def transcript(self) -> TranscriptText:
        if self._format != "verbose_json":
            return TranscriptText()
        return TranscriptText(
            segments=not self._granularities or "segment" in self._granularities, words="word" in self._granularities
        )

    def _verbose(self, transcript: TranscriptText, seconds: float) -> bytes:
        reply: dict[str, Any] = {
            "task": "transcribe",
            "language": transcript.language or self.language or "",
            "duration": round(seconds, 3),
            "text": transcript.text,
        }
        lists = {"segments": transcript.segments, "words": transcript.words, "dropped": transcript.dropped}
        shown = {"segments"} if not self._granularities else {f"{name}s" for name in self._granularities}
        parts = [f'"{name}":[{",".join(items)}]' for name, items in lists.items() if items or name in shown]
        return ",".join([dump(reply)[:-1], *parts]).encode() + b"}"
