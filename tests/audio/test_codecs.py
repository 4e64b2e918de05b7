from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy
import pytest
import soundfile
from slng_sidecar.audio.codecs import FORMATS, CodecEncoder
from support.processes import need

RATE = 24_000
TONE = (0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(int(1.9873 * RATE)) / RATE) * 32_767).astype("<i2")
# In their streamed form, these formats cannot record the encoder's delay and the padding of the last frame.
SLACK = {"mp3": 0.1, "aac": 0.1, "opus": 0.0, "flac": 0.0}
SUFFIX = {"mp3": "mp3", "opus": "ogg", "flac": "flac", "aac": "aac"}


def encoded(name: str, pcm: bytes, rate: int = RATE, piece: int = 4_801) -> bytes:
    encoder = CodecEncoder(name)
    parts = [encoder.begin(rate)]
    parts += [encoder.encode(pcm[at : at + piece]) for at in range(0, len(pcm), piece)]
    return b"".join([*parts, encoder.end()])


def by_ffmpeg(path: Path, rate: int = RATE) -> bytes:
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-ar", str(rate), "-ac", "1", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_ffmpeg_reads_the_encoded_audio_at_its_full_length(name: str, tmp_path: Path) -> None:
    need("ffmpeg")
    path = tmp_path / f"out.{SUFFIX[name]}"
    path.write_bytes(encoded(name, TONE.tobytes()))
    samples = numpy.frombuffer(by_ffmpeg(path), "<i2")

    late = (len(samples) - len(TONE)) / RATE
    assert 0 <= late <= SLACK[name]
    assert abs(numpy.abs(samples).max() - numpy.abs(TONE).max()) < 3_000
    if name == "flac":
        assert samples.tobytes() == TONE.tobytes()


@pytest.mark.parametrize("name", ["mp3", "opus"])
def test_soundfile_reads_the_encoded_audio(name: str) -> None:
    samples, _ = soundfile.read(io.BytesIO(encoded(name, TONE.tobytes())))

    assert 0 <= (len(samples) - len(TONE)) / RATE <= SLACK[name]


def test_sox_reads_every_sample_of_flac_without_a_length_in_its_header(tmp_path: Path) -> None:
    need("sox")
    path = tmp_path / "out.flac"
    path.write_bytes(encoded("flac", TONE.tobytes()))
    raw = ["-t", "raw", "-e", "signed", "-b", "16", "-"]
    assert subprocess.run(["sox", path, *raw], capture_output=True, check=True).stdout == TONE.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_returned_while_audio_is_still_coming(name: str) -> None:
    encoder = CodecEncoder(name)
    out = [
        len(encoder.begin(RATE)) + len(encoder.encode(TONE[at : at + 4_800].tobytes()))
        for at in range(0, 24_000, 4_800)
    ]

    assert out[1] > 0
    assert all(size > 0 for size in out[2:])
    assert encoder.end()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wanted", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_an_encoder_accepts_the_rate_that_it_reports(name: str, wanted: int, tmp_path: Path) -> None:
    need("ffmpeg")
    rate = CodecEncoder(name).sample_rate(wanted)
    path = tmp_path / f"out.{SUFFIX[name]}"
    path.write_bytes(encoded(name, bytes(2 * rate), rate))

    assert rate >= wanted
    assert (rate == wanted) or name == "opus"
    assert 0 <= len(by_ffmpeg(path, rate)) / 2 / rate - 1 <= 2 * SLACK[name] + 0.2 * (SLACK[name] > 0)


@pytest.mark.parametrize("name", FORMATS)
def test_no_audio_can_be_encoded(name: str) -> None:
    assert isinstance(encoded(name, b""), bytes)
