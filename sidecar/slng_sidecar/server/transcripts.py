"""The options of a transcription, and the forms of its reply: OpenAI's and SLNG's."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

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
    """Collects a transcript, and no more of it than the reply needs, because a long file has many words.

    Attributes:
        segments: the segments in the reply's form, each a JSON object; kept only if the reply shows them.
        words: the words, likewise.
        dropped: what the confidence filter dropped, likewise.
        language: the language that upstream recognized.
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
        """Add a final, and return what it adds to the text."""
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
        """The text so far."""
        return " ".join(self._texts)

    @property
    def confidence(self) -> float | None:
        """The mean confidence of the finals, weighted by their length."""
        return round(self._score / self._scored, 4) if self._scored else None


def _segment_json(number: int, segment: TranscriptSegment) -> str:
    start, end = (None if time is None else round(time, 3) for time in (segment.start, segment.end))
    return dump({"id": number, "start": start, "end": end, "text": segment.text, "confidence": segment.confidence})


def _word_json(word: dict[str, Any]) -> str:
    text = str(word.get("word", word.get("text", "")))
    return dump({"word": text, "start": round(word["start"], 3), "end": round(word["end"], 3)})


class TranscriptionOptions:
    """Collects what a request asks for, field by field.

    Mutable: all of it, by ``take``.

    Attributes:
        model: the model as the request names it.
        stream: whether the transcript is sent while it is recognized.
        ignored: the fields that were ignored.
        language: the language of the speech.
    """

    def __init__(self) -> None:
        self.model: str | None = None
        self.stream = False
        self.ignored: list[str] = []
        self.language: str | None = None
        self._encoding: str | None = None
        self._rate: int | None = None

    def take(self, name: str, value: str) -> None:
        """Set one field.

        Raises:
            GatewayError: the field cannot have that value.
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
                        f"encoding must be one of {known}, for samples without a header only.",
                    )
                self._encoding = _ENCODINGS[value.strip().lower()]
            case _:
                self.ignored.append(name)

    def check(self) -> None:
        """Check that the fields can be combined.

        Raises:
            GatewayError: they cannot.
        """

    def config(self) -> dict[str, Any]:
        """Return the config of the session, without the fields that describe the audio."""
        config: dict[str, Any] = {"enable_partials": False}
        return {**config, "language": self.language} if self.language else config

    def headerless(self, content_type: str) -> tuple[str | None, int]:
        """Return the encoding and the rate of samples without a header. The encoding is None if the file has one."""
        kind, _, parameters = content_type.partition(";")
        encoding = self._encoding or _TYPES.get(kind.strip().lower())
        rate = self._rate
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if rate is None and name.strip().lower() == "rate" and value.strip().isdecimal() and int(value) in _RATES:
                rate = int(value)
        return encoding, rate or _DEFAULT_RATES.get(encoding or "", 16_000)

    def transcript(self) -> TranscriptText:
        """Return an empty transcript that keeps what the reply needs."""
        return TranscriptText()

    def render(self, transcript: TranscriptText, seconds: float) -> tuple[str, bytes]:
        """Return the Content-Type and the body of the reply."""
        raise NotImplementedError


class SlngOptions(TranscriptionOptions):
    """The options and the reply in SLNG's form."""

    @override
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
    """The options and the reply in OpenAI's form."""

    def __init__(self) -> None:
        super().__init__()
        self._format = "json"
        self._granularities: set[str] = set()

    @override
    def take(self, name: str, value: str) -> None:
        match name:
            case "model":
                self.model = value.strip() or None
            case "response_format":
                if value not in ("json", "text", "verbose_json"):
                    raise GatewayError(
                        ErrorCode.CONFIG_ERROR,
                        f"response_format must be json, text or verbose_json, not {value[:40]!r}.",
                    )
                self._format = value
            case "stream":
                self.stream = value.strip().lower() in ("true", "1")
            case "timestamp_granularities[]" | "timestamp_granularities":
                if value not in ("word", "segment"):
                    raise GatewayError(
                        ErrorCode.CONFIG_ERROR, f"timestamp_granularities must be word or segment, not {value[:40]!r}."
                    )
                self._granularities.add(value)
            case _:
                super().take(name, value)

    @override
    def check(self) -> None:
        if self.stream and self._format == "verbose_json":
            raise GatewayError(
                ErrorCode.CONFIG_ERROR, "stream sends text only. Use response_format json or text with it."
            )

    @override
    def render(self, transcript: TranscriptText, seconds: float) -> tuple[str, bytes]:
        match self._format:
            case "text":
                return "text/plain; charset=utf-8", f"{transcript.text}\n".encode()
            case "verbose_json":
                return "application/json", self._verbose(transcript, seconds)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        return "application/json", dump({"text": transcript.text, "usage": usage}).encode()

    @override
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
