from __future__ import annotations

import io
import math
import wave
from array import array
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import soundfile
from slng_sidecar.engines.pcm import bytes_of, encode, resample, samples_of, to_alaw, to_mulaw, tone, wav_head


@pytest.mark.parametrize(("code", "subtype"), [(to_mulaw, "ULAW"), (to_alaw, "ALAW")])
def test_the_telephone_codecs_agree_with_libsndfile(code: Callable[[bytes], bytes], subtype: str) -> None:
    every = np.arange(-32_768, 32_768, dtype=np.int16)
    raw = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype, "dtype": "int16"}
    back, _ = soundfile.read(BytesIO(code(every.tobytes())), **raw)
    # Half a quantisation step of the codec: a sixteenth of the level, and at least 16.
    error = np.abs(back.astype(int) - every)
    assert (error <= np.maximum(8, np.abs(every.astype(int)) / 24 + 4)).all()


@pytest.mark.parametrize(("rate", "wanted"), [(16_000, 24_000), (24_000, 16_000), (22_050, 16_000), (16_000, 8000)])
def test_resampling_keeps_a_tone(rate: int, wanted: int) -> None:
    out = samples_of(resample(tone(500, rate), rate, wanted))
    expected = samples_of(tone(500, wanted))
    assert abs(len(out) - len(expected)) <= 1
    inner = slice(wanted // 20, len(expected) - wanted // 20)
    assert max(abs(a - b) for a, b in zip(out[inner], expected[inner], strict=True)) < 120


def test_resampling_removes_frequencies_above_the_lower_rate() -> None:
    high = array("h", (int(10_000 * math.sin(2 * math.pi * 7000 / 16_000 * i)) for i in range(8000)))
    out = samples_of(resample(bytes_of(high), 16_000, 8000))
    assert max(map(abs, out[100:-100])) < 700


def test_resampling_full_scale_does_not_wrap() -> None:
    # The filter overshoots just before a step. A value that wrapped would have the other sign.
    step = array("h", [-32_768] * 100 + [32_767] * 100)
    out = samples_of(resample(bytes_of(step), 16_000, 24_000))
    assert min(out) == -32_768
    assert max(out) == 32_767
    assert max(out[:148]) < 0 < min(out[152:292])


def test_a_wav_head_with_the_true_size_is_read_by_pythons_wave() -> None:
    pcm = tone(100, 8000)
    with wave.open(io.BytesIO(wav_head(8000, len(pcm)) + pcm)) as file:
        assert (file.getframerate(), file.getnchannels(), file.readframes(10_000)) == (8000, 1, pcm)


def test_an_unsupported_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="mp3"):
        encode(b"", "mp3")
