from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.engines.interface import RecognizedWord
from slng_sidecar.engines.pcm import tone
from slng_sidecar.engines.recognizers import RecognizedUtterance, SignalRecognizer
from slng_sidecar.engines.signal import SignalWord
from slng_sidecar.simulator import Simulator
from support.simulator_client import CLOSE, FINALIZE, NOVA, Client, dialled, fast, stt

SILENCE = bytes(2 * 16 * 400)


async def _speak(client: Client, *words: SignalWord | int, then: bytes = b"") -> None:
    pcm = signal.encode(words) + then
    await client.send(*(pcm[at : at + 640] for at in range(0, len(pcm), 640)))


async def test_a_finalize_is_answered_by_the_speech_before_it() -> None:
    async with fast() as simulator, stt(simulator) as client:
        await _speak(client, 1, 2)
        await client.send(FINALIZE)
        final = await client.until("final_transcript")
        assert final["transcript"] == "n1 n2"
        assert [word["word"] for word in final["words"]] == ["n1", "n2"]
        assert final["words"][1]["start"] == signal.frames_of(1) * 0.02


async def test_a_silence_ends_an_utterance() -> None:
    async with fast(endpoint_ms=300) as simulator, stt(simulator) as client:
        await _speak(client, 1, 2, then=SILENCE)
        await _speak(client, 3, then=SILENCE)
        await client.until("final_transcript")
        await client.until("final_transcript")
        assert client.transcripts() == ["n1 n2", "n3"]


async def test_a_final_comes_late_and_covers_only_the_speech_before_it() -> None:
    async with fast(final_ms=80) as simulator, stt(simulator) as client:
        loop = asyncio.get_running_loop()
        await _speak(client, 1)
        sent = loop.time()
        await client.send(FINALIZE)
        await _speak(client, 2, 3)
        assert (await client.until("final_transcript"))["transcript"] == "n1"
        assert 0.075 < loop.time() - sent < 1
        await client.send(FINALIZE)
        assert (await client.until("final_transcript"))["transcript"] == "n2 n3"


async def test_a_word_under_way_at_a_finalize_comes_whole_with_the_next_final() -> None:
    async with fast() as simulator, stt(simulator) as client:
        pcm = signal.encode([1, SignalWord(2, frames=20)])
        await client.send(pcm[:-6400], FINALIZE, pcm[-6400:], FINALIZE)
        await client.until("final_transcript")
        await client.until("final_transcript")
        assert client.transcripts() == ["n1", "n2"]


async def test_a_word_that_a_connection_received_in_part_is_a_fragment() -> None:
    async with fast() as simulator, stt(simulator) as client:
        pcm = signal.encode([SignalWord(1, frames=10), 2, SignalWord(3, frames=10)])
        await client.send(pcm[3200:-3200], CLOSE)
        await client.until_closed()
        assert client.transcripts() == ["frag:1 n2 frag:3"]


async def test_close_sends_the_remaining_finals_and_then_closes() -> None:
    async with fast(final_ms=50) as simulator, stt(simulator) as client:
        await _speak(client, 1)
        await client.send(FINALIZE)
        await _speak(client, 2)
        await client.send(CLOSE)
        assert await client.until_closed() == (1000, "")
        assert client.transcripts() == ["n1", "n2"]


async def test_close_can_be_ignored() -> None:
    async with fast(close_answer="ignore") as simulator, stt(simulator) as client:
        await client.send(CLOSE)
        await client.nothing_for(0.05)


async def test_stop_means_close() -> None:
    async with fast() as simulator, stt(simulator) as client:
        await client.send({"type": "stop"})
        assert (await client.until_closed())[0] == 1000


@pytest.mark.parametrize("initialized", [False, True])
async def test_audio_before_ready_closes_with_1008_and_no_message(initialized: bool) -> None:
    async with fast(ready_ms=5000) as simulator, dialled(simulator, "stt", NOVA) as client:
        if initialized:
            await client.send({"type": "init", "config": {}})
        await client.send(bytes(640))
        assert (await client.until_closed())[0] == 1008
        assert client.messages == []


async def test_base64_audio_is_an_error_and_the_connection_goes_on() -> None:
    async with fast() as simulator, stt(simulator) as client:
        await client.send({"type": "audio", "data": "AAAA"})
        await client.until("error")
        await _speak(client, 1)
        await client.send(FINALIZE)
        await client.until("final_transcript")


async def test_enable_vad_and_other_options_are_silently_accepted() -> None:
    async with fast() as simulator, stt(simulator, enable_vad=True, vad_threshold=0.5, channels=1) as client:
        await client.send(FINALIZE)
        assert (await client.until("final_transcript"))["transcript"] == ""


@pytest.mark.parametrize("config", [{"encoding": "mulaw"}, {"encoding": "alaw"}, {"sample_rate": 4000}])
async def test_audio_that_slng_does_not_accept_is_refused(config: dict[str, Any]) -> None:
    async with fast() as simulator, dialled(simulator, "stt", NOVA) as client:
        await client.send({"type": "init", "config": config})
        assert (await client.until("error"))["data"]["code"] == "config_error"


async def test_an_unsupported_encoding_may_close() -> None:
    async with fast(bad_encoding="close") as simulator, dialled(simulator, "stt", NOVA) as client:
        await client.send({"type": "init", "config": {"encoding": "mulaw"}})
        assert (await client.until_closed())[0] == 1008


async def test_a_strict_route_closes_on_a_foreign_language() -> None:
    async with fast(languages="en,hi") as simulator:
        async with stt(simulator, language="hi"):
            pass
        async with dialled(simulator, "stt", NOVA) as client:
            await client.send({"type": "init", "config": {"language": "fr"}})
            assert (await client.until_closed())[0] == 1008


async def _partials(simulator: Simulator, model: str, **config: Any) -> int:
    async with stt(simulator, model, **config) as client:
        for number in range(1, 9):
            await _speak(client, number)
        await client.send(CLOSE)
        await client.until_closed()
        return len(client.of("partial_transcript"))


async def test_partials_are_sent_if_requested_and_supported_by_the_route() -> None:
    async with fast() as simulator:
        assert await _partials(simulator, NOVA, enable_partials=True) > 0
        assert await _partials(simulator, NOVA) == 0
        assert await _partials(simulator, "sarvam/saaras:v3", enable_partials=True) == 0


async def test_partials_grow_and_never_follow_their_final() -> None:
    async with fast() as simulator, stt(simulator, enable_partials=True) as client:
        await _speak(client, 1, 2, 3, 4, 5)
        await client.send(FINALIZE)
        await client.until("final_transcript")
        partials = [message["transcript"] for message in client.of("partial_transcript")]
        assert partials == sorted(partials)
        assert len(set(partials)) == len(partials)
        await client.nothing_for(0.05)


async def test_a_slow_partial_is_not_sent_after_its_final(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = asyncio.Event(), asyncio.Event()

    async def words(_recognizer: SignalRecognizer, utterance: RecognizedUtterance) -> Sequence[RecognizedWord]:
        if not asked.is_set():
            asked.set()
            await answered.wait()
        return utterance.words

    monkeypatch.setattr(SignalRecognizer, "words", words)
    async with fast() as simulator, stt(simulator, enable_partials=True) as client:
        await _speak(client, 1, 2)
        await asked.wait()
        await client.send(FINALIZE)
        await client.until("final_transcript")
        answered.set()
        await client.send(CLOSE)
        await client.until_closed()
        assert client.types == ["ready", "final_transcript"]


async def test_an_empty_final_can_answer_and_the_words_come_later() -> None:
    async with fast(finalize_answer="empty") as simulator, stt(simulator) as client:
        await _speak(client, 1)
        await client.send(FINALIZE, CLOSE)
        await client.until_closed()
        assert client.transcripts() == ["", "n1"]


async def test_a_finalize_may_stay_unanswered() -> None:
    async with fast(finalize_answer="none") as simulator, stt(simulator) as client:
        await _speak(client, 1)
        await client.send(FINALIZE)
        await client.nothing_for(0.05)


@pytest.mark.parametrize(("variant", "count"), [("empty", 1), ("ignore", 0)])
async def test_a_finalize_without_speech_is_answered_as_the_profile_says(variant: str, count: int) -> None:
    async with fast(empty_finalize=variant) as simulator, stt(simulator) as client:
        await client.send(SILENCE, FINALIZE, CLOSE)
        await client.until_closed()
        assert client.transcripts() == [""] * count


async def test_an_unrelated_final_can_come_before_the_answer() -> None:
    async with fast(stray_final="mm-hm", final_ms=30) as simulator, stt(simulator) as client:
        await _speak(client, 1)
        await client.send(FINALIZE)
        await client.until("final_transcript")
        await client.until("final_transcript")
        assert client.transcripts() == ["mm-hm", "n1"]


async def test_gradium_sends_a_sentence_in_nine_finals() -> None:
    async with fast() as simulator, stt(simulator, "gradium/stt:default") as client:
        await _speak(client, *range(1, 12))
        await client.send(CLOSE)
        await client.until_closed()
        assert len(client.transcripts()) == 9
        assert " ".join(client.transcripts()) == " ".join(f"n{i}" for i in range(1, 12))


async def test_sarvam_writes_ten_as_a_number_and_sends_no_confidence() -> None:
    script = ("ten apples",)
    async with fast(speech="tone", script=script) as simulator, stt(simulator, "sarvam/saaras:v3") as client:
        await client.send(tone(500, 16_000), FINALIZE)
        final = await client.until("final_transcript")
        assert final["transcript"] == "10 apples"
        assert "confidence" not in final


async def test_soniox_reports_where_an_utterance_ended_and_nova_never_does() -> None:
    async with fast() as simulator:
        for model, count in (("soniox/speech-ai:rt-v5", 1), (NOVA, 0)):
            async with stt(simulator, model) as client:
                await _speak(client, SignalWord(1, frames=10))
                await client.send(CLOSE)
                await client.until_closed()
                ends = client.of("utterance_end")
                assert [end["last_word_end"] for end in ends] == [0.2] * count


async def test_deepgrams_own_frames_can_take_the_place_of_the_bridges() -> None:
    async with fast(results=True) as simulator, stt(simulator, enable_partials=True) as client:
        await _speak(client, 1, 2, 3, 4)
        await client.send(FINALIZE, CLOSE)
        await client.until_closed()
        results = client.of("Results")
        assert {"Metadata", "SpeechStarted", "Results"} <= set(client.types)
        assert client.transcripts() == []
        assert results[-1]["from_finalize"] is True
        assert results[-1]["channel"]["alternatives"][0]["transcript"] == "n1 n2 n3 n4"


async def test_finals_have_from_finalize_if_the_profile_says_so() -> None:
    async with fast(from_finalize=True) as simulator, stt(simulator) as client:
        await _speak(client, 1, then=SILENCE)
        await _speak(client, 2)
        await client.send(FINALIZE)
        await client.until("final_transcript")
        await client.until("final_transcript")
        assert [final["from_finalize"] for final in client.of("final_transcript")] == [False, True]


async def test_word_times_can_be_left_out() -> None:
    async with fast(words=False) as simulator, stt(simulator) as client:
        await _speak(client, 1)
        await client.send(FINALIZE)
        assert "words" not in await client.until("final_transcript")


async def test_compressed_audio_is_accepted_and_answered_by_the_script() -> None:
    async with fast(script=("one", "two")) as simulator, stt(simulator, encoding="opus") as client:
        await client.send(b"abc", b"def", FINALIZE)
        assert (await client.until("final_transcript"))["transcript"] == "one"


async def test_the_script_answers_each_loud_passage() -> None:
    async with fast(speech="tone", script=("hello there", "goodbye")) as simulator, stt(simulator) as client:
        await client.send(tone(500, 16_000), SILENCE, tone(500, 16_000), SILENCE, CLOSE)
        await client.until_closed()
        assert client.transcripts() == ["hello there", "goodbye"]


async def test_the_signals_own_model_is_exact_whatever_the_speech_option() -> None:
    async with fast(speech="tone") as simulator, stt(simulator, "slng/simulator/signal:1") as client:
        await _speak(client, 1)
        await client.send(FINALIZE)
        assert (await client.until("final_transcript"))["transcript"] == "n1"


async def test_received_audio_is_recorded() -> None:
    async with fast() as simulator, stt(simulator) as client:
        await _speak(client, 1, 2)
        await client.send(FINALIZE)
        await client.until("final_transcript")
        (record,) = simulator.log.of("stt")
        assert record.audio == signal.encode([1, 2])
        assert record.audio_in == len(record.audio)
        assert record.types == ["init", "finalize"]
