"""Recognizes what SLNG's HTTP bridge returned from its bytes, because its label and its lengths are unreliable."""

from __future__ import annotations

from slng_sidecar.audio.wav_reader import UnreadableAudio, WavReader

_SIGNATURES = (
    (0, b"ID3", "MP3"),
    (0, b"OggS", "Ogg"),
    (0, b"fLaC", "FLAC"),
    (0, b"RIFX", "a big-endian WAV file"),
    (0, b"FORM", "AIFF"),
    (0, b"\x1aE\xdf\xa3", "WebM"),
    (4, b"ftyp", "MP4"),
)
# Formats without a signature of their own are recognized by these media types only.
_TYPES = {
    "audio/mpeg": "MP3", "audio/mp3": "MP3", "audio/ogg": "Ogg", "audio/opus": "Opus", "audio/flac": "FLAC",
    "audio/aac": "AAC", "audio/webm": "WebM", "audio/mp4": "MP4", "application/json": "JSON",
}  # fmt: skip
# Only these media types are quoted. Anything else in the header may be secret.
_TEXTS = frozenset({"text/html", "text/plain", "text/xml", "text/csv", "text/event-stream"})
_ENOUGH = 12

# MPEG audio headers (ISO/IEC 11172-3 and 13818-3): bit rates in kbit/s and sample rates in Hz.
_BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class SniffingReader:
    """Reads a body whose kind its first bytes tell: a WAV file, or 16-bit mono PCM without a header.

    Attributes:
        sample_rate: of the samples that ``feed`` returns, in Hz; the expected rate until the real one is known.
    """

    def __init__(self, content_type: str = "", sample_rate: int = 24_000) -> None:
        """Create a reader.

        Args:
            content_type: the body's label.
            sample_rate: of samples without a header, in Hz.
        """
        self.sample_rate = sample_rate
        self._type = content_type.partition(";")[0].strip().lower()
        self._waiting = bytearray()
        self._wav: WavReader | None = None
        self._decided = False

    def feed(self, data: bytes) -> bytes:
        """Read the next bytes, and return the 16-bit mono samples that they complete.

        Raises:
            UnreadableAudio: the body is neither of the two. The text says what came.
        """
        if not self._decided:
            self._waiting += data
            if not self._decide(last=False):
                return b""
            data = bytes(self._waiting)
            self._waiting.clear()
        return self._samples(data)

    def end(self) -> bytes:
        """End the body, and return the samples that are left.

        Raises:
            UnreadableAudio: the body is neither of the two, or shorter than its header says.
        """
        left = b""
        if not self._decided and self._waiting:
            self._decide(last=True)
            data = bytes(self._waiting)
            self._waiting.clear()
            left = self._samples(data)
        if self._wav is not None:
            self._wav.end()
            if self._wav.missing:
                raise UnreadableAudio(f"a WAV file that ends {self._wav.missing:,} bytes before its end")
        return left

    def _samples(self, data: bytes) -> bytes:
        if self._wav is not None:
            samples = self._wav.feed(data)
            self.sample_rate = self._wav.sample_rate or self.sample_rate
            return samples
        self._waiting += data
        whole = len(self._waiting) & ~1
        samples = bytes(memoryview(self._waiting)[:whole])
        del self._waiting[:whole]
        return samples

    def _decide(self, *, last: bool) -> bool:
        """Return whether enough bytes came to know the kind."""
        head = self._waiting
        if not last and len(head) < _ENOUGH:
            return False
        if head.startswith((b"RIFF", b"RF64")):
            self._wav = WavReader()
        else:
            self._refuse_others()
            if (second := _next_mp3_frame(head, 0)) is not None:
                if len(head) < second + 4 and not last:
                    return False
                if _next_mp3_frame(head, second) is not None and _same_stream(head, second):
                    raise UnreadableAudio("MP3")
            if last and len(head) < 4 and b"RIFF".startswith(bytes(head)):
                raise UnreadableAudio("a WAV file that ends within its header")
        self._decided = True
        return True

    def _refuse_others(self) -> None:
        for at, signature, name in _SIGNATURES:
            if self._waiting[at : at + len(signature)] == signature:
                raise UnreadableAudio(name)
        if self._type in _TYPES:
            raise UnreadableAudio(_TYPES[self._type])
        if self._type.startswith("text/"):
            raise UnreadableAudio(f"a text ({self._type})" if self._type in _TEXTS else "a text")


def _same_stream(data: bytes | bytearray, second: int) -> bool:
    """Return whether two MPEG headers share their version, layer and sample rate."""
    return (data[1] ^ data[second + 1]) & 0x1E == 0 and (data[2] ^ data[second + 2]) & 0x0C == 0


def _next_mp3_frame(data: bytes | bytearray, at: int) -> int | None:
    """Return where the MPEG audio frame that begins at ``at`` ends; None if none begins there.

    Quiet PCM begins with ``FF FF`` as well, which looks like a header of layer I but has no valid bit rate.
    """
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bitrate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    bits_a_second = 1000 * _BITRATES[1 if version == 3 else 2, layer][bitrate]
    sample_rate = _SAMPLE_RATES[version][rate]
    if layer == 1:
        return at + (12 * bits_a_second // sample_rate + padding) * 4
    return at + (72 if layer == 3 and version != 3 else 144) * bits_a_second // sample_rate + padding
