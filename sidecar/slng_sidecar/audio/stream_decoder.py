"""Decodes MP3 and Opus that arrives in messages, with FFmpeg's libraries."""

from __future__ import annotations

from typing import Any

from slng_sidecar.audio import codecs

DECODABLE = ("mp3", "opus")
"""The encodings that ``StreamDecoder`` supports if the ``codecs`` extra is installed."""

_OGG = b"OggS"
_PAGE_HEADER = 27


class StreamDecoder:
    """Decodes one stream of MP3 or Opus to 16-bit mono PCM of one rate.

    The pieces of MP3, and of Opus in Ogg, may be cut anywhere. Otherwise each piece is one Opus packet. Pieces that
    cannot be decoded are skipped and counted.

    Attributes:
        skipped: pieces that could not be decoded.
    """

    def __init__(self, encoding: str, sample_rate: int) -> None:
        """Create a decoder.

        Raises:
            codecs.CodecsMissing: the ``codecs`` extra is not installed.
        """
        self._av: Any = codecs.load()
        self._codec: Any = self._av.CodecContext.create("mp3float" if encoding == "mp3" else "opus", "r")
        self._mixer: Any = self._av.AudioResampler(format="s16", layout="mono", rate=sample_rate)
        self._mixed: tuple[Any, ...] = ()
        self._rate = sample_rate
        self._opus = encoding == "opus"
        self._ogg: _OggPackets | None = None
        self._begun = False
        self._head = b""
        self.skipped = 0

    def feed(self, data: bytes) -> bytes:
        """Decode the next bytes, and return the PCM that they complete."""
        if not self._opus:
            return self._decoded(self._codec.parse(data))
        if not self._begun:
            data = self._head + data
            if len(data) < len(_OGG) and _OGG.startswith(data):
                self._head = data
                return b""
            self._begun = True
            self._ogg = _OggPackets() if data.startswith(_OGG) else None
        packets = [data] if self._ogg is None else self._ogg.feed(data)
        return self._decoded([self._av.Packet(packet) for packet in packets if packet])

    def end(self) -> bytes:
        """Return the PCM that is left after the last bytes."""
        rest = b"" if self._opus else self._decoded(self._codec.parse(b""))
        sound = rest + self._decoded([None])
        return sound + b"".join(_bytes(frame) for frame in self._mixer.resample(None)) if self._mixed else sound

    def _decoded(self, packets: list[Any]) -> bytes:
        sound = []
        for packet in packets:
            try:
                frames = self._codec.decode(packet)
            except (self._av.FFmpegError, EOFError):
                self.skipped += packet is not None
                continue
            for frame in frames:
                kind = (frame.sample_rate, frame.format.name, frame.layout.name)
                if self._mixed not in ((), kind):
                    sound += [_bytes(mixed) for mixed in self._mixer.resample(None)]
                    self._mixer = self._av.AudioResampler(format="s16", layout="mono", rate=self._rate)
                self._mixed = kind
                frame.pts = None
                sound += [_bytes(mixed) for mixed in self._mixer.resample(frame)]
        return b"".join(sound)


def _bytes(frame: Any) -> bytes:
    return bytes(frame.planes[0])[: 2 * frame.samples]


class _OggPackets:
    """Splits an Ogg stream (RFC 3533) into packets, without the two headers of Opus (RFC 7845)."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._packet = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Parse the next bytes, and return the packets that they complete."""
        self._waiting += data
        packets: list[bytes] = []
        while (page := self._page()) is not None:
            lacing, content = page
            at = 0
            for size in lacing:
                self._packet += content[at : at + size]
                at += size
                if size < 255:
                    packets.append(bytes(self._packet))
                    self._packet.clear()
        return [packet for packet in packets if not packet.startswith((b"OpusHead", b"OpusTags"))]

    def _page(self) -> tuple[bytes, bytes] | None:
        """Return the segment table and the content of the next page; None until it is whole."""
        start = self._waiting.find(_OGG)
        if start < 0:
            del self._waiting[:-3]  # it may be the start of the mark
            return None
        del self._waiting[:start]
        if len(self._waiting) < _PAGE_HEADER or len(self._waiting) < _PAGE_HEADER + self._waiting[26]:
            return None
        lacing = bytes(self._waiting[_PAGE_HEADER : _PAGE_HEADER + self._waiting[26]])
        begin = _PAGE_HEADER + len(lacing)
        end = begin + sum(lacing)
        if len(self._waiting) < end:
            return None
        content = bytes(self._waiting[begin:end])
        del self._waiting[:end]
        return lacing, content
