"""Sentences that are drawn anew in each run are spoken and understood through the gateway, which passes only audio.

``SPEECH_SEED`` repeats a run; a failure names its seed. Words are compared without capitals and punctuation.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics

import httpx
import pytest
from slng_sidecar.engines import hibari, moonshine
from slng_sidecar.simulator import SimulatorOptions
from support.engines import need_engine
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, gateway_and_simulator, talking
from support.sentences import drawn, share_right
from support.sounds import chords, crowd, melody, pcm_of, white_noise

SEED = int(os.environ.get("SPEECH_SEED") or secrets.randbelow(1_000_000))
COUNT = 20
RIGHT = 0.95
FIRST_AUDIO_SECONDS = 0.15
FINAL_SECONDS = 0.3

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(hibari, moonshine)


def options() -> SimulatorOptions:
    return SimulatorOptions.fast(speech="real")


async def test_sentences_are_understood_by_http() -> None:
    lines = drawn(SEED, COUNT)
    async with (
        gateway_and_simulator(options()) as (url, _),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
    ):
        pairs = []
        for line in lines:
            body = {"model": "tts-1", "voice": "alloy", "input": line, "response_format": "wav"}
            said = await client.post("/v1/audio/speech", json=body)
            assert said.status_code == 200, said.text
            heard = await client.post(
                "/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": ("a.wav", said.content)}
            )
            pairs.append((line, heard.json()["text"]))
    assert share_right(pairs) >= RIGHT, (SEED, pairs)


async def spoken_and_understood(lines: list[str]) -> tuple[list[tuple[str, str]], list[float], list[float]]:
    """Speak lines over one WebSocket and transcribe them over another.

    Returns:
        The lines with their transcripts, the seconds from each flush to the first audio, and from each end of speech
        to the final.
    """
    loop = asyncio.get_running_loop()
    pairs, first_audio, finals = [], [], []
    async with (
        gateway_and_simulator(options()) as (url, simulator),
        talking(url, "tts", AURA) as voice,
        talking(url, "stt", NOVA) as ear,
    ):
        await simulator.prepared.wait()
        await voice.send(TTS_INIT)
        await voice.until("ready")
        await ear.send(STT_INIT)
        await ear.until("ready")
        for line in lines:
            voice.audio.clear()
            flushed = loop.time()
            await voice.send({"type": "text", "text": line}, {"type": "flush"})
            while not isinstance(await voice.next(), bytes):
                pass
            first_audio.append(loop.time() - flushed)
            await voice.until("audio_end")
            pcm = bytes(voice.audio)
            await ear.send(*(pcm[at : at + 640] for at in range(0, len(pcm), 640)))
            ended = loop.time()
            await ear.send({"type": "finalize"})
            texts = []
            while True:
                final = await ear.until("final_transcript")
                texts.append(final["transcript"])
                if final.get("from_finalize"):
                    break
            finals.append(loop.time() - ended)
            pairs.append((line, " ".join(texts)))
    return pairs, first_audio, finals


async def test_sentences_are_understood_by_websocket() -> None:
    pairs, _, _ = await spoken_and_understood(drawn(SEED + 1, COUNT))
    assert share_right(pairs) >= RIGHT, (SEED, pairs)


@pytest.mark.slow
async def test_first_audio_and_finals_come_soon() -> None:
    _, first_audio, finals = await spoken_and_understood(drawn(SEED + 2, COUNT))
    print(
        f"first audio: median {statistics.median(first_audio):.3f} s, longest {max(first_audio):.3f} s; "
        f"final: median {statistics.median(finals):.3f} s, longest {max(finals):.3f} s"
    )
    assert statistics.median(first_audio) < FIRST_AUDIO_SECONDS
    assert statistics.median(finals) < FINAL_SECONDS


async def test_what_is_no_clear_speech_gives_no_transcript() -> None:
    lines = drawn(SEED, 8)
    one = await asyncio.to_thread(hibari.speak, " ".join(lines[:4]), "en", "neutral", 16_000)
    other = await asyncio.to_thread(hibari.speak, " ".join(lines[4:]), "en", "deep", 16_000)
    sounds = {
        "silence": bytes(2 * 16_000 * 3),
        "noise": pcm_of(white_noise(SEED, 3, 0.1)),
        "melody": pcm_of(melody(SEED, 4)),
        "chords": pcm_of(chords(SEED, 4)),
        "crowd": pcm_of(crowd(one, other)),
    }
    async with gateway_and_simulator(options()) as (url, _):
        for name, pcm in sounds.items():
            async with talking(url, "stt", NOVA) as ear:
                await ear.send(STT_INIT)
                await ear.until("ready")
                await ear.send(*(pcm[at : at + 640] for at in range(0, len(pcm), 640)), {"type": "finalize"})
                await ear.send({"type": "close"})
                await ear.until_closed()
                assert not "".join(ear.finals()), (SEED, name, ear.finals())
