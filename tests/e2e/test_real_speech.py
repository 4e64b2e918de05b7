"""Real speech: spoken sentences pass through the whole system in both directions."""

from __future__ import annotations

import asyncio
import subprocess
import wave
from pathlib import Path

import pytest
import soundfile
from slng_sidecar.simulator import recognize, speak
from support.processes import need, run
from support.sentences import words_of

SENTENCES = (
    "Please call the front desk and ask for a quiet room.",
    "The train to the city leaves at nine in the morning.",
    "I would like to change my order before it is too late.",
    "She opened the window and looked at the garden.",
    "Can you tell me where the nearest station is?",
)


def write_wav(path: Path, pcm: bytes, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return path


@pytest.mark.slow
async def test_a_spoken_wav_at_real_time_gives_what_the_recognizer_gives_directly(
    tmp_path: Path, shared_gateway: str
) -> None:
    recordings = [await asyncio.to_thread(speak, sentence) for sentence in SENTENCES]
    directly = [await asyncio.to_thread(recognize, pcm) for pcm in recordings]
    assert all(directly)
    files = [write_wav(tmp_path / f"{number}.wav", pcm) for number, pcm in enumerate(recordings)]
    done = await asyncio.gather(*(run("transcribe", file, "--url", shared_gateway) for file in files))
    assert [result.err for result in done] == [""] * len(files)
    assert [" ".join(result.out.split()) for result in done] == directly
    assert [words_of(text) for text in directly] == [words_of(sentence) for sentence in SENTENCES]


@pytest.mark.slow
async def test_a_long_text_of_several_utterances_keeps_their_order(tmp_path: Path, shared_gateway: str) -> None:
    pause = bytes(2 * 16_000)
    pcm = b"".join([await asyncio.to_thread(speak, sentence) + pause for sentence in SENTENCES])
    directly = await asyncio.to_thread(recognize, pcm)
    done = await run("transcribe", write_wav(tmp_path / "long.wav", pcm), "--pace", "4", "--url", shared_gateway)
    assert " ".join(done.out.split()) == directly
    assert len(done.out.splitlines()) >= len(SENTENCES)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
async def test_synthesized_audio_can_be_read_and_contains_speech(
    tmp_path: Path, shared_gateway: str, rate: int
) -> None:
    out = tmp_path / "said.wav"
    sentence = SENTENCES[0]
    done = await run("say", sentence, "-o", out, "--sample-rate", str(rate), "--url", shared_gateway)
    assert done.code == 0, done.err
    samples, read_rate = soundfile.read(out, dtype="int16")
    assert (read_rate, samples.ndim) == (rate, 1)
    assert 1.5 < len(samples) / rate < 6
    assert abs(samples).max() > 3000
    transcript = await asyncio.to_thread(recognize, samples.tobytes(), rate)
    assert words_of(transcript) == words_of(sentence)


async def test_sox_reads_the_synthesized_audio(tmp_path: Path, shared_gateway: str) -> None:
    need("sox")
    out = tmp_path / "said.wav"
    await run("say", SENTENCES[0], "-o", out, "--url", shared_gateway)
    done = subprocess.run(["sox", out, "-n", "stat"], capture_output=True, text=True, check=True)
    found = dict(line.split(":", 1) for line in done.stderr.splitlines() if ":" in line)
    assert 1.5 < float(found["Length (seconds)"]) < 6
    assert float(found["RMS     amplitude"]) > 0.01
    assert "WARN" not in done.stderr
