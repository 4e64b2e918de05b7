"""Reads WAV as it comes: bytes split anywhere to 16-bit mono PCM, or the reason why that is not possible.

Written against the RIFF and WAVE descriptions of Microsoft (``WAVEFORMATEXTENSIBLE``) and EBU Tech 3306 (RF64). The
reader does not rely on the lengths in headers, because a streaming writer cannot know them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from slng_sidecar.audio.samples import WIDTHS, Kind, SampleFormat, converter

FIRST_LIE = 0x7FFF_0000
"""Data sizes from this one on mean "to the end". SLNG's Aura route sends this one (2,147,418,112, recorded in September
2026); SoX and FFmpeg send larger ones when they write to a pipe."""

MAX_CHANNELS = 32
RATES = range(1000, 384_001)
"""The sample rates, in Hz, that count as credible."""

_KINDS: dict[int, Kind] = {1: "pcm", 3: "float", 6: "alaw", 7: "mulaw"}
_EXTENSIBLE = 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_OTHERS = {
    0x02: "MS ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x40: "G.721", 0x50: "MPEG audio", 0x55: "MP3", 0xFF: "AAC",
}  # fmt: skip
_FMT_BYTES = 40  # the part of a fmt chunk that matters
_DS64_BYTES = 16


class UnreadableAudio(ValueError):
    """Raised when bytes are not audio that can be read. The text says what they are instead."""


class WavReader:
    """Reads a WAV file that comes in pieces. It keeps no more bytes than a header or a sample needs.

    It supports PCM of 8, 16, 24 and 32 bits, float of 32 and 64 bits, mu-law and A-law, in RIFF and RF64. Several
    channels are averaged.

    Attributes:
        sample_rate: in Hz; 0 until it is known.
        form: how the samples are stored; None until that is known.
        missing: bytes that the header announces and that have not come; 0 if the header is not credible.
    """

    def __init__(self) -> None:
        self.sample_rate = 0
        self.form: SampleFormat | None = None
        self.missing = 0
        self._waiting = bytearray()
        self._next: Callable[[], bytes | None] = self._riff
        self._skipping = 0
        self._padded = False
        self._fmt_size = 0
        self._riff_left: int | None = (
            None  # bytes that RIFF's size leaves after those that were read, if it is credible
        )
        self._data_size: int | None = None  # from ds64
        self._known_size = False
        self._convert: Callable[[bytes], bytes] = bytes

    @property
    def in_data(self) -> bool:
        """Whether the samples have started."""
        return self._next in (self._data, self._after_data)

    def feed(self, data: bytes) -> bytes:
        """Parse the next bytes, and return the samples that they complete.

        Raises:
            UnreadableAudio: the file is not a WAV that can be read.
        """
        self._waiting += data
        pieces = []
        while (piece := self._next()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def end(self) -> None:
        """End the file. ``missing`` says how much did not come.

        Raises:
            UnreadableAudio: no samples came.
        """
        if not self.in_data:
            raise UnreadableAudio("a WAV file that ends before its samples")

    # Each step returns samples, b"" to be called again, or None if it needs more bytes.

    def _riff(self) -> bytes | None:
        if len(self._waiting) < 12:
            return None
        magic, size, form = struct.unpack_from("<4sI4s", self._waiting)
        if magic not in (b"RIFF", b"RF64") or form != b"WAVE":
            raise UnreadableAudio("no WAV file")
        if magic == b"RIFF" and 4 < size < FIRST_LIE:
            self._riff_left = size - 4
        del self._waiting[:12]
        self._next = self._chunk
        return b""

    def _chunk(self) -> bytes | None:
        # A chunk of odd length is followed by a zero byte, which some writers omit.
        if self._padded and self._waiting:
            self._padded = False
            if not self._waiting[0]:
                self._took(1)
        if len(self._waiting) < 8:
            return None
        name, size = struct.unpack_from("<4sI", self._waiting)
        if not all(0x20 <= byte < 0x7F for byte in name):
            raise UnreadableAudio("a WAV file with a broken header")
        self._took(8)
        match name:
            case b"fmt " if self.form is None:
                self._fmt_size = size
                self._next = self._fmt
            case b"ds64" if size >= _DS64_BYTES:
                self._skipping = size
                self._next = self._ds64
            case b"data":
                self._begin_data(size)
            case _:
                self._skip(size)
        return b""

    def _fmt(self) -> bytes | None:
        if self._fmt_size < 16:
            raise UnreadableAudio("a WAV file without a usable format")
        if len(self._waiting) < min(self._fmt_size, _FMT_BYTES):
            return None
        tag, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", self._waiting)
        if tag == _EXTENSIBLE:
            if self._fmt_size < _FMT_BYTES or self._waiting[26:40] != _GUID_TAIL:
                raise UnreadableAudio("a WAV file of an unknown kind")
            (tag,) = struct.unpack_from("<H", self._waiting, 24)
        self.form = _sample_format(tag, channels, block, bits)
        if rate not in RATES:
            raise UnreadableAudio(f"a WAV file with a sample rate of {rate} Hz")
        self.sample_rate = rate
        self._convert = converter(self.form)
        self._skip(self._fmt_size)
        return b""

    def _ds64(self) -> bytes | None:
        if len(self._waiting) < _DS64_BYTES:
            return None
        (self._data_size,) = struct.unpack_from("<Q", self._waiting, 8)
        self._skip(self._skipping)
        return b""

    def _skip(self, size: int) -> None:
        """Skip a chunk's content and its padding to an even length."""
        self._skipping = size
        self._padded = size % 2 == 1
        self._next = self._skipped

    def _skipped(self) -> bytes | None:
        step = min(self._skipping, len(self._waiting))
        self._took(step)
        self._skipping -= step
        if self._skipping:
            return None
        self._next = self._chunk
        return b""

    def _begin_data(self, size: int) -> None:
        if self.form is None:
            raise UnreadableAudio("a WAV file whose samples come before their format")
        if size == 0xFFFF_FFFF and self._data_size is not None:
            size = self._data_size
        # A header that was written before its samples has 0 here, unless RIFF's own size counts more chunks.
        said_before = size == 0 and not (self._riff_left is not None and self._riff_left > 0)
        self._known_size = not said_before and size < (FIRST_LIE if self._data_size is None else 1 << 62)
        self.missing = size if self._known_size else 0
        self._next = self._data

    def _data(self) -> bytes | None:
        assert self.form is not None
        size = len(self._waiting)
        if self._known_size:
            size = min(size, self.missing)
        whole = size - size % self.form.frame
        if whole:
            samples = bytes(memoryview(self._waiting)[:whole])
            del self._waiting[:whole]
            if self._known_size:
                self.missing -= whole
            return self._convert(samples)
        if self._known_size and self.missing < self.form.frame and len(self._waiting) >= self.missing:
            self.missing = 0
            self._next = self._after_data
            return b""
        return None

    def _after_data(self) -> bytes | None:
        self._waiting.clear()
        return None

    def _took(self, count: int) -> None:
        del self._waiting[:count]
        if self._riff_left is not None:
            self._riff_left -= count


def _sample_format(tag: int, channels: int, block: int, bits: int) -> SampleFormat:
    kind = _KINDS.get(tag)
    if kind is None:
        raise UnreadableAudio(f"a WAV file of {_OTHERS.get(tag, f'the unknown format {tag:#06x}')}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UnreadableAudio(f"a WAV file with {channels} channels")
    width, rest = divmod(block, channels)
    if rest or width not in WIDTHS[kind] or not 0 < bits <= 8 * width:
        raise UnreadableAudio(f"a WAV file with {bits} bits in {block} bytes for {channels} channels")
    return SampleFormat(kind, width, channels)
