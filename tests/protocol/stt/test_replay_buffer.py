from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slng_sidecar.protocol.stt.replay_buffer import AudioLedger

RATE = 32_000  # bytes a second


def tone(ms: int, level: int) -> bytes:
    return array("h", [level, -level] * (ms * 8)).tobytes()


@given(st.lists(st.binary(min_size=1, max_size=7), max_size=20), st.data())
def test_any_part_is_read_as_it_came(chunks: list[bytes], data: st.DataObject) -> None:
    ledger = AudioLedger(RATE, 30)
    for chunk in chunks:
        ledger.append(chunk, 0)
    whole = b"".join(chunks)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    assert b"".join(ledger.read(start, end)) == whole[start:end]
    ledger.release(start)
    assert ledger.floor <= start or start == 0
    assert b"".join(ledger.read(start, end)) == whole[start:end]


def test_the_oldest_goes_first_and_the_bound_holds() -> None:
    ledger = AudioLedger(RATE, 1)
    for number in range(200):
        ledger.append(bytes([number]) * 640, 0)
        ledger.trim()
    assert (ledger.floor, ledger.end) == (150 * 640, 200 * 640)
    ledger.append(bytes(RATE + 2), 0)
    ledger.trim()
    assert ledger.floor == ledger.end


def test_pcm_is_measured_by_its_bytes_and_compressed_sound_by_the_clock() -> None:
    pcm, mp3 = AudioLedger(RATE, 30), AudioLedger(16_000, 30, compressed=True)
    for number in range(10):
        pcm.append(bytes(640), 0)
        mp3.append(bytes(100), 5 + number)
    assert (pcm.ms(3200), pcm.offset_at(100), pcm.offset_at(100.02)) == (100, 3200, 3200)
    assert (mp3.ms(100), mp3.ms(300), mp3.ms(350)) == (0, 2000, 3000)
    assert (mp3.offset_at(2000), mp3.offset_at(2500), mp3.offset_at(99_000)) == (300, 300, 1000)


def test_silence_speech_and_pauses_are_told_apart() -> None:
    ledger = AudioLedger(RATE, 30)
    ledger.append(tone(200, 8000) + tone(300, 100) + tone(200, 6000) + bytes(3200), 0)
    at = ledger.offset_at
    assert ledger.is_silent(at(200), at(500))
    assert not ledger.is_silent(at(100), at(300))
    assert ledger.speech_ms(0, ledger.end) == 400
    assert ledger.has_pause(0, at(700), 300)
    assert not ledger.has_pause(0, at(700), 320)
    assert not ledger.has_pause(at(200), at(700), 100)  # it has to begin with speech
    assert not ledger.has_pause(0, at(500), 100)  # and to end with it


def test_noise_that_is_much_softer_than_speech_counts_as_silence() -> None:
    ledger = AudioLedger(RATE, 30)
    ledger.append(tone(200, 20_000) + tone(200, 1500), 0)
    assert ledger.is_silent(ledger.offset_at(200), ledger.end)
    quiet = AudioLedger(RATE, 30)
    quiet.append(tone(200, 1500), 0)
    assert not quiet.is_silent(0, quiet.end)


def test_the_quietest_moment_and_the_silence_before_are_found() -> None:
    ledger = AudioLedger(RATE, 30)
    ledger.append(tone(100, 8000) + tone(40, 50) + tone(100, 8000), 0)
    assert 100 <= ledger.ms(ledger.quietest(0, ledger.end)) <= 140
    found = ledger.silence_before(ledger.end, 400)
    assert found is not None
    assert 100 <= ledger.ms(found) <= 140
    assert ledger.silence_before(ledger.end, 80) is None


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60), st.data())
def test_what_is_found_is_a_whole_sample_within_what_was_asked(sizes: list[int], data: st.DataObject) -> None:
    whole = tone(300, 8000) + bytes(1280) + tone(300, 8000)
    ledger, at = AudioLedger(RATE, 30), 0
    for size in sizes:
        ledger.append(whole[at : at + size], 0)
        at += size
    end = data.draw(st.integers(0, ledger.end))
    start = data.draw(st.integers(0, end))
    quietest = ledger.quietest(start, end)
    assert quietest % 2 == 0
    assert start - 1 <= quietest <= end
    found = ledger.silence_before(end, 400)
    assert found is None or (found % 2 == 0 and found <= end)
    ledger.release(start)
    assert ledger.aligned(start) % 2 == 0
    assert ledger.aligned(start) >= min(ledger.floor, start - 1)


@pytest.mark.parametrize("odd", [1, 3, 641])
def test_messages_of_odd_length_do_not_shift_samples(odd: int) -> None:
    whole = tone(200, 8000) + bytes(6400)
    ledger = AudioLedger(RATE, 30)
    for start in range(0, len(whole), odd):
        ledger.append(whole[start : start + odd], 0)
    assert ledger.speech_ms(0, ledger.end) == 200
