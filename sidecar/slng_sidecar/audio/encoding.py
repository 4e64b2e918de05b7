"""From PCM to the bytes of a file, as it is made."""

from __future__ import annotations

from typing import Protocol

from slng_sidecar.audio.wav import wav_header


class Encoder(Protocol):
    """Makes a file of 16-bit mono PCM piece by piece.

    Attributes:
        blocking: whether it takes so long that it must not run in the event loop.
    """

    blocking: bool

    def sample_rate(self, wanted: int) -> int:
        """Give the nearest rate to the wanted one, in Hz, that it takes."""

    def media_type(self, sample_rate: int) -> str:
        """Give the Content-Type of what comes out."""

    def begin(self, sample_rate: int) -> bytes:
        """Give what stands before the first sound."""

    def encode(self, pcm: bytes) -> bytes:
        """Take more sound; give the bytes that it completes."""

    def end(self) -> bytes:
        """Give what is left once all sound was taken."""


class Pcm:
    """The samples alone."""

    blocking = False

    def sample_rate(self, wanted: int) -> int:
        return wanted

    def media_type(self, sample_rate: int) -> str:
        return f"audio/pcm;rate={sample_rate}"

    def begin(self, sample_rate: int) -> bytes:
        return b""

    def encode(self, pcm: bytes) -> bytes:
        return pcm

    def end(self) -> bytes:
        return b""


class Wav(Pcm):
    """One header, which cannot know the length yet, and the samples."""

    def media_type(self, sample_rate: int) -> str:
        return "audio/wav"

    def begin(self, sample_rate: int) -> bytes:
        return wav_header(sample_rate)
