"""Long requests to a separate process: the memory that the process uses for them is bounded, whatever their length."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import httpx
import numpy
import pytest
import soundfile
from slng_sidecar.audio.wav import wav_header
from support.processes import Running, serving, started

pytestmark = pytest.mark.slow

RATE = 16_000
HOUR = 3_600
MOST_MB = 8
STT = "/v1/bridges/unmute/stt/slng/deepgram/nova:3-en"
# A second with a pause in it, so that there are finals.
SECOND = (numpy.sin(numpy.arange(RATE) * 0.17) * 8_000 * (numpy.arange(RATE) < RATE * 0.6)).astype("<i2")


@pytest.fixture
async def sidecar() -> AsyncIterator[Running]:
    """Run a sidecar whose upstream, a separate process, transcribes by a script and without delay."""
    async with started("simulate", "--port", "0", "--speech", "tone", "--set", "pace=0") as simulator:
        upstream = (await simulator.says(r"(ws://\S+:\d+)")).group(1)
        # The simulator generates the tone of the whole text before it sends any, which takes long on a busy machine.
        async with serving(
            SLNG_BASE_URL=upstream, SLNG_API_KEY="key-of-the-test", SIDECAR_FIRST_AUDIO_TIMEOUT="100"
        ) as running:
            yield running


def resident_mb(running: Running) -> float:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


async def growth_mb(running: Running, work: Awaitable[None]) -> float:
    """Run a coroutine and return the largest growth of the process' memory during it."""
    before = most = resident_mb(running)
    doing = asyncio.ensure_future(work)
    while not doing.done():
        await asyncio.wait([doing], timeout=0.05)
        most = max(most, resident_mb(running))
    doing.result()
    return most - before


@contextlib.asynccontextmanager
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=100) as http:
        yield http


async def wav(seconds: int) -> AsyncIterator[bytes]:
    yield wav_header(RATE)
    for _ in range(seconds):
        yield SECOND.tobytes()


async def in_a_form(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return an OpenAI form whose model comes first, so that its file can be transcribed while it is uploaded."""
    yield b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    async for part in parts:
        yield part
    yield b"\r\n--b--\r\n"


async def of(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(65_536):
            yield data


@pytest.mark.timeout(120)
async def test_an_hour_of_wav_is_transcribed_in_bounded_memory(sidecar: Running) -> None:
    async def transcribe(seconds: int) -> None:
        async with client(sidecar) as http:
            reply = await http.post(STT, content=wav(seconds))
            assert reply.status_code == 200
            assert reply.json()["duration"] == seconds
            # Every utterance is in the transcript.
            assert len(reply.json()["alternatives"][0]["transcript"].split()) >= seconds

    await transcribe(20)
    assert await growth_mb(sidecar, transcribe(HOUR)) < MOST_MB


@pytest.mark.timeout(120)
@pytest.mark.parametrize("form", ["FLAC", "MP3"])
async def test_an_hour_of_a_compressed_file_is_transcribed_in_bounded_memory(
    form: str, sidecar: Running, tmp_path: Path
) -> None:
    def written(seconds: int) -> Path:
        path = tmp_path / f"{seconds}.{form.lower()}"
        soundfile.write(path, numpy.tile(SECOND, seconds), RATE, format=form)
        return path

    async def transcribe(path: Path, seconds: int) -> None:
        async with client(sidecar) as http:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            reply = await http.post("/v1/audio/transcriptions", content=in_a_form(of(path)), headers=headers)
            assert reply.status_code == 200
            assert reply.json()["usage"]["seconds"] == pytest.approx(seconds, abs=0.2)

    short, long = written(20), written(HOUR)
    await transcribe(short, 20)
    assert await growth_mb(sidecar, transcribe(long, HOUR)) < MOST_MB


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["wav", "mp3"])
async def test_a_long_text_is_spoken_in_bounded_memory_to_a_slow_reader(name: str, sidecar: Running) -> None:
    sizes = []

    async def speak(words: int) -> None:
        body = {"input": "word " * words, "response_format": name}
        size = 0
        async with client(sidecar) as http, http.stream("POST", "/v1/audio/speech", json=body) as reply:
            assert reply.status_code == 200
            async for data in reply.aiter_raw(65_536):
                size += len(data)
                await asyncio.sleep(0.002)
        sizes.append(size)

    await speak(20)
    assert await growth_mb(sidecar, speak(2_000)) < MOST_MB
    assert sizes[1] > 50 * sizes[0]
