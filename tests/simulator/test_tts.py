from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.engines.pcm import to_alaw, to_mulaw
from support.simulator_client import AURA, CLEAR, CLOSE, FLUSH, Client, dialled, fast, text, tts

INIT = {"type": "init", "config": {"sample_rate": 16_000, "encoding": "linear16"}}


async def _turn(client: Client, words: str = "n1 n2") -> None:
    await client.send(text(words), FLUSH)
    await client.until("audio_end")


async def test_the_words_of_a_turn_are_spoken_and_it_ends_once() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await client.send(text("n1 n2"), text("n3"), FLUSH)
        end = await client.until("audio_end")
        assert client.words() == ["n1", "n2", "n3"]
        assert end["duration"] == len(client.audio) / 32_000
        await client.nothing_for(0.05)


async def test_words_without_numbers_are_numbered_over_the_whole_connection() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await _turn(client, "good morning")
        await _turn(client, "sir")
        first = signal.FIRST_RUNNING_NUMBER
        assert client.words() == [f"n{first}", f"n{first + 1}", f"n{first + 2}"]


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 32_000, 48_000])
async def test_speech_has_the_rate_that_init_requests(rate: int) -> None:
    async with fast() as simulator, tts(simulator, sample_rate=rate) as client:
        await _turn(client)
        assert client.words(rate) == ["n1", "n2"]


async def test_speech_can_be_mulaw_and_alaw() -> None:
    plain = signal.encode(signal.words_of_text("n1 n2"), 8000)
    for encoding, coded in (("mulaw", to_mulaw(plain)), ("alaw", to_alaw(plain))):
        async with fast() as simulator, tts(simulator, sample_rate=8000, encoding=encoding) as client:
            await _turn(client)
            assert client.audio == coded


@pytest.mark.parametrize("config", [{"encoding": "mp3"}, {"encoding": "opus"}, {"sample_rate": 44_100}])
async def test_audio_settings_that_are_not_supported_are_refused(config: dict[str, Any]) -> None:
    async with fast() as simulator, dialled(simulator, "tts", AURA) as client:
        await client.send({"type": "init", "config": config})
        assert (await client.until("error"))["data"]["code"] == "config_error"


async def test_text_before_ready_is_accepted_and_spoken() -> None:
    async with fast(ready_ms=50) as simulator, dialled(simulator, "tts", AURA) as client:
        await client.send(INIT, text("n1"), FLUSH)
        await client.until("audio_end")
        assert client.types == ["ready", "audio_end"]
        assert client.words() == ["n1"]


async def test_text_and_flush_before_init_are_errors_and_ignored() -> None:
    async with fast() as simulator, dialled(simulator, "tts", AURA) as client:
        await client.send(text("n1"), FLUSH, INIT)
        await client.until("ready")
        assert client.types == ["error", "error", "ready"]
        await _turn(client, "n2")
        assert client.words() == ["n2"]


@pytest.mark.parametrize(
    ("terminal", "types"),
    [
        ("audio_end", ["audio_end"]),
        ("flushed", ["flushed"]),
        ("both", ["audio_end", "flushed"]),
        ("flushed_first", ["flushed", "audio_end"]),
        ("twice", ["audio_end", "audio_end"]),
        ("done", ["done"]),
        ("event", ["event"]),
        ("is_final", [""]),
        ("none", []),
    ],
)
async def test_a_turn_can_end_in_every_form_that_clients_accept(terminal: str, types: list[str]) -> None:
    async with fast(terminal=terminal) as simulator, tts(simulator) as client:
        # An error marks the end of what comes.
        await client.send(text("n1"), FLUSH)
        await client.next()
        simulator.inject(do="error", kind="tts", when="keepalive", message="mark", shape="top")
        while len(client.types) - 1 < len(types) or client.words() != ["n1"]:
            await client.next()
        await client.send({"type": "keepalive"})
        await client.until("error")
        assert client.types == ["ready", *types, "error"]


async def test_a_turn_without_audio_still_ends() -> None:
    async with fast(silent=True) as simulator, tts(simulator) as client:
        await _turn(client)
        assert client.binaries == 0


async def test_a_segment_may_end_before_the_flush() -> None:
    async with fast(segments=True, segment_terminal=True) as simulator, tts(simulator) as client:
        await client.send(text("n1"))
        await client.until("audio_end")
        await client.send(FLUSH)
        await client.until("audio_end")
        assert client.types == ["ready", "segment_start", "segment_end", "audio_end", "audio_end"]


async def test_pipelined_turns_follow_each_other_without_a_mark() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await client.send(text("n1"), FLUSH, text("n2"), FLUSH)
        await client.until("audio_end")
        assert client.words() == ["n1"]
        await client.until("audio_end")
        assert client.words() == ["n1", "n2"]


async def test_a_stray_terminal_can_come_after_the_next_turn_began() -> None:
    async with fast(stray_terminal_ms=60) as simulator, tts(simulator) as client:
        await _turn(client, "n1")
        await client.send(text("n2"))
        await client.until("audio_end")
        assert client.words() == ["n1", "n2"]


@pytest.mark.parametrize(("mode", "ends"), [("standalone", False), ("inline", True), ("both", True)])
async def test_a_flag_on_the_text_ends_a_turn_if_the_route_supports_it(mode: str, ends: bool) -> None:
    async with fast(flush=mode) as simulator, tts(simulator) as client:
        await client.send(text("n1", flush=True))
        if ends:
            await client.until("audio_end")
        else:
            while client.words() != ["n1"]:
                await client.next()
            await client.nothing_for(0.05)


async def test_a_standalone_flush_does_nothing_if_only_the_flag_counts() -> None:
    async with fast(flush="inline") as simulator, tts(simulator) as client:
        await client.send(text("n1"), FLUSH)
        while client.words() != ["n1"]:
            await client.next()
        await client.nothing_for(0.05)


@pytest.mark.parametrize(("variant", "answer"), [("terminal", "audio_end"), ("error", "error"), ("ignore", None)])
async def test_a_flush_without_text_is_answered_as_the_profile_says(variant: str, answer: str | None) -> None:
    async with fast(empty_flush=variant) as simulator, tts(simulator) as client:
        await client.send(FLUSH)
        if answer:
            await client.until(answer)
        else:
            await client.nothing_for(0.05)


async def test_rime_closes_20_ms_after_every_turn() -> None:
    async with fast() as simulator, tts(simulator, "slng/rime/arcana:3-en") as client:
        loop = asyncio.get_running_loop()
        await _turn(client)
        assert await client.until_closed() == (1000, "")
        assert 0.015 < loop.time() - client.times[-1] < 0.2


async def test_soniox_accepts_no_second_turn_but_stays_open() -> None:
    async with fast() as simulator, tts(simulator, "soniox/tts-rt:v1") as client:
        await _turn(client, "n1")
        loop = asyncio.get_running_loop()
        sent = loop.time()
        await client.send(text("n2"), FLUSH)
        error = await client.until("error")
        assert 0.04 < loop.time() - sent < 1
        assert error["data"]["message"] == "Stream 1 not found. Send a start message first."
        await client.nothing_for(0.05)
        assert client.words() == ["n1"]


async def test_an_interruption_consumes_a_soniox_session() -> None:
    async with fast(pace=1, clear_ms=20) as simulator, tts(simulator, "soniox/tts-rt:v1") as client:
        await client.send(text("n1 n2 n3"))
        await client.next()
        await client.send(CLEAR)
        await client.until("cleared")
        await client.send(text("n4"), FLUSH)
        await client.until("error")


async def test_gradium_reports_its_idle_expiry_with_a_message_only_and_goes_on() -> None:
    async with fast(expiry_s=0.1) as simulator, tts(simulator, "gradium/tts:default") as client:
        error = await client.until("error")
        assert set(error) == {"type", "message"}
        await _turn(client)
        assert client.words() == ["n1", "n2"]


async def test_gradium_expires_after_120_seconds_by_itself() -> None:
    async with fast() as simulator:
        assert simulator.profile_for("tts", "gradium/tts:default").expiry_s == 120


async def test_sarvam_refuses_text_without_letters() -> None:
    async with fast() as simulator, tts(simulator, "sarvam/bulbul:v3") as client:
        await client.send(text("... !"))
        await client.until("error")


async def test_a_turn_without_letters_may_never_end() -> None:
    async with fast(letterless="hang") as simulator, tts(simulator) as client:
        await client.send(text("..."), FLUSH)
        await client.nothing_for(0.05)


async def test_clear_is_answered_after_the_audio_that_is_on_its_way() -> None:
    async with fast(pace=1, clear_ms=150) as simulator, tts(simulator) as client:
        loop = asyncio.get_running_loop()
        await client.send(text(" ".join(f"n{i}" for i in range(30))), FLUSH)
        await client.next()
        sent, received = loop.time(), len(client.audio)
        await client.send(CLEAR)
        await client.until("cleared")
        assert 0.14 < loop.time() - sent < 1
        assert len(client.audio) - received >= 3200
        await client.nothing_for(0.1)
        assert "audio_end" not in client.types


async def test_a_turn_cleared_before_its_terminal_has_none() -> None:
    async with fast(terminal_ms=80) as simulator, tts(simulator) as client:
        await client.send(text("n1"), FLUSH)
        while client.words() != ["n1"]:
            await client.next()
        await client.send(CLEAR)
        await client.until("cleared")
        await client.nothing_for(0.15)


async def test_text_right_after_clear_is_spoken_after_the_answer() -> None:
    async with fast(pace=1, clear_ms=60, clear_drains=False) as simulator, tts(simulator) as client:
        await client.send(text("n1 n2 n3"), FLUSH)
        await client.next()
        await client.send(CLEAR, text("n9"), FLUSH)
        await client.until("cleared")
        before = len(client.audio)
        await client.until("audio_end")
        assert [word.text for word in signal.decode(bytes(client.audio[before:]))] == ["n9"]


async def test_every_clear_is_answered() -> None:
    async with fast(pace=1, clear_ms=30) as simulator, tts(simulator) as client:
        await client.send(text("n1 n2"))
        await client.next()
        await client.send(CLEAR, CLEAR)
        await client.until("cleared")
        await client.until("cleared")
        await client.send(CLEAR)
        await client.until("cleared")
        await _turn(client, "n5")
        assert client.words()[-1] == "n5"


async def test_late_audio_can_follow_the_answer_to_a_clear() -> None:
    profile = {"pace": 1, "clear_ms": 20, "clear_drains": False, "late_audio_ms": 100}
    async with fast(**profile) as simulator, tts(simulator) as client:
        await client.send(text("n1 n2 n3"))
        await client.next()
        await client.send(CLEAR)
        await client.until("cleared")
        assert len(await client.next_audio()) == 3200


async def test_cancel_ends_the_turn_without_an_answer() -> None:
    async with fast(pace=1) as simulator, tts(simulator) as client:
        await client.send(text("n1 n2 n3 n4"), FLUSH)
        await client.next()
        await client.send({"type": "cancel"}, text("n9"), FLUSH)
        await client.until("audio_end")
        assert client.types == ["ready", "audio_end"]
        assert client.words()[-1] == "n9"
        assert "n4" not in client.words()


@pytest.mark.parametrize("form", ["audio_chunk", "Audio", "chunk", "data.audio", "typeless"])
async def test_audio_can_come_as_base64_in_five_places(form: str) -> None:
    async with fast(audio_form=form) as simulator, tts(simulator) as client:
        await _turn(client)
        pcm = b""
        for message in client.messages:
            place = message.get("data", message)
            inner = message.get("audio") if isinstance(place, str) else place.get("audio")
            encoded = inner or (place if isinstance(place, str) else None)
            pcm += base64.b64decode(encoded) if encoded else b""
        assert [word.text for word in signal.decode(pcm)] == ["n1", "n2"]
        assert client.binaries == 0


async def test_an_empty_binary_message_can_come_first() -> None:
    async with fast(zero_length=True) as simulator, tts(simulator) as client:
        await client.send(text("n1"))
        assert await client.next() == b""


@pytest.mark.parametrize(("variant", "code"), [("close", 1003), ("error", None), ("ignore", None)])
async def test_a_binary_message_is_answered_as_the_profile_says(variant: str, code: int | None) -> None:
    async with fast(binary=variant) as simulator, tts(simulator) as client:
        await client.send(b"abc")
        if variant == "close":
            assert (await client.until_closed())[0] == code
        elif variant == "error":
            await client.until("error")
        else:
            await _turn(client)


async def test_audio_is_paced_by_the_clock() -> None:
    async with fast(first_audio_ms=100, pace=2, chunk_ms=20) as simulator, tts(simulator) as client:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        await client.send(text("n1 n2 n4 n5"), FLUSH)
        await client.next()
        assert 0.095 < loop.time() - sent < 1
        await client.until("audio_end")
        due = 0.1 + len(client.audio) / 32_000 / 2
        assert due - 0.01 < loop.time() - sent < due + 0.5


async def test_unknown_messages_are_ignored() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await client.send({"type": "wave"}, {"hello": 1})
        await _turn(client)
        assert client.types == ["ready", "audio_end"]


async def test_an_unknown_dictionary_is_an_error_and_the_connection_goes_on() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await client.send(text("n1", pronunciation={"name": "unknown"}))
        assert (await client.until("error"))["data"]["code"] == "pronunciation_not_found"
        await _turn(client)


async def test_close_is_answered_with_the_code_of_the_profile() -> None:
    async with fast(close_code=1001) as simulator, tts(simulator) as client:
        await client.send(CLOSE)
        assert (await client.until_closed())[0] == 1001
