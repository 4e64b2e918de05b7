from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slng_sidecar.audio import codecs, resampling
from slng_sidecar.audio.decoding import Decoding, Expected, TooLong
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.audio.wav_reader import UnreadableAudio
from support.audio import audio_file
from support.processes import need

RATE = 16_000
PCM = array("h", range(-8_000, 8_000)).tobytes()


async def decoded(
    file: bytes, expected: Expected | None = None, *, piece: int = 10_000, max_seconds: float = 100
) -> tuple[int, bytes]:
    """Decode a file that comes in pieces, and return its rate and its samples."""
    pieces = []
    async with asyncio.timeout(30), Decoding(RATE, max_seconds) as job:
        job.start(expected or Expected())

        async def put() -> None:
            for at in range(0, len(file), piece):
                await job.put(file[at : at + piece])
            job.finish()

        putting = asyncio.create_task(put())
        try:
            while (data := await job.next()) is not None:
                pieces.append(data)
        finally:
            await putting
    assert job.samples == sum(map(len, pieces)) // 2
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding"]
    return job.sample_rate, b"".join(pieces)


def tone(rate: int, seconds: float = 1.5, channels: int = 1) -> Any:
    wave = 0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(int(rate * seconds)) / rate)
    return numpy.stack([wave] * channels, axis=1)


def by_ffmpeg(*options: str, pcm: bytes, seekable: Path | None = None) -> bytes:
    """Return 16 kHz PCM as a file that FFmpeg writes."""
    out = str(seekable) if seekable else "-"
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "s16le", "-ar", str(RATE), "-ac", "1", "-i", "-", *options, out],
        input=pcm, capture_output=True, check=True,
    )  # fmt: skip
    return seekable.read_bytes() if seekable else done.stdout


def loudness(pcm: bytes) -> float:
    return float(numpy.abs(numpy.frombuffer(pcm, "<i2").astype(float)).mean())


@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_a_plain_wav_is_decoded_to_its_samples(piece: int) -> None:
    assert await decoded(wav_header(RATE, data_size=len(PCM)) + PCM, piece=max(piece, 5)) == (RATE, PCM)


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 2_147_418_112, 4_000_000_000])
async def test_a_wav_with_a_wrong_size_is_decoded_to_the_samples_that_come(size: int) -> None:
    header = wav_header(RATE)[:40] + struct.pack("<I", size)
    assert await decoded(header + PCM[:1_024]) == (RATE, PCM[:1_024])


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_32"),
        ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None), ("AU", None), ("CAF", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
async def test_every_format_of_soundfile_is_decoded_to_mono_at_one_rate(
    form: str, subtype: str | None, rate: int, channels: int
) -> None:
    sample_rate, pcm = await decoded(audio_file(tone(rate, channels=channels), rate, form, subtype))

    assert sample_rate == RATE
    slack = 0.12 if form == "MP3" or subtype == "IMA_ADPCM" else 0.005
    assert abs(len(pcm) / 2 / RATE - 1.5) <= slack
    assert loudness(pcm) == pytest.approx(loudness((tone(RATE)[:, 0] * 32_767).astype("<i2").tobytes()), rel=0.1)


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        (("-f", "webm", "-c:a", "libopus"), None),
        (("-f", "adts", "-c:a", "aac"), None),
        (("-f", "matroska", "-c:a", "flac"), None),
        (("-f", "mp4", "-c:a", "aac"), "m4a"),  # its index is at its end
        (("-f", "mp4", "-c:a", "aac", "-movflags", "faststart"), "mp4"),
        (("-f", "mp4", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"), None),
    ],
)
async def test_recordings_of_phones_and_browsers_are_decoded(
    options: tuple[str, ...], suffix: str | None, tmp_path: Path
) -> None:
    need("ffmpeg")
    pcm = (tone(RATE)[:, 0] * 32_767).astype("<i2").tobytes()
    file = by_ffmpeg(*options, pcm=pcm, seekable=tmp_path / f"x.{suffix}" if suffix else None)
    _, out = await decoded(file)

    assert abs(len(out) / 2 / RATE - 1.5) < 0.15
    assert loudness(out) == pytest.approx(loudness(pcm), rel=0.15)


async def test_a_file_that_is_read_whole_first_is_decoded_to_the_same_samples() -> None:
    file = audio_file(tone(RATE), RATE, "FLAC")
    assert await decoded(file, Expected(whole=True)) == await decoded(file)


@pytest.mark.parametrize(
    ("expected", "file", "pcm"),
    [
        (Expected("linear16", RATE), PCM + b"\x01", PCM),
        (Expected("mulaw", RATE), b"\xff\x00", struct.pack("<2h", 0, -32_124)),
        (Expected("linear16", 8_000), wav_header(RATE) + PCM, PCM),  # the header takes precedence over the description
    ],
)
async def test_samples_without_a_header_are_decoded_as_described(expected: Expected, file: bytes, pcm: bytes) -> None:
    assert await decoded(file.ljust(12, b"\xff")[: max(len(file), 2)], expected) == (RATE, pcm)


@pytest.mark.parametrize(
    ("file", "message_part"),
    [
        (b"", "an empty file"),
        (b"x", "not audio"),
        (Path(__file__).read_bytes(), "not audio"),
        (bytes(100_000), "not audio"),
        (b"%PDF-1.7\n" + bytes(5_000), "not audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "not audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not audio"),
        (b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>", "not audio"),
        (wav_header(RATE)[:30], "no sound|before its samples"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "not audio"),
        (wav_header(RATE)[:20] + b"\x34\x12" + wav_header(RATE)[22:] + PCM, "audio in an unknown codec"),
        (
            audio_file(tone(RATE), RATE, "CAF").replace(b"free\0\0", b"free\0\xff", 1),
            "not audio",
        ),  # it points beyond the file
    ],
)
async def test_files_without_audio_are_refused(file: bytes, message_part: str) -> None:
    with pytest.raises(UnreadableAudio, match=message_part):
        await decoded(file)


@pytest.mark.parametrize("name", ["{path}", "file://{path}", "secret.wav"])
@pytest.mark.parametrize(
    "list_", ["#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"]
)
async def test_a_file_that_names_another_file_does_not_open_that_file(
    name: str, list_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav_header(RATE) + PCM)
    with pytest.raises(UnreadableAudio):
        await decoded(list_.format(name.format(path=secret)).encode())


async def test_a_video_without_audio_is_refused(tmp_path: Path) -> None:
    need("ffmpeg")
    film = tmp_path / "film.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=s=64x64:d=1", str(film)]
    subprocess.run(command, check=True)
    with pytest.raises(UnreadableAudio, match="without sound"):
        await decoded(film.read_bytes())


async def test_a_flac_bomb_is_cut_off_by_its_seconds_not_its_bytes() -> None:
    bomb = audio_file(numpy.zeros((RATE * 600, 1), dtype="int16"), RATE, "FLAC")
    assert len(bomb) < 600 * 2 * RATE / 100
    with pytest.raises(TooLong):
        await decoded(bomb, max_seconds=60)


async def test_an_abandoned_file_leaves_no_thread() -> None:
    async with Decoding(RATE, 100) as job:
        job.start(Expected())
        putting = asyncio.create_task(job.put(wav_header(RATE) + PCM * 50))  # more than may wait on either side
        assert await job.next()
        putting.cancel()
    assert not [thread for thread in threading.enumerate() if thread.name == "decoding"]


async def test_the_faster_side_waits_for_the_slower_one() -> None:
    async with Decoding(RATE, 1_000) as job:
        job.start(Expected())
        putting = asyncio.create_task(job.put(wav_header(RATE) + bytes(2_000_000)))
        done, _ = await asyncio.wait([putting], timeout=0.3)
        assert not done  # nobody reads the samples
        while not putting.done():
            await job.next()
        putting.result()


@pytest.mark.parametrize("rates", [(16_000, 16_000), (16_000, 48_000), (44_100, 16_000)])
async def test_concatenated_files_are_decoded_as_one(rates: tuple[int, int]) -> None:
    rate, pcm = await decoded(b"".join(audio_file(tone(rate), rate, "MP3") for rate in rates))
    assert rate == RATE
    assert len(pcm) / 2 / RATE == pytest.approx(3.0, abs=0.3)


async def test_a_damaged_packet_loses_only_its_own_audio() -> None:
    file = bytearray(audio_file(tone(RATE, 5.0), RATE, "MP3"))
    for at in range(len(file) // 2, len(file) // 2 + 400):
        file[at] = 0
    _, pcm = await decoded(bytes(file))
    assert 4.5 < len(pcm) / 2 / RATE < 5.3


damaged_files = st.tuples(
    st.sampled_from(["MP3", "FLAC", "OGG", "WAV", "AIFF", "AU", "CAF", "W64"]),
    st.lists(st.tuples(st.integers(0, 5_000) | st.integers(0, 100), st.integers(0, 255)), min_size=1, max_size=30),
    st.integers(0, 8_000),
)


@settings(max_examples=60, deadline=None)
@given(damaged_files)
def test_a_damaged_file_is_decoded_or_refused_by_name(damaged: tuple[str, list[tuple[int, int]], int]) -> None:
    decode_or_refuse(*damaged)


def decode_or_refuse(form: str, damage: list[tuple[int, int]], end: int) -> None:
    """Decode a file whose bytes were changed and whose end was cut off. Only ``UnreadableAudio`` may be raised."""
    file = bytearray(audio_file(tone(RATE, 0.5), RATE, form))
    for at, byte in damage:
        file[at % len(file)] = byte

    async def attempt() -> None:
        try:
            _, pcm = await decoded(bytes(file[: end or None]))
        except (UnreadableAudio, TooLong):
            return
        assert len(pcm) % 2 == 0

    asyncio.run(attempt())


async def test_without_the_codecs_wav_is_read_and_the_rest_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert not codecs.is_installed()
    assert not resampling.can_resample()
    assert await decoded(wav_header(8_000) + PCM) == (8_000, PCM)
    stereo = audio_file(tone(48_000, channels=2), 48_000, "WAV", "PCM_24")
    rate, pcm = await decoded(stereo)
    assert (rate, len(pcm)) == (48_000, 2 * int(1.5 * 48_000))
    with pytest.raises(codecs.CodecsMissing):
        await decoded(audio_file(tone(RATE), RATE, "FLAC"))
    with pytest.raises(UnreadableAudio, match="96000 Hz"):
        await decoded(audio_file(tone(96_000), 96_000, "WAV"))
