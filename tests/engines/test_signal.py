from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from itertools import pairwise

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.engines import signal
from slng_sidecar.engines.pcm import to_alaw, to_mulaw
from slng_sidecar.engines.signal import DecodedWord, Decoder, SignalWord

RATES = st.sampled_from((8000, 16_000, 22_050, 24_000, 48_000))
WORDS = st.lists(
    st.builds(
        SignalWord,
        st.integers(0, signal.MAX_NUMBER),
        st.none() | st.integers(signal.MIN_FRAMES, signal.MAX_FRAMES),
        st.integers(0, 5),
    ),
    max_size=6,
)


def _frame(rate: int) -> int:
    return 2 * (rate * signal.FRAME_MS // 1000)


def _decode(pieces: list[bytes], rate: int) -> list[DecodedWord]:
    decoder = Decoder(rate)
    return [word for piece in pieces for word in decoder.feed(piece)] + decoder.end()


@given(WORDS, RATES, st.data())
def test_every_word_is_read_back_however_the_audio_is_split(
    words: list[SignalWord], rate: int, data: st.DataObject
) -> None:
    pcm = signal.encode(words, rate)
    cuts = sorted({0, len(pcm), *data.draw(st.lists(st.integers(0, len(pcm)), max_size=12))})
    found = _decode([pcm[a:b] for a, b in pairwise(cuts)], rate)
    assert [(word.number, word.whole) for word in found] == [(word.number, True) for word in words]
    assert all(word.frames == word.count for word in found)


@given(WORDS, RATES, st.data())
def test_audio_cut_anywhere_is_read_from_the_next_whole_frame(
    words: list[SignalWord], rate: int, data: st.DataObject
) -> None:
    pcm = signal.encode(words, rate)
    start = data.draw(st.integers(0, len(pcm)), label="start")
    end = data.draw(st.integers(start, len(pcm)), label="end")
    found = _decode([pcm[start:end]], rate)
    # The bits fill four fifths of a frame. If one byte of a sample is lost, the other byte may still determine the bit.
    frame, bits, at, least, most = _frame(rate), 2 * 64 * (rate // 4000), 0, 0, 0
    for word in words:
        count = word.frames if word.frames is not None else signal.frames_of(word.number)
        begins = [at + i * frame for i in range(count)]
        least += sum(start <= begin and begin + bits <= end for begin in begins)
        most += sum(start - 1 <= begin and begin + bits - 1 <= end for begin in begins)
        at += (count + word.gap) * frame
    assert least <= sum(word.frames for word in found) <= most


@given(WORDS.filter(bool), RATES, st.data())
def test_a_lost_piece_leaves_a_fragment_and_everything_else_whole(
    words: list[SignalWord], rate: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(words) - 1))
    before, lost, after = words[:index], words[index], words[index + 1 :]
    pcm = signal.encode([lost], rate)
    frame = _frame(rate)
    start = data.draw(st.integers(0, signal.MIN_FRAMES - 1)) * frame
    # A multiple of a frame, or an odd number of its bytes.
    size = data.draw(st.sampled_from((frame, 2 * frame, frame // 2 + 1)))
    cut = signal.encode(before, rate) + pcm[:start] + pcm[start + size :] + signal.encode(after, rate)
    found = _decode([cut], rate)
    whole = [word.number for word in found if word.whole]
    assert whole == [word.number for word in (*before, *after)]
    assert {word.text for word in found if not word.whole} == {f"frag:{lost.number}"}


def test_a_lost_byte_breaks_only_the_word_it_was_in() -> None:
    pcm = signal.encode([1, 2, 3])
    found = signal.decode(pcm[:100] + pcm[101:])
    assert [word.text for word in found][-2:] == ["n2", "n3"]


def test_a_repeated_word_is_decoded_twice() -> None:
    pcm = signal.encode([7])
    assert [word.text for word in signal.decode(pcm + pcm)] == ["n7", "n7"]


def test_a_word_broken_by_silence_is_two_fragments() -> None:
    pcm = signal.encode([SignalWord(7, frames=10)])
    half = len(pcm) // 2
    found = signal.decode(pcm[:half] + bytes(3200) + pcm[half:])
    assert [(word.text, word.frames) for word in found] == [("frag:7", 5), ("frag:7", 5)]


def test_a_fragment_is_reported_once_silence_shows_that_it_ended() -> None:
    decoder = Decoder()
    pcm = signal.encode([SignalWord(7, frames=10)])
    assert decoder.feed(pcm[: len(pcm) // 2]) == []
    assert decoder.in_word
    (found,) = decoder.feed(bytes(3200))
    assert found.text == "frag:7"
    assert not decoder.in_word


def test_a_frame_with_a_wrong_bit_is_rejected() -> None:
    pcm = bytearray(signal.encode([SignalWord(7, frames=10)]))
    third, run = 3 * 640, 8
    for at in range(third + 30 * run, third + 31 * run):  # a bit of the number
        pcm[at] ^= 0xFF
    found = signal.decode(bytes(pcm))
    assert [(word.text, word.frames) for word in found] == [("frag:7", 3), ("frag:7", 6)]


def test_a_frame_that_broke_off_does_not_hide_the_next_one() -> None:
    begun = signal.encode([SignalWord(7, frames=10)])[: 2 * 4 * 40]
    assert [word.text for word in signal.decode(begun + signal.encode([8]))] == ["n8"]


def test_each_word_has_its_position() -> None:
    (first, second) = signal.decode(
        bytes(640) + signal.encode([SignalWord(1, frames=5, gap=2), SignalWord(2, frames=6)])
    )
    assert (first.start_ms, first.end_ms) == (20, 120)
    assert (second.start_ms, second.end_ms) == (160, 280)


@pytest.mark.parametrize(("encode", "subtype"), [(to_mulaw, "ULAW"), (to_alaw, "ALAW")])
def test_words_survive_the_telephone_codecs(encode: Callable[[bytes], bytes], subtype: str) -> None:
    coded = BytesIO(encode(signal.encode([1, 2, 3], 8000)))
    raw = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype, "dtype": "int16"}
    samples, _ = soundfile.read(coded, **raw)
    assert [word.text for word in signal.decode(samples.tobytes(), 8000)] == ["n1", "n2", "n3"]


@given(st.binary(max_size=4000))
def test_noise_is_not_decoded_as_a_word(noise: bytes) -> None:
    assert _decode([noise], 8000) == []


def test_a_text_names_its_words_or_gets_running_numbers() -> None:
    words = signal.words_of_text("n17 hello n3, world", first=50)
    assert [word.number for word in words] == [17, 50, 3, 51]


@pytest.mark.parametrize(
    "word", [SignalWord(-1), SignalWord(signal.MAX_NUMBER + 1), SignalWord(1, frames=4), SignalWord(1, frames=26)]
)
def test_a_word_that_cannot_be_encoded_is_refused(word: SignalWord) -> None:
    with pytest.raises(ValueError, match="word"):
        signal.encode([word])
