from __future__ import annotations

import io
import wave

import pytest
import soundfile
from slng_sidecar.audio.wav import UNKNOWN_SIZE, wav_header


@pytest.mark.parametrize(("sample_rate", "channels"), [(8_000, 1), (24_000, 1), (48_000, 2)])
def test_a_file_of_known_length_is_read_by_pythons_own_module(sample_rate: int, channels: int) -> None:
    pcm = bytes(range(200)) * channels
    with wave.open(io.BytesIO(wav_header(sample_rate, channels, len(pcm)) + pcm)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (sample_rate, channels, 2)
        assert file.readframes(file.getnframes()) == pcm


def test_the_header_has_44_bytes_and_counts_them() -> None:
    header = wav_header(16_000, data_size=1000)

    assert len(header) == 44
    assert int.from_bytes(header[4:8], "little") == 1000 + 44 - 8
    assert int.from_bytes(header[40:44], "little") == 1000
    assert int.from_bytes(header[28:32], "little") == 32_000  # bytes per second


def test_an_unknown_length_is_written_so_that_readers_read_to_the_end() -> None:
    header = wav_header(16_000)

    assert header[4:8] == header[40:44] == UNKNOWN_SIZE.to_bytes(4, "little") == b"\xff\xff\xff\xff"


def test_a_stream_of_unknown_length_is_read_by_libsndfile() -> None:
    pcm = b"\x01\x00\x02\x00" * 500
    data, rate = soundfile.read(io.BytesIO(wav_header(16_000) + pcm), dtype="int16")

    assert rate == 16_000
    assert data.tobytes() == pcm


def test_a_file_without_samples_is_valid() -> None:
    with wave.open(io.BytesIO(wav_header(16_000, data_size=0))) as file:
        assert file.getnframes() == 0
