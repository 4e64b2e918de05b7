from __future__ import annotations

import io
import itertools
import struct
from array import array
from typing import Any

import numpy
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from slng_sidecar.audio.samples import SampleFormat
from slng_sidecar.audio.wav_reader import FIRST_LIE, UnreadableAudio, WavReader
from support.audio import audio_file

SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# The WAV subtypes of libsndfile that the reader refuses, with the reader's names for them.
OTHERS = {"IMA_ADPCM": "IMA ADPCM", "MS_ADPCM": "MS ADPCM", "GSM610": "GSM 6.10", "G721_32": "G.721"}


def read(data: bytes, *cuts: int) -> tuple[WavReader, bytes]:
    """Read a file that comes split at these positions."""
    reader = WavReader()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    samples = b"".join(reader.feed(data[start:end]) for start, end in itertools.pairwise(places))
    reader.end()
    return reader, samples


def as_soundfile_reads(data: bytes) -> tuple[Any, int]:
    """Return the samples that libsndfile reads, as unrounded 16-bit values, clipped and averaged over the channels."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float64", always_2d=True)
    return numpy.clip(samples * 32_768, -32_768, 32_767).mean(axis=1), rate


def assert_same(pcm: bytes, expected: Any, channels: int) -> None:
    """Assert that samples are equal up to the errors of conversion to 16 bits and of averaging."""
    ours = numpy.frombuffer(pcm, "<i2").astype(float)
    assert len(ours) == len(expected)
    assert not len(ours) or numpy.abs(ours - expected).max() <= (1.0 if channels == 1 else 2.0)


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    size = len(content) if size is None else size
    return struct.pack("<4sI", name, size) + content + bytes(len(content) % 2)


def riff(*chunks: bytes, size: int | None = None, magic: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return struct.pack("<4sI", magic, len(body) if size is None else size) + body


def fmt(rate: int = 16_000, channels: int = 1, bits: int = 16, tag: int = 1, block: int | None = None) -> bytes:
    block = channels * bits // 8 if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFF_FFFF, block, bits))


PCM = array("h", range(-500, 500)).tobytes()


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", SUBTYPES)
@settings(max_examples=15)
@given(data=st.data())
def test_a_file_is_read_as_soundfile_reads_it(form: str, subtype: str, data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 2, 3, 6]))
    levels = st.floats(-1.25, 1.25, width=32)
    frames = data.draw(st.lists(st.lists(levels, min_size=channels, max_size=channels), max_size=40))
    rate = data.draw(st.sampled_from([8_000, 11_025, 22_050, 24_000, 48_000, 192_000]))
    samples = numpy.array(frames, dtype="float64").reshape(len(frames), channels)
    file = audio_file(samples, rate, form, subtype)
    expected, expected_rate = as_soundfile_reads(file)

    reader, pcm = read(file, *data.draw(st.lists(st.integers(0, 400), max_size=8)))

    assert reader.sample_rate == expected_rate == rate
    assert reader.missing == 0
    assert_same(pcm, expected, channels)


@pytest.mark.parametrize("subtype", OTHERS)
def test_an_unsupported_subtype_is_refused_by_name(subtype: str) -> None:
    with pytest.raises(UnreadableAudio, match=OTHERS[subtype]):
        read(audio_file(numpy.zeros(4_000), 8_000, "WAV", subtype))


@pytest.mark.parametrize("size", [FIRST_LIE, 0x7FFF_FFFF, 0xFFFF_FFFF, 0])
@pytest.mark.parametrize("riff_size", [0, 36, 2_147_418_148, 0xFFFF_FFFF])
def test_a_streamed_file_without_sizes_is_read_to_the_end(size: int, riff_size: int) -> None:
    reader, pcm = read(riff(fmt(), chunk(b"data", PCM, size), size=riff_size), 3, 41, 900)

    assert pcm == PCM
    assert reader.missing == 0


def test_a_file_that_claims_4_gb_and_holds_1_kb_is_read_as_1_kb() -> None:
    assert read(riff(fmt(), chunk(b"data", PCM[:1024], 4_000_000_000)))[1] == PCM[:1024]


def test_an_empty_file_with_chunks_after_it_is_empty() -> None:
    assert read(riff(fmt(), chunk(b"data", b""), chunk(b"LIST", b"INFOISFT")))[1] == b""


def test_chunks_after_the_samples_are_ignored() -> None:
    assert read(riff(fmt(), chunk(b"data", PCM), chunk(b"LIST", bytes(range(100)))))[1] == PCM


def test_a_file_that_ends_early_reports_how_early() -> None:
    reader, pcm = read(riff(fmt(), chunk(b"data", PCM, len(PCM) + 500)))

    assert (pcm, reader.missing) == (PCM, 500)


@pytest.mark.parametrize("padding", [b"\0", b""])
def test_odd_and_extra_chunks_are_skipped(padding: bytes) -> None:
    odd = struct.pack("<4sI", b"bext", 5) + b"12345" + padding
    list_ = chunk(b"LIST", b"INFO" + bytes(200))
    _, pcm = read(riff(list_, odd, fmt(), odd, chunk(b"fact", bytes(4)), chunk(b"data", PCM)))

    assert pcm == PCM


def test_the_unknown_end_of_a_long_fmt_chunk_is_skipped() -> None:
    longer = chunk(b"fmt ", fmt()[8:] + bytes(2) + bytes(61))

    assert read(riff(longer, chunk(b"data", PCM)))[1] == PCM


def test_24_bit_samples_in_four_bytes_use_the_upper_bits() -> None:
    samples = struct.pack("<2i", 0x1234_5600, -0x1234_5600)

    assert read(riff(fmt(bits=24, block=4), chunk(b"data", samples)))[1] == struct.pack("<2h", 0x1234, -0x1235)


def test_floats_beyond_full_scale_are_clipped_and_nan_is_silent() -> None:
    samples = struct.pack("<6f", 1e30, float("inf"), -float("inf"), float("nan"), 1.0, -1.0)
    _, pcm = read(riff(fmt(tag=3, bits=32), chunk(b"data", samples)))

    assert array("h", pcm).tolist() == [32_767, 32_767, -32_768, 0, 32_767, -32_768]


@pytest.mark.parametrize("cut", range(len(riff(fmt())) + 12))
def test_a_header_may_come_split_anywhere(cut: int) -> None:
    assert read(riff(fmt(), chunk(b"data", PCM)), cut)[1] == PCM


def test_a_header_may_come_byte_by_byte() -> None:
    file = riff(chunk(b"JUNK", bytes(9)), fmt(channels=2), chunk(b"data", PCM))

    assert read(file, *range(len(file)))[1] == read(file)[1]


@pytest.mark.parametrize(
    ("file", "message_part"),
    [
        (b"not a wav file at all", "no WAV file"),
        (b"RIFF\x00\x00\x00\x00AVI ", "no WAV file"),
        (riff(fmt(rate=0), chunk(b"data", PCM)), "sample rate of 0 Hz"),
        (riff(fmt(rate=3_000_000_000), chunk(b"data", PCM)), "sample rate of 3000000000"),
        (riff(fmt(channels=0, block=2), chunk(b"data", PCM)), "0 channels"),
        (riff(fmt(channels=33), chunk(b"data", PCM)), "33 channels"),
        (riff(fmt(bits=12, block=1), chunk(b"data", PCM)), "12 bits in 1 bytes"),
        (riff(fmt(bits=64), chunk(b"data", PCM)), "64 bits"),
        (riff(fmt(channels=2, block=3), chunk(b"data", PCM)), "for 2 channels"),
        (riff(fmt(tag=0x55), chunk(b"data", PCM)), "MP3"),
        (riff(fmt(tag=0x1234), chunk(b"data", PCM)), "0x1234"),
        (riff(fmt(tag=0xFFFE), chunk(b"data", PCM)), "unknown kind"),
        (riff(chunk(b"fmt ", b"1234"), chunk(b"data", PCM)), "without a usable format"),
        (riff(chunk(b"data", PCM), fmt()), "before their format"),
        (riff(fmt()), "ends before its samples"),
        (riff(fmt())[:20], "ends before its samples"),
        (riff(fmt(), b"\x01\x02\x03\x04\x05\x06\x07\x08"), "broken header"),
    ],
)
def test_an_unreadable_file_is_refused_by_name(file: bytes, message_part: str) -> None:
    with pytest.raises(UnreadableAudio, match=message_part):
        read(file)


def test_the_reader_holds_at_most_a_header_whatever_the_chunks_claim() -> None:
    reader = WavReader()
    reader.feed(riff(chunk(b"JUNK", b"", 0xFFFF_0000)))
    for _ in range(100):
        reader.feed(bytes(100_000))
        assert len(reader._waiting) < 64
    with pytest.raises(UnreadableAudio):
        reader.end()


def headers() -> st.SearchStrategy[bytes]:
    """Return a strategy for files that look like WAV: real chunks with any numbers and any bytes between them."""
    number = st.one_of(st.integers(0, 64), st.sampled_from([FIRST_LIE, 0xFFFF_FFFF, 0xFFFE, 1000, 24_000]))
    form = st.builds(
        lambda tag, channels, rate, block, bits, more: chunk(
            b"fmt ", struct.pack("<HHIIHH", tag & 0xFFFF, channels & 0xFFFF, rate, 0, block & 0xFFFF, bits) + more
        ),
        st.sampled_from([1, 1, 3, 6, 7, 0xFFFE, 2, 0x55]), st.integers(0, 4), st.sampled_from([0, 8_000, 24_000]),
        number, st.sampled_from([0, 8, 16, 24, 32, 64]), st.binary(max_size=30),
    )  # fmt: skip
    other = st.builds(chunk, st.sampled_from([b"data", b"LIST", b"fact", b"ds64"]), st.binary(max_size=40), number)
    return st.builds(
        lambda parts, size: riff(*parts, size=size),
        st.lists(st.one_of(form, other, st.binary(max_size=12)), max_size=5),
        number,
    )


@settings(max_examples=1_000)
@given(st.one_of(st.binary(max_size=200), headers()), st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_split_anywhere_give_the_same_samples_or_the_same_refusal(data: bytes, cuts: list[int]) -> None:
    def outcome(*cuts: int) -> tuple[int, bytes] | str:
        try:
            reader, pcm = read(data, *cuts)
        except UnreadableAudio as error:
            return str(error)
        assert len(pcm) % 2 == 0
        return reader.sample_rate, pcm

    assert outcome() == outcome(*cuts)


@settings(max_examples=500)
@given(
    st.sampled_from(["WAV", "WAVEX"]),
    st.sampled_from(SUBTYPES),
    st.integers(1, 2),
    st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_header_is_read_as_soundfile_reads_it_or_refused(
    form: str, subtype: str, channels: int, damage: list[tuple[int, int]]
) -> None:
    """If libsndfile interprets a damaged header in the same way, the samples are the same too and never noise."""
    tone = 0.5 * numpy.sin(numpy.arange(400 * channels) / 7).reshape(400, channels)
    file = bytearray(audio_file(tone, 24_000, form, subtype))
    for at, byte in damage:
        file[at] = byte
    try:
        reader, pcm = read(bytes(file))
    except UnreadableAudio:
        return
    try:
        with soundfile.SoundFile(io.BytesIO(bytes(file))) as theirs:
            same = (theirs.samplerate, theirs.channels) == (
                reader.sample_rate,
                reader.form.channels if reader.form else 0,
            )
            same = same and kind_of(theirs.subtype) == reader.form
            expected, _ = as_soundfile_reads(bytes(file))
    except (soundfile.LibsndfileError, ValueError):
        return
    if same:
        ours = numpy.frombuffer(pcm, "<i2").astype(float)
        common = min(len(ours), len(expected))  # readers differ on the end of the file if its lengths are wrong
        assert common == 0 or numpy.abs(ours[:common] - expected[:common]).max() <= 2.0


def kind_of(subtype: str) -> Any:
    """Return the reader's name for a subtype of libsndfile, with any number of channels."""

    class Anything:
        def __eq__(self, other: object) -> bool:
            width = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}.get(subtype, 1)
            kind = {"FLOAT": "float", "DOUBLE": "float", "ULAW": "mulaw", "ALAW": "alaw"}.get(subtype, "pcm")
            return isinstance(other, SampleFormat) and (other.kind, other.width) == (kind, width)

        __hash__ = None  # type: ignore[assignment] # it equals many

    return Anything()
