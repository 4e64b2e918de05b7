"""Encoders: PCM to the bytes of a file, piece by piece."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from slng_sidecar.audio.wav import wav_header


class Encoder(Protocol):
    """Encodes 16-bit mono PCM as a file, piece by piece.

    Attributes:
        blocking: whether it takes too long to run on the event loop.
    """

    blocking: bool

    def sample_rate(self, wanted: int) -> int:
        """Return the supported sample rate in Hz that is nearest to the wanted one."""

    def media_type(self, sample_rate: int) -> str:
        """Return the Content-Type of the file."""

    def begin(self, sample_rate: int) -> bytes:
        """Return the bytes before the first audio."""

    def encode(self, pcm: bytes) -> bytes:
        """Return the bytes that more audio completes."""

    def end(self) -> bytes:
        """Return the bytes that are left after the last audio."""


class Pcm(Encoder):
    """Writes the samples alone."""

    blocking = False

    @override
    def sample_rate(self, wanted: int) -> int:
        return wanted

    @override
    def media_type(self, sample_rate: int) -> str:
        return f"audio/pcm;rate={sample_rate}"

    @override
    def begin(self, sample_rate: int) -> bytes:
        return b""

    @override
    def encode(self, pcm: bytes) -> bytes:
        return pcm

    @override
    def end(self) -> bytes:
        return b""


class Wav(Pcm):
    """Writes a WAV header without a length, and the samples."""

    @override
    def media_type(self, sample_rate: int) -> str:
        return "audio/wav"

    @override
    def begin(self, sample_rate: int) -> bytes:
        return wav_header(sample_rate)
