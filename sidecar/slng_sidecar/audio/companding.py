"""G.711: decodes the 8-bit samples of telephony to 16 bits."""

from __future__ import annotations


def _mulaw(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 0x07)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def _alaw(code: int) -> int:
    code ^= 0x55
    segment, magnitude = code >> 4 & 0x07, (code & 0x0F) << 4
    magnitude = magnitude + 0x108 << segment - 1 if segment else magnitude + 8
    return magnitude if code & 0x80 else -magnitude


def _tables(samples: list[int]) -> tuple[bytes, bytes]:
    """Return two tables: the low and the high byte of each code's sample."""
    return bytes(sample & 0xFF for sample in samples), bytes(sample >> 8 & 0xFF for sample in samples)


_TABLES = {
    "mulaw": _tables([_mulaw(code) for code in range(256)]),
    "alaw": _tables([_alaw(code) for code in range(256)]),
}
COMPANDED = frozenset(_TABLES)
"""The encodings that ``expand`` supports."""


def expand(data: bytes, encoding: str) -> bytes:
    """Decode mu-law or A-law to little-endian 16-bit PCM."""
    low, high = _TABLES[encoding]
    samples = bytearray(2 * len(data))
    samples[::2] = data.translate(low)
    samples[1::2] = data.translate(high)
    return bytes(samples)
