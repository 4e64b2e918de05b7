"""Writes WAV (RIFF) headers for 16-bit PCM."""

from __future__ import annotations

import struct

UNKNOWN_SIZE = 0xFFFF_FFFF
"""The size for an unknown length. Readers take it as "to the end", while they take 0 as empty."""


def wav_header(sample_rate: int, channels: int = 1, data_size: int | None = None) -> bytes:
    """Return the 44 bytes before little-endian 16-bit PCM.

    Args:
        sample_rate: in Hz.
        data_size: bytes of PCM that follow; None if that is not known yet.
    """
    frame = 2 * channels
    riff, data = (UNKNOWN_SIZE, UNKNOWN_SIZE) if data_size is None else (36 + data_size, data_size)
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", riff, b"WAVE",
        b"fmt ", 16, 1, channels, sample_rate, sample_rate * frame, frame, 16,
        b"data", data,
    )  # fmt: skip
