"""The installed voices and recognizers, and the processes that they run in."""

from __future__ import annotations

import asyncio
import shutil
from importlib.util import find_spec
from itertools import pairwise

import pytest
from slng_sidecar.engines import pcm as sound
from slng_sidecar.engines import pocketsphinx, voices
from slng_sidecar.engines.pocketsphinx import SpeechSegment, SpeechSegmenter, recognize_segment
from slng_sidecar.engines.workers import WorkerFailed, Workers
from slng_sidecar.simulator import SimulatorOptions, create_simulator, describe, recognize, speak
from support.simulator_client import CLOSE, FINALIZE, FLUSH, NOVA, fast, stt, text, tts

pytestmark = pytest.mark.skipif(
    not (voices.voice_installed() and pocketsphinx.recognizer_installed()),
    reason="no voice or no recognizer is installed",
)
SENTENCE = "please call me tomorrow morning"
OTHER = "the weather is very nice today"
SILENCE = bytes(2 * 16_000)


async def first_spoken(text: str, rate: int) -> bytes:
    """Synthesize a text in a new process, which makes the same audio each time.

    eSpeak NG adds random breath noise, so the same text sounds different each time in one process. The recognizer
    misrecognizes about one in thirty of them.
    """
    workers = Workers(1)
    try:
        return await workers.speak(text, rate)
    finally:
        await workers.close()


async def test_synthesized_speech_is_recognized() -> None:
    pcm = await first_spoken(SENTENCE, 16_000)
    assert await asyncio.to_thread(recognize, pcm) == SENTENCE


async def test_speech_at_another_sample_rate_is_recognized() -> None:
    pcm = await first_spoken(SENTENCE, 24_000)
    assert await asyncio.to_thread(recognize, pcm, 24_000) == SENTENCE


def test_espeak_synthesizes_speech() -> None:
    pytest.importorskip("espeakng_loader")
    pcm, rate = voices._espeak().say("hello")
    assert 0.2 < len(pcm) / 2 / rate < 2
    assert max(sound.samples_of(pcm)) > 1000


def test_speech_is_synthesized_without_flite(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    voices.voice_installed.cache_clear()
    request.addfinalizer(voices.voice_installed.cache_clear)
    assert voices.voice_installed() == ("espeak" if find_spec("espeakng_loader") else None)
    assert len(speak("hello", 16_000)) > 5000


def test_a_segment_has_the_same_words_whatever_was_decoded_before_it() -> None:
    one, other = SpeechSegment(speak(SENTENCE), 16_000, 0), SpeechSegment(speak("the weather is nice"), 16_000, 0)
    first = recognize_segment(one)
    recognize_segment(other)
    assert recognize_segment(one) == first


def test_segments_do_not_depend_on_how_the_audio_is_split() -> None:
    pcm = speak(SENTENCE) + SILENCE + speak(OTHER) + SILENCE
    whole = SpeechSegmenter(16_000, 300).feed(pcm)
    cuts = [*range(0, len(pcm), 997), len(pcm)]
    segmenter = SpeechSegmenter(16_000, 300)
    assert [segment for a, b in pairwise(cuts) for segment in segmenter.feed(pcm[a:b])] == whole
    assert len(whole) == 2


def test_a_segment_is_the_same_whether_a_silence_or_a_finalize_ended_it() -> None:
    pcm = speak(SENTENCE) + SILENCE
    (by_silence,) = SpeechSegmenter(16_000, 300).feed(pcm)
    segmenter = SpeechSegmenter(16_000, 0)
    assert segmenter.feed(pcm) == []
    assert segmenter.finish() == by_silence
    assert segmenter.finish() is None


def test_silence_has_no_segments() -> None:
    segmenter = SpeechSegmenter(16_000, 300)
    assert segmenter.feed(SILENCE * 5) == []
    assert segmenter.finish() is None
    assert segmenter.position_ms == 5000


async def test_a_session_sends_what_the_recognizer_returns() -> None:
    pcm = (
        await asyncio.to_thread(speak, SENTENCE, 24_000) + bytes(24_000) + await asyncio.to_thread(speak, OTHER, 24_000)
    )
    async with fast(speech="real") as simulator, stt(simulator, sample_rate=24_000, enable_partials=True) as client:
        await client.send(*(pcm[at : at + 960] for at in range(0, len(pcm), 960)), FINALIZE, CLOSE)
        await client.until_closed()
        assert " ".join(client.transcripts()).split() == (await asyncio.to_thread(recognize, pcm, 24_000)).split()
        words = [word for final in client.of("final_transcript") for word in final.get("words", ())]
        times = [at for word in words for at in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[-1] <= len(pcm) / 48_000
        assert all(0 < final["confidence"] <= 1 for final in client.of("final_transcript") if final["transcript"])


async def test_partials_come_while_speech_goes_on() -> None:
    pcm = await asyncio.to_thread(speak, OTHER)
    async with fast(speech="real") as simulator, stt(simulator, enable_partials=True) as client:
        await simulator.prepared.wait()
        await client.send(pcm[: len(pcm) // 2])
        for at in range(len(pcm) // 2, len(pcm), 640):
            await client.send(pcm[at : at + 640])
            await asyncio.sleep(0.01)
        await client.until("partial_transcript")


async def test_a_tts_session_sends_speech_that_is_recognized() -> None:
    async with fast(speech="real") as simulator, tts(simulator, sample_rate=16_000) as client:
        await client.send(text(SENTENCE), FLUSH)
        await client.until("audio_end")
        assert await asyncio.to_thread(recognize, bytes(client.audio)) == SENTENCE


async def test_recognition_does_not_delay_other_connections() -> None:
    pcm = await asyncio.to_thread(speak, OTHER)
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


async def test_a_failing_call_is_reported_and_the_worker_goes_on() -> None:
    workers = Workers(1)
    try:
        with pytest.raises(WorkerFailed, match="speak"):
            await workers._call("speak")
        assert len(await workers.speak("hello", 8000)) > 1000
    finally:
        await workers.close()


async def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    workers = Workers(1)
    try:
        await workers.speak("hello", 8000)
        process = workers._workers[0]._process
        assert process is not None
        process.kill()
        with pytest.raises(WorkerFailed, match="ended"):
            await workers.speak("hello", 8000)
        assert len(await workers.speak("hello", 8000)) > 1000
    finally:
        await workers.close()


async def test_an_abandoned_answer_is_not_used_for_the_next_request() -> None:
    workers, reference = Workers(1), Workers(1)
    texts = ("hello", "a much longer sentence than the next", "hello")
    try:
        # The audio of eSpeak NG depends on what its process synthesized before, so another process synthesizes the same
        # texts.
        expected = [await reference.speak(text, 8000) for text in texts]
        assert await workers.speak(texts[0], 8000) == expected[0]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(workers.speak(texts[1], 8000), 0.001)
        assert await workers.speak(texts[2], 8000) == expected[2]
        assert expected[2] != expected[1]
    finally:
        await workers.close()
        await reference.close()


async def test_workers_end_with_the_simulator() -> None:
    async with fast(speech="real") as simulator, tts(simulator) as client:
        await client.send(text("hello"), FLUSH)
        await client.until("audio_end")
        processes = [worker._process for worker in simulator.workers._workers if worker._process]
    assert processes
    assert all(process.returncode is not None for process in processes)


def test_the_voice_and_the_recognizer_in_use_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe("auto") in (("flite", "PocketSphinx"), ("eSpeak NG", "PocketSphinx"))
    assert describe("signal") == ("the numbered signal", "the numbered signal")
    monkeypatch.setattr(voices, "voice_installed", lambda: None)
    monkeypatch.setattr(pocketsphinx, "recognizer_installed", lambda: False)
    assert describe("auto") == ("a tone", "a script")
    with pytest.raises(RuntimeError, match=r"slng-sidecar\[simulator\]"):
        create_simulator(SimulatorOptions(speech="real"))


async def test_without_the_extra_a_tone_and_a_script_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "voice_installed", lambda: None)
    monkeypatch.setattr(pocketsphinx, "recognizer_installed", lambda: False)
    async with fast(speech="auto", script=("hello there",)) as simulator:
        async with tts(simulator) as client:
            await client.send(text("ten chars!"), FLUSH)
            await client.until("audio_end")
            assert len(client.audio) == 2 * 16 * 600
            tone_audio = bytes(client.audio)
        async with stt(simulator) as client:
            await client.send(tone_audio, FINALIZE)
            assert (await client.until("final_transcript"))["transcript"] == "hello there"
