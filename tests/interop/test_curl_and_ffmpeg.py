"""Speech and transcription with widely used tools, against the command and real speech."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from slng_sidecar.audio.resampling import resampler
from slng_sidecar.engines import signal
from slng_sidecar.simulator import recognize
from support.processes import need, serving, started
from support.running import gateway_and_simulator
from support.sentences import words_of

pytestmark = pytest.mark.slow

SENTENCE = "Please call the front desk and ask for a quiet room."
TTS = "/v1/bridges/unmute/tts/slng/deepgram/aura:2-en"
STT = "/v1/bridges/unmute/stt/slng/deepgram/nova:3-en"


@pytest.fixture(params=["auto with a regional gateway", "bridge with the global one"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Yield the address of a sidecar whose upstream has no HTTP bridge, or has one and must use it."""
    need("curl")
    regional = request.param.startswith("auto")
    options = ["--regional"] if regional else []
    async with started("simulate", "--port", "0", *options) as simulator:
        upstream = (await simulator.says(r"(ws://\S+:\d+)")).group(1)
        async with serving(
            SLNG_BASE_URL=upstream,
            SLNG_API_KEY="key-of-the-test",
            SLNG_HTTP_TTS=request.param.partition(" ")[0],
            SIDECAR_CONFIDENCE_SCOPE="off",
        ) as sidecar:
            yield sidecar.url


def run(*command: str | Path, cwd: Path, data: bytes | None = None) -> bytes:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, input=data, capture_output=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def curl(url: str, *arguments: str, cwd: Path) -> Any:
    return json.loads(run("curl", "-sS", "--fail-with-body", url, *arguments, cwd=cwd))


@pytest.mark.timeout(120)
async def test_curl_gets_speech_and_its_transcript(address: str, tmp_path: Path) -> None:
    run("curl", "-sS", "--fail", "-d", json.dumps({"text": SENTENCE}), f"{address}{TTS}", "-o", "a.wav", cwd=tmp_path)
    body = json.dumps({"model": "tts-1", "voice": "alloy", "input": SENTENCE, "response_format": "wav"})
    run("curl", "-sS", "--fail", "--json", body, f"{address}/v1/audio/speech", "-o", "b.wav", cwd=tmp_path)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()

    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    need("sox")
    by_sox = run("sox", "a.wav", "-t", "raw", "-", cwd=tmp_path)
    assert by_sox == samples.tobytes()
    assert 1.5 < len(samples) / rate < 6

    # The recognizer itself, with the same audio at the rate to which the sidecar converts it.
    resampling = resampler(rate, 16_000)
    pcm = resampling.feed(samples.tobytes()) + resampling.end()
    directly = await asyncio.to_thread(recognize, pcm, 16_000)
    form = ("-F", "model=whisper-1", "-F", "file=@a.wav")
    text = curl(f"{address}/v1/audio/transcriptions", *form, cwd=tmp_path)["text"]
    assert text == directly
    assert {"call", "front", "desk", "room"} <= set(words_of(text))
    reply = curl(f"{address}{STT}", "--data-binary", "@a.wav", cwd=tmp_path)
    assert reply["alternatives"][0]["transcript"] == text
    assert curl(f"{address}{STT}", "-F", "audio=@a.wav", cwd=tmp_path)["alternatives"][0]["transcript"] == text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "aac"])
async def test_speech_that_ffmpeg_converted_is_transcribed(name: str, tmp_path: Path) -> None:
    need("ffmpeg")
    need("curl")
    async with serving("--simulate") as sidecar:
        body = json.dumps({"input": SENTENCE, "response_format": name})
        speech = ("curl", "-sS", "--fail", "-d", body, f"{sidecar.url}/v1/audio/speech")
        suffix = "ogg" if name == "opus" else name
        run(*speech, "-o", f"a.{suffix}", cwd=tmp_path)
        run("ffmpeg", "-v", "error", "-i", f"a.{suffix}", "-ac", "2", "-ar", "44100", "b.m4a", cwd=tmp_path)
        form = ("-F", "file=@b.m4a", "-F", "model=whisper-1")
        text = curl(f"{sidecar.url}/v1/audio/transcriptions", *form, cwd=tmp_path)["text"]
        assert {"call", "front", "desk", "room"} <= set(words_of(text))


@pytest.mark.timeout(120)
async def test_ffmpeg_uploads_while_it_records(tmp_path: Path) -> None:
    need("ffmpeg")
    need("curl")
    async with serving("--simulate") as sidecar:
        body = json.dumps({"text": SENTENCE})
        run("curl", "-sS", "--fail", "-d", body, f"{sidecar.url}{TTS}", "-o", "a.wav", cwd=tmp_path)
        pipe = f"ffmpeg -v error -i a.wav -f webm -c:a libopus - | curl -sS --fail -T - -X POST {sidecar.url}{STT}"
        reply = run("bash", "-o", "pipefail", "-c", pipe, cwd=tmp_path)
        assert {"call", "front", "desk", "room"} <= set(words_of(json.loads(reply)["alternatives"][0]["transcript"]))


async def test_ffmpeg_alone_gets_a_text_spoken(tmp_path: Path) -> None:
    # FFmpeg alone cannot get a transcript, since it exits without reading the reply.
    need("ffmpeg")
    async with gateway_and_simulator() as (url, _):
        body = json.dumps({"input": "n1 n2 n3"}).encode().hex()
        process = await asyncio.create_subprocess_exec(
            "ffmpeg", "-v", "error", "-method", "POST", "-post_data", body, "-i", f"{url}/v1/audio/speech", "a.wav",
            cwd=tmp_path, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, output = await process.communicate()
        assert process.returncode == 0, output.decode()
        samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
        assert [word.text for word in signal.decode(samples.tobytes(), rate)] == ["n1", "n2", "n3"]
