from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.stt.replay_buffer import ReplayBuffer

RATE = 32_000  # bytes per second


def tone(ms: int, level: int) -> bytes:
    return array("h", [level, -level] * (ms * 8)).tobytes()


@given(st.lists(st.binary(min_size=1, max_size=7), max_size=20), st.data())
def test_any_part_is_read_as_it_came(chunks: list[bytes], data: st.DataObject) -> None:
    buffer = ReplayBuffer(RATE, 30)
    for chunk in chunks:
        buffer.append(chunk, 0)
    whole = b"".join(chunks)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    assert b"".join(buffer.read(start, end)) == whole[start:end]
    buffer.release(start)
    assert buffer.floor <= start or start == 0
    assert b"".join(buffer.read(start, end)) == whole[start:end]


def test_the_oldest_audio_is_dropped_first_and_the_limit_holds() -> None:
    buffer = ReplayBuffer(RATE, 1)
    for number in range(200):
        buffer.append(bytes([number]) * 640, 0)
        buffer.trim()
    assert (buffer.floor, buffer.end) == (150 * 640, 200 * 640)
    buffer.append(bytes(RATE + 2), 0)
    buffer.trim()
    assert buffer.floor == buffer.end


def test_pcm_is_measured_by_its_bytes_and_compressed_audio_by_the_clock() -> None:
    pcm, mp3 = ReplayBuffer(RATE, 30), ReplayBuffer(16_000, 30, compressed=True)
    for number in range(10):
        pcm.append(bytes(640), 0)
        mp3.append(bytes(100), 5 + number)
    assert (pcm.ms(3200), pcm.offset_at(100), pcm.offset_at(100.02)) == (100, 3200, 3200)
    assert (mp3.ms(100), mp3.ms(300), mp3.ms(350)) == (0, 2000, 3000)
    assert (mp3.offset_at(2000), mp3.offset_at(2500), mp3.offset_at(99_000)) == (300, 300, 1000)


def test_silence_speech_and_pauses_are_distinguished() -> None:
    buffer = ReplayBuffer(RATE, 30)
    buffer.append(tone(200, 8000) + tone(300, 100) + tone(200, 6000) + bytes(3200), 0)
    at = buffer.offset_at
    assert buffer.is_silent(at(200), at(500))
    assert not buffer.is_silent(at(100), at(300))
    assert buffer.speech_ms(0, buffer.end) == 400
    assert buffer.has_pause(0, at(700), 300)
    assert not buffer.has_pause(0, at(700), 320)
    assert not buffer.has_pause(at(200), at(700), 100)  # it must begin with speech
    assert not buffer.has_pause(0, at(500), 100)  # and end with speech


def test_noise_that_is_much_softer_than_speech_counts_as_silence() -> None:
    buffer = ReplayBuffer(RATE, 30)
    buffer.append(tone(200, 20_000) + tone(200, 1500), 0)
    assert buffer.is_silent(buffer.offset_at(200), buffer.end)
    quiet = ReplayBuffer(RATE, 30)
    quiet.append(tone(200, 1500), 0)
    assert not quiet.is_silent(0, quiet.end)


def test_the_quietest_moment_and_the_silence_before_are_found() -> None:
    buffer = ReplayBuffer(RATE, 30)
    buffer.append(tone(100, 8000) + tone(40, 50) + tone(100, 8000), 0)
    assert 100 <= buffer.ms(buffer.quietest(0, buffer.end)) <= 140
    found = buffer.silence_before(buffer.end, 400)
    assert found is not None
    assert 100 <= buffer.ms(found) <= 140
    assert buffer.silence_before(buffer.end, 80) is None


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60), st.data())
def test_every_position_found_is_a_whole_sample_within_the_range(sizes: list[int], data: st.DataObject) -> None:
    whole = tone(300, 8000) + bytes(1280) + tone(300, 8000)
    buffer, at = ReplayBuffer(RATE, 30), 0
    for size in sizes:
        buffer.append(whole[at : at + size], 0)
        at += size
    end = data.draw(st.integers(0, buffer.end))
    start = data.draw(st.integers(0, end))
    quietest = buffer.quietest(start, end)
    assert quietest % 2 == 0
    assert start - 1 <= quietest <= end
    found = buffer.silence_before(end, 400)
    assert found is None or (found % 2 == 0 and found <= end)
    buffer.release(start)
    assert buffer.aligned(start) % 2 == 0
    assert buffer.aligned(start) >= min(buffer.floor, start - 1)


@pytest.mark.parametrize("odd", [1, 3, 641])
def test_messages_of_odd_length_do_not_shift_samples(odd: int) -> None:
    whole = tone(200, 8000) + bytes(6400)
    buffer = ReplayBuffer(RATE, 30)
    for start in range(0, len(whole), odd):
        buffer.append(whole[start : start + odd], 0)
    assert buffer.speech_ms(0, buffer.end) == 200


def test_speech_whose_audio_was_trimmed_is_still_known() -> None:
    buffer = ReplayBuffer(RATE, 1)
    at = buffer.offset_at
    for piece in (tone(200, 8000), bytes(RATE // 2), tone(200, 6000), bytes(2 * RATE)):
        buffer.append(piece, 0)
        buffer.trim()
    assert buffer.floor > at(900)
    assert not buffer.is_silent(0, buffer.end)
    assert buffer.speech_ms(0, buffer.end) == 400
    assert buffer.speech_ms(at(300), buffer.end) == 200
    assert buffer.has_pause(0, at(900), 300)
    assert buffer.is_silent(at(900), buffer.end)
    buffer.release(at(300))
    assert buffer.speech_ms(0, buffer.end) == 200


def test_one_message_that_is_longer_than_the_buffer_is_remembered() -> None:
    buffer = ReplayBuffer(RATE, 1)
    buffer.append(tone(200, 8000) + bytes(2 * RATE), 0)
    buffer.trim()
    assert buffer.floor == buffer.end
    assert buffer.speech_ms(0, buffer.end) == 200
