"""OpenAI's own Python client against a sidecar. Only the base URL differs."""

from __future__ import annotations

import io
from pathlib import Path

import openai
import pytest
import soundfile
from openai import AsyncOpenAI
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.engines import signal
from slng_sidecar.simulator import SimulatorOptions
from support.running import AURA, NOVA, gateway_and_simulator

TEXT = "n1 n2 n3 n4 n5 n6"
PCM = signal.encode([signal.SignalWord(n, gap=30 if n == 3 else 2) for n in range(1, 7)], 16_000)
WAV = wav_header(16_000, data_size=len(PCM)) + PCM


def client(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=10)


async def test_whole_and_streamed_speech_have_the_same_audio(tmp_path: Path) -> None:
    async with gateway_and_simulator() as (url, _), client(url) as api:
        whole = await api.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="wav")
        samples, rate = soundfile.read(io.BytesIO(whole.content), dtype="int16")
        assert [word.text for word in signal.decode(samples.tobytes(), rate)] == TEXT.split()
        path = tmp_path / "speech.wav"
        streaming = api.audio.speech.with_streaming_response
        async with streaming.create(model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="wav") as reply:
            assert reply.headers["x-model"] == AURA
            await reply.stream_to_file(path)
        assert path.read_bytes() == whole.content


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav", "pcm"])
async def test_every_format_of_the_client_is_delivered(name: str) -> None:
    async with gateway_and_simulator() as (url, _), client(url) as api:
        reply = await api.audio.speech.create(
            model="tts-1",
            voice="alloy",
            input=TEXT,
            response_format=name,  # type: ignore[arg-type] # one of its literals
        )
        assert len(reply.content) > 1_000


async def test_a_transcription_comes_as_an_object_as_text_and_as_verbose_json() -> None:
    async with gateway_and_simulator() as (url, _), client(url) as api:
        file = ("hello.wav", WAV)
        done = await api.audio.transcriptions.create(model="whisper-1", file=file)
        assert done.text == TEXT
        text = await api.audio.transcriptions.create(model="whisper-1", file=file, response_format="text")
        assert text == f"{TEXT}\n"
        verbose = await api.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
        )
        assert verbose.duration == pytest.approx(len(PCM) / 32_000, abs=0.001)
        assert [segment.text for segment in verbose.segments or ()] == ["n1 n2 n3", "n4 n5 n6"]
        assert [word.word for word in verbose.words or ()] == TEXT.split()


async def test_a_transcription_is_streamed() -> None:
    async with gateway_and_simulator() as (url, _), client(url) as api:
        deltas, done = [], ""
        stream = await api.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), stream=True)
        async for event in stream:
            if event.type == "transcript.text.delta":
                deltas.append(event.delta)
            elif event.type == "transcript.text.done":
                done = event.text
        assert "".join(deltas) == done == TEXT
        assert len(deltas) == 2


async def test_models_are_listed_and_found() -> None:
    async with gateway_and_simulator() as (url, _), client(url) as api:
        names = [model.id async for model in api.models.list()]
        assert {AURA, NOVA} <= set(names)
        assert (await api.models.retrieve(AURA)).owned_by == "deepgram"
        with pytest.raises(openai.NotFoundError):
            await api.models.retrieve("gpt-9")


async def test_a_refusal_is_an_exception_of_the_client_with_the_sidecar_s_message() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(keys=("x",))) as (url, _), client(url) as api:
        with pytest.raises(openai.AuthenticationError, match="SLNG_API_KEY"):
            await api.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        with pytest.raises(openai.AuthenticationError, match="SLNG_API_KEY"):
            await api.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV))
    async with gateway_and_simulator() as (url, _), client(url) as api:
        with pytest.raises(openai.APIStatusError, match="not audio that can be decoded") as caught:
            await api.audio.transcriptions.create(model="whisper-1", file=("a.txt", b"hello" * 100))
        assert caught.value.status_code == 415
        with pytest.raises(openai.APIStatusError, match="10,000 characters"):
            await api.audio.speech.create(model="tts-1", voice="alloy", input="a" * 10_001)


async def test_a_stream_that_fails_in_the_middle_raises() -> None:
    async with gateway_and_simulator(sidecar_reconnect_seconds=0.3) as (url, simulator), client(url) as api:
        for number in range(2, 40):
            simulator.inject(do="refuse", kind="stt", status=503, connection=number)
        simulator.inject(do="drop", kind="stt", when="audio", after_ms=8_000)
        longer = signal.encode([signal.SignalWord(n, gap=30 if n % 10 == 0 else 2) for n in range(1, 60)], 16_000)
        file = ("a.wav", wav_header(16_000) + longer)
        stream = await api.audio.transcriptions.create(model="whisper-1", file=file, stream=True)
        with pytest.raises(openai.APIError, match="did not come back"):
            [event async for event in stream]
