from __future__ import annotations

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slng_sidecar.audio.codecs import CodecEncoder
from slng_sidecar.audio.stream_decoder import StreamDecoder

RATE = 24_000
TONE = (0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(RATE) / RATE) * 32_767).astype("<i2").tobytes()


def encoded(name: str) -> bytes:
    encoder = CodecEncoder(name)
    return encoder.begin(RATE) + encoder.encode(TONE) + encoder.end()


FILES = {name: encoded(name) for name in ("mp3", "opus")}


def decoded(encoding: str, data: bytes, piece: int, rate: int = RATE) -> tuple[bytes, int]:
    decoder = StreamDecoder(encoding, rate)
    parts = [decoder.feed(data[at : at + piece]) for at in range(0, len(data), piece)]
    return b"".join([*parts, decoder.end()]), decoder.skipped


@pytest.mark.parametrize("encoding", FILES)
@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_the_audio_has_the_requested_rate(encoding: str, rate: int) -> None:
    pcm, skipped = decoded(encoding, FILES[encoding], 500, rate)

    assert skipped == 0
    assert 0 <= len(pcm) / 2 / rate - 1 < 0.1
    levels = numpy.abs(numpy.frombuffer(pcm, "<i2").astype(float))
    assert levels.sum() / rate == pytest.approx(0.5 * 32_767 * 2 / numpy.pi, rel=0.1)


@pytest.mark.parametrize("encoding", FILES)
@settings(max_examples=20, deadline=None)
@given(piece=st.integers(1, 3_000))
def test_message_boundaries_do_not_change_the_audio(encoding: str, piece: int) -> None:
    assert decoded(encoding, FILES[encoding], piece) == decoded(encoding, FILES[encoding], 1 << 20)


@pytest.mark.parametrize("encoding", FILES)
def test_audio_is_returned_while_more_is_to_come(encoding: str) -> None:
    decoder = StreamDecoder(encoding, RATE)
    half = len(FILES[encoding]) // 2
    assert 0.3 < len(decoder.feed(FILES[encoding][:half])) / 2 / RATE < 0.7


@pytest.mark.parametrize("encoding", FILES)
@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=2_000))
def test_any_bytes_are_decoded_or_skipped(encoding: str, data: bytes) -> None:
    pcm, _ = decoded(encoding, data, 100)
    assert len(pcm) % 2 == 0


def test_damage_in_the_middle_loses_only_the_damaged_audio() -> None:
    for encoding, file in FILES.items():
        middle = len(file) // 2
        pcm, _ = decoded(encoding, file[:middle] + bytes(100) + file[middle + 100 :], 500)
        assert len(pcm) / 2 / RATE > 0.8
