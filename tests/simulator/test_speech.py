"""The simulator with real speech: what its sessions and its HTTP routes say and understand."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import espeak, hibari, moonshine
from slng_sidecar.engines.pcm import tone
from slng_sidecar.engines.selection import recognize, speak
from slng_sidecar.simulator import Simulator, SimulatorOptions, create_simulator
from slng_sidecar.simulator.voices import timbre_of, voices_of
from support.engines import need_engine
from support.sentences import words_of
from support.simulator_client import AURA, CLEAR, CLOSE, FINALIZE, FLUSH, KEY, NOVA, dialled, fast, stt, text, tts
from support.sounds import pcm_of, white_noise

SENTENCE = "Please call me in the morning."
OTHER = "The weather is very nice today."


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(hibari, moonshine, espeak)


async def spoken(words: str, rate: int = 16_000) -> bytes:
    return await asyncio.to_thread(speak, words, rate)


async def understood(pcm: bytes) -> list[str]:
    return words_of(await asyncio.to_thread(recognize, pcm))


async def test_a_session_sends_what_the_recognizer_returns() -> None:
    pcm = await spoken(SENTENCE, 24_000) + bytes(24_000) + await spoken(OTHER, 24_000)
    async with fast(speech="real") as simulator, stt(simulator, sample_rate=24_000, enable_partials=True) as client:
        await client.send(*(pcm[at : at + 960] for at in range(0, len(pcm), 960)), FINALIZE, CLOSE)
        await client.until_closed()
        assert words_of(" ".join(client.transcripts())) == words_of(f"{SENTENCE} {OTHER}")
        words = [word for final in client.of("final_transcript") for word in final.get("words", ())]
        times = [at for word in words for at in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= len(pcm) / 48_000
        assert all(0.5 < final["confidence"] <= 1 for final in client.of("final_transcript") if final["transcript"])


async def test_partials_come_while_speech_goes_on() -> None:
    pcm = await spoken(OTHER)
    async with fast(speech="real") as simulator, stt(simulator, enable_partials=True) as client:
        await simulator.prepared.wait()
        await client.send(pcm[: len(pcm) // 2])
        for at in range(len(pcm) // 2, len(pcm), 640):
            await client.send(pcm[at : at + 640])
            await asyncio.sleep(0.01)
        partial = await client.until("partial_transcript")
        assert words_of(partial["transcript"])[:2] == ["the", "weather"]


async def test_noise_gives_no_confident_final() -> None:
    async with fast(speech="real") as simulator, stt(simulator) as client:
        await client.send(pcm_of(white_noise(1, 3, 0.1)), FINALIZE)
        final = await client.until("final_transcript")
        assert not final["transcript"] or final["confidence"] < 0.5


async def test_a_tts_session_sends_speech_that_is_recognized() -> None:
    async with fast(speech="real") as simulator, tts(simulator, sample_rate=16_000) as client:
        await client.send(text(SENTENCE), FLUSH)
        await client.until("audio_end")
        assert await understood(bytes(client.audio)) == words_of(SENTENCE)


async def test_another_voice_sounds_different_and_says_the_same() -> None:
    heard = []
    async with fast(speech="real") as simulator:
        for voice in ("aura-2-thalia-en", "aura-2-apollo-en", "aura-2-helena-en"):
            async with dialled(simulator, "tts", AURA) as client:
                config = {"sample_rate": 16_000, "encoding": "linear16"}
                await client.send({"type": "init", "voice": voice, "config": config}, text(SENTENCE), FLUSH)
                await client.until("audio_end")
                heard.append(bytes(client.audio))
    assert len(set(heard)) == 3
    for audio in heard:
        assert await understood(audio) == words_of(SENTENCE)


async def test_recognition_does_not_delay_other_connections() -> None:
    pcm = await spoken(OTHER)
    async with fast(speech="real") as simulator, stt(simulator) as busy, stt(simulator, NOVA) as other:
        loop = asyncio.get_running_loop()
        await busy.send(pcm, FINALIZE)
        answers: list[float] = []
        while not busy.transcripts() and len(answers) < 20:
            sent = loop.time()
            await other.send({"type": "audio"})
            await other.until("error")
            answers.append(loop.time() - sent)
        assert sorted(answers)[len(answers) // 2] < 0.05
        await busy.until("final_transcript")


async def test_the_first_text_waits_for_the_engines_to_load() -> None:
    async with fast(speech="real") as simulator, tts(simulator) as client:
        assert not simulator.prepared.is_set()
        await client.send(text("Hello."), FLUSH)
        await client.until("audio_end")
        assert len(client.audio) > 10_000


async def test_a_long_text_starts_with_its_first_sentence_and_ends_at_a_clear() -> None:
    long = "This is one of many sentences. " * 330
    assert len(long) > 10_000
    async with fast(speech="real") as simulator, tts(simulator) as client:
        await simulator.prepared.wait()
        await client.send(text("Short."), FLUSH)
        await client.until("audio_end")
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await client.send(text(long), FLUSH)
            await client.next_audio()
            sent = loop.time()
            await client.send(CLEAR)
            await client.until("cleared")
            # The rest would take several seconds. 100 ms is the promise on a machine with nothing else to do.
            assert loop.time() - sent < 1


async def synthesized_by(simulator: Simulator, kind: str, language: str) -> dict[str, Any]:
    async with dialled(simulator, kind, AURA if kind == "tts" else NOVA) as client:
        await client.send({"type": "init", "config": {"sample_rate": 16_000, "language": language}})
        return await client.until("error")


async def test_a_language_that_no_engine_has_is_an_error_that_names_those_that_there_are() -> None:
    async with fast(speech="real") as simulator:
        tts_error = await synthesized_by(simulator, "tts", "tlh")
        stt_error = await synthesized_by(simulator, "stt", "es")
    assert tts_error["data"]["code"] == stt_error["data"]["code"] == "config_error"
    assert "de, " in tts_error["data"]["message"]
    assert "'tlh'" in tts_error["data"]["message"]
    assert stt_error["data"]["message"] == "the simulator recognizes en, not 'es'"


async def test_another_language_is_spoken_in_that_language() -> None:
    async with fast(speech="real") as simulator, tts(simulator, language="es") as client:
        await client.send(text("Buenos días."), FLUSH)
        await client.until("audio_end")
        spanish = bytes(client.audio)
    assert spanish == await _by_espeak("Buenos días.")


async def _by_espeak(words: str) -> bytes:
    async with fast(synthesizer="espeak", speech="tone") as simulator, tts(simulator, language="es") as client:
        await client.send(text(words), FLUSH)
        await client.until("audio_end")
        return bytes(client.audio)


async def post(simulator: Simulator, path: str, **request: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30, base_url=simulator.http_url, headers=KEY) as client:
        return await client.post(f"/v1/bridges/unmute/{path}", **request)


async def test_speech_by_http_is_understood_by_http() -> None:
    async with fast(speech="real") as simulator:
        said = await post(simulator, f"tts/{AURA}", json={"text": f"{SENTENCE} {OTHER}"})
        reply = (await post(simulator, f"stt/{NOVA}", content=said.content)).json()
    assert words_of(reply["alternatives"][0]["transcript"]) == words_of(f"{SENTENCE} {OTHER}")
    assert reply["alternatives"][0]["confidence"] > 0.5


async def test_http_refuses_a_language_that_no_engine_has() -> None:
    async with fast(speech="real") as simulator:
        heard = await post(simulator, f"stt/{NOVA}", files={"audio": tone(500, 16_000)}, data={"language": "es"})
    assert (heard.status_code, heard.json()["error"]) == (400, "the simulator recognizes en, not 'es'")


def test_each_voice_of_the_catalogue_has_a_timbre() -> None:
    for model in (AURA, "deepgram/aura:2", "slng/rime/arcana:3-en"):
        assert voices_of(model)
    assert {voice.timbre for voice in voices_of(AURA)} == {"neutral", "deep", "bright"}
    assert timbre_of(None) == "neutral"
    assert timbre_of("aura-2-apollo-en") == "deep"
    assert {timbre_of(f"any name {number}") for number in range(20)} == {"neutral", "deep", "bright"}


async def test_an_engine_process_that_dies_costs_one_text_only() -> None:
    async with fast(speech="real") as simulator, tts(simulator) as client:
        await simulator.prepared.wait()
        [worker] = simulator.engines._synthesizing._workers
        assert worker._process is not None
        worker._process.kill()
        await client.send(text("Lost."))
        error = await client.until("error")
        assert error["data"]["code"] == "provider_error"
        await client.send(text("Spoken."), FLUSH)
        await client.until("audio_end")
        assert len(client.audio) > 10_000


async def test_the_engines_end_with_the_simulator() -> None:
    async with fast(speech="real") as simulator, tts(simulator) as client:
        await client.send(text("hello"), FLUSH)
        await client.until("audio_end")
        engines = simulator.engines
        workers = [*engines._synthesizing._workers, *engines._recognizing._workers]
        processes = [worker._process for worker in workers if worker._process]
    assert processes
    assert all(process.returncode is not None for process in processes)


def test_real_speech_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("hibari", "flite", "espeak"):
        monkeypatch.setattr(f"slng_sidecar.engines.{engine}.installed", lambda: False)
    with pytest.raises(RuntimeError, match=r"slng-sidecar\[simulator\]"):
        create_simulator(SimulatorOptions(speech="real"))


async def test_without_an_engine_a_tone_and_a_script_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("hibari", "flite", "espeak", "moonshine", "pocketsphinx"):
        monkeypatch.setattr(f"slng_sidecar.engines.{engine}.installed", lambda: False)
    async with fast(speech="auto", script=("hello there",)) as simulator:
        async with tts(simulator) as client:
            await client.send(text("ten chars!"), FLUSH)
            await client.until("audio_end")
            assert len(client.audio) == 2 * 16 * 600
            tone_audio = bytes(client.audio)
        async with stt(simulator) as client:
            await client.send(tone_audio, FINALIZE)
            assert (await client.until("final_transcript"))["transcript"] == "hello there"
