"""Compressed audio, with FFmpeg's libraries. PyAV, which contains them, comes with the ``codecs`` extra only."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from slng_sidecar.audio.encoding import Encoder

if TYPE_CHECKING:
    import av

# For each format: FFmpeg's container and encoder, the bit rate, options of the container, and the sample rates in Hz
# that the encoder supports (none: any).
_RATES_OF_MP3 = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_RATES_OF_OPUS = (8_000, 12_000, 16_000, 24_000, 48_000)
_RATES_OF_AAC = (*_RATES_OF_MP3, 64_000, 88_200, 96_000)
_FORMATS: dict[str, tuple[str, str, int | None, dict[str, str], tuple[int, ...], str]] = {
    "mp3": ("mp3", "libmp3lame", 64_000, {"id3v2_version": "0"}, _RATES_OF_MP3, "audio/mpeg"),
    # One page each tenth of a second, because a page is sent only once it is full.
    "opus": ("ogg", "libopus", 32_000, {"page_duration": "100000"}, _RATES_OF_OPUS, "audio/ogg"),
    "flac": ("flac", "flac", None, {}, (), "audio/flac"),
    "aac": ("adts", "aac", 64_000, {}, _RATES_OF_AAC, "audio/aac"),
}
FORMATS = tuple(_FORMATS)
"""The formats that ``CodecEncoder`` writes."""


class CodecsMissing(Exception):
    """Raised when the ``codecs`` extra is needed but not installed."""


def load() -> Any:
    """Import PyAV and return it.

    Raises:
        CodecsMissing: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise CodecsMissing from None
    return av


def is_installed() -> bool:
    """Return whether compressed formats are supported."""
    try:
        load()
    except CodecsMissing:
        return False
    return True


class _Sink:
    """What FFmpeg writes to. It cannot seek, so FFmpeg corrects no header afterwards."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: Any) -> int:
        self._data += bytes(data)
        return len(data)

    def taken(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class CodecEncoder(Encoder):
    """Encodes 16-bit mono PCM as an MP3, Ogg Opus, FLAC or AAC (ADTS) file.

    FLAC and Opus keep the exact length. MP3 and AAC start and end with up to a frame of silence, which their streamed
    form cannot mark.
    """

    blocking = True

    def __init__(self, name: str) -> None:
        """Create an encoder.

        Raises:
            CodecsMissing: the ``codecs`` extra is not installed.
        """
        self._av = load()
        self._container_name, self._codec, self._bitrate, self._options, self._rates, self._type = _FORMATS[name]
        self._sink = _Sink()
        self._samples = 0
        self._odd = b""

    @override
    def sample_rate(self, wanted: int) -> int:
        return min((rate for rate in self._rates if rate >= wanted), default=max(self._rates, default=wanted))

    @override
    def media_type(self, sample_rate: int) -> str:
        return self._type

    @override
    def begin(self, sample_rate: int) -> bytes:
        self._container: av.container.OutputContainer = self._av.open(
            self._sink, "w", format=self._container_name, container_options=self._options
        )
        self._stream: Any = self._container.add_stream(self._codec, rate=sample_rate)
        self._stream.codec_context.layout = "mono"
        if self._bitrate is not None:
            self._stream.codec_context.bit_rate = self._bitrate
        self._rate = sample_rate
        return b""

    @override
    def encode(self, pcm: bytes) -> bytes:
        pcm = self._odd + pcm
        whole = len(pcm) & ~1
        self._odd = pcm[whole:]
        if whole:
            frame = self._av.AudioFrame(format="s16", layout="mono", samples=whole // 2)
            frame.planes[0].update(pcm[:whole])
            frame.sample_rate = self._rate
            frame.time_base = Fraction(1, self._rate)
            frame.pts = self._samples
            self._samples += whole // 2
            self._container.mux(self._stream.encode(frame))
        return self._sink.taken()

    @override
    def end(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.taken()
