"""Writing WAV (RIFF): one header, then 16-bit PCM."""

from __future__ import annotations

import struct

UNKNOWN_SIZE = 0xFFFF_FFFF
"""What the size fields hold while the length is not known: readers take it as "to the end"; 0 reads as empty."""


def wav_header(sample_rate: int, channels: int = 1, data_size: int | None = None) -> bytes:
    """Give the 44 bytes that stand before 16-bit little-endian PCM.

    Args:
        sample_rate: in Hz.
        data_size: bytes of PCM that follow; None where that is not known yet.
    """
    frame = 2 * channels
    riff, data = (UNKNOWN_SIZE, UNKNOWN_SIZE) if data_size is None else (36 + data_size, data_size)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", riff, b"WAVE",
        b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame, frame, 16,
        b"data", data,
    )  # fmt: skip
