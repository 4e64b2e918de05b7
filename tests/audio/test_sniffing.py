from __future__ import annotations

import io
import itertools
import tracemalloc
from array import array

import numpy
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from slng_sidecar.audio.sniffing import SniffingReader
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.audio.wav_reader import UnreadableAudio
from support.audio import audio_file

PCM = array("h", range(-500, 500)).tobytes()


def read(data: bytes, *cuts: int, content_type: str = "", rate: int = 24_000) -> tuple[int, bytes]:
    reader = SniffingReader(content_type, rate)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    samples = b"".join(reader.feed(data[start:end]) for start, end in itertools.pairwise(places))
    return reader.sample_rate, samples + reader.end()


def encoded(form: str, subtype: str | None = None, seconds: float = 0.5) -> bytes:
    tone = 0.5 * numpy.sin(numpy.arange(int(24_000 * seconds)) / 7)
    return audio_file(tone, 24_000, form, subtype)


@pytest.mark.parametrize("label", ["audio/wav", "audio/mpeg", "application/octet-stream", ""])
def test_a_wav_is_recognized_by_its_bytes_whatever_its_label(label: str) -> None:
    assert read(wav_header(8_000) + PCM, 1, 30, content_type=label) == (8_000, PCM)


@pytest.mark.parametrize("label", ["audio/pcm", "audio/wav", "application/octet-stream", "audio/L16", ""])
def test_samples_without_a_header_have_the_expected_rate(label: str) -> None:
    assert read(PCM, 1, 2, 301, content_type=label, rate=16_000) == (16_000, PCM)


@pytest.mark.parametrize(
    "quiet",
    [b"\xff\xff" * 500, b"\xff\xff\x00\x00" * 500, b"\xff\xff\x01\x00" * 500, b"\xff\xff\xfe\xff\x01\x00" * 300],
)
def test_quiet_samples_are_not_mistaken_for_mp3_frames(quiet: bytes) -> None:
    assert read(quiet, 7) == (24_000, quiet)


def test_one_mp3_frame_header_among_samples_is_a_coincidence() -> None:
    data = b"\xff\xfb\x50\xc4" + PCM * 4

    assert read(data, 2, 100) == (24_000, data)


def test_two_mp3_frame_headers_of_different_streams_are_a_coincidence() -> None:
    # A layer III header at 44.1 kHz, and a layer II header at 48 kHz at the position where its frame would end.
    data = b"\xff\xfb\x50\xc4".ljust(208, b"\x01") + b"\xff\xfd\x54\xc4" + PCM

    assert read(data) == (24_000, data)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (encoded("MP3"), "MP3"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00" + encoded("MP3"), "MP3"),
        (encoded("OGG", "VORBIS"), "Ogg"),
        (encoded("OGG", "OPUS"), "Ogg"),
        (encoded("FLAC"), "FLAC"),
        (encoded("AIFF"), "AIFF"),
        (encoded("WAV", "IMA_ADPCM"), "IMA ADPCM"),
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00", "MP4"),
        (b"\x1aE\xdf\xa3" + bytes(20), "WebM"),
        (b"RIFX" + bytes(40), "big-endian"),
        (b"RIF", "within its header"),
        (wav_header(24_000)[:30], "before its samples"),
        (wav_header(24_000, data_size=len(PCM)) + PCM[:-10], "10 bytes before its end"),
    ],
)
@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 5), tuple(range(0, 3000, 7))])
def test_unreadable_bodies_are_refused_by_name(body: bytes, name: str, cuts: tuple[int, ...]) -> None:
    with pytest.raises(UnreadableAudio, match=name):
        read(body, *cuts)


@pytest.mark.parametrize("layer", ["16,LAYER_III", "24,LAYER_III", "44,LAYER_III"])
def test_mp3_of_every_version_is_recognized_by_two_frames(layer: str) -> None:
    rate = {"16": 16_000, "24": 24_000, "44": 44_100}[layer.partition(",")[0]]
    file = io.BytesIO()
    soundfile.write(file, numpy.zeros(rate), rate, format="MP3")
    body = file.getvalue()
    body = body[body.index(b"\xff", 0) :]
    with pytest.raises(UnreadableAudio, match="MP3"):
        read(body)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("audio/mpeg", "MP3"),
        ("audio/ogg; codecs=opus", "Ogg"),
        ("application/json", "JSON"),
        ("text/html", "text/html"),
    ],
)
def test_bytes_without_a_header_are_refused_by_the_format_of_their_label(label: str, name: str) -> None:
    with pytest.raises(UnreadableAudio, match=name):
        read(PCM, content_type=label)


def test_an_empty_body_has_no_samples() -> None:
    assert read(b"") == (24_000, b"")


@settings(max_examples=1_000)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda tail: b"RIFF" + tail),
        st.binary(max_size=3000).map(lambda tail: b"\xff\xfb\x50\xc4" + tail),
    ),
    st.lists(st.integers(0, 3000), max_size=6),
    st.sampled_from(["", "audio/wav", "audio/mpeg", "text/plain"]),
)
def test_any_bytes_split_anywhere_give_the_same_samples_or_the_same_refusal(
    data: bytes, cuts: list[int], label: str
) -> None:
    def outcome(*cuts: int) -> tuple[int, bytes] | str:
        try:
            return read(data, *cuts, content_type=label)
        except UnreadableAudio as error:
            return str(error)

    whole = outcome()
    assert whole == outcome(*cuts)
    if not isinstance(whole, str) and not data.startswith((b"RIFF", b"RF64")):
        assert whole[1] == data[: len(data) & ~1]


def test_a_body_of_any_length_is_held_in_bounded_memory() -> None:
    reader = SniffingReader("audio/wav")
    reader.feed(wav_header(24_000))
    piece = bytes(65_536)
    tracemalloc.start()
    try:
        for _ in range(500):
            assert len(reader.feed(piece)) == len(piece)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
