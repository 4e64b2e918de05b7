"""The official ``pipecat-slng`` 0.4.0 in a separate process, on the newest Pipecat that it can be imported with.

Directly on the simulator it loses what each test names, which shows that the problem is real. Through the sidecar it
loses only what it drops in its own process. Those losses are at the end of this file and in
docs/evidence/official-clients.md.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions
from support.drivers import DIRECTLY, SIDECAR, Driver, driving, numbers, upstream_at
from support.numbered_signal import speech, whole_words, words
from support.running import AURA, NOVA

pytestmark = pytest.mark.interop
both_ways = pytest.mark.parametrize("way", [DIRECTLY, SIDECAR])

AUDIO, ENDED, FAILED, TEXT = "TTSAudioRawFrame", "TTSStoppedFrame", "ErrorFrame", "TranscriptionFrame"
SLOW_TO_OPEN = {"upgrade_ms": 150, "ready_ms": 150}
IDLE = {"do": "close", "when": "now", "code": 1008, "reason": "idle timeout"}


def at(way: str, **profile: Any) -> contextlib.AbstractAsyncContextManager[tuple[str, Simulator]]:
    # This client ends a turn at "flushed" only.
    return upstream_at(way, SimulatorOptions.fast(**profile), sidecar_plain_terminal="flushed")


def client(service: str, address: str, **options: Any) -> contextlib.AbstractAsyncContextManager[Driver]:
    scheme = "http" if service == "http" else "ws"
    return driving(
        "pipecat-slng-0.4.0", "pipecat_0_4_0.py", service=service, base_url=f"{scheme}://{address}", **options
    )


def was_played(driver: Driver, number: int) -> bool:
    return number in numbers(driver.audio(AUDIO))


def was_transcribed(driver: Driver, number: int) -> bool:
    return f"n{number}" in driver.words(TEXT)


async def speak(driver: Driver, *texts: str) -> None:
    """Speak each text as a turn, and wait for its last word."""
    for text in texts:
        await driver.send("speak", text=text)
        await driver.until(partial(was_played, driver, int(text.rstrip(".").rpartition("n")[2])))


# Plain use


@both_ways
async def test_stt_delivers_every_word(way: str) -> None:
    async with at(way) as (address, simulator), client("stt", address, model=NOVA) as driver:
        for turn in (range(1, 11), range(11, 23)):
            await driver.send("transcribe", audio=speech(turn))
            await driver.send("stop speaking")
            await driver.until(partial(was_transcribed, driver, turn[-1]))
        assert driver.words(TEXT) == words(1, 22)
        assert not driver.of(FAILED)
        assert simulator.log.dials == 1


@both_ways
async def test_tts_speaks_every_word_and_through_the_sidecar_each_turn_ends(way: str) -> None:
    async with at(way) as (address, simulator), client("tts", address, model=AURA) as driver:
        await speak(driver, "n1 n2. n3 n4.")
        await driver.send("respond", texts=["n5 n6.", "n7 n8."])
        await driver.until(partial(was_played, driver, 8))
        await speak(driver, "n9 n10.")
        assert whole_words(driver.audio(AUDIO)) == list(range(1, 11))
        # The route sends audio_end, like Deepgram's. This client waits for flushed, so it ends no turn.
        if way == SIDECAR:
            await driver.until(lambda: len(driver.of(ENDED)) == 3)
        else:
            assert not driver.of(ENDED)
        assert not driver.of(FAILED)
        assert simulator.log.dials == 1


@both_ways
async def test_http_tts_speaks_every_word(way: str) -> None:
    async with at(way) as (address, _), client("http", address, model=AURA) as driver:
        for number in (1, 2, 3):
            await driver.send("speak", text=f"n{number}1 n{number}2.")
            await driver.until(partial(lambda count: len(driver.of(ENDED)) == count, number))
        rates = {event["sample_rate"] for event in driver.of(AUDIO)}
        assert len(rates) == 1
        assert whole_words(driver.audio(AUDIO), rates.pop()) == [11, 12, 21, 22, 31, 32]
        assert not driver.of(FAILED)


# Faults of upstream


@both_ways
async def test_an_stt_drop_under_audio(way: str) -> None:
    async with at(way, **SLOW_TO_OPEN) as (address, simulator), client("stt", address, model=NOVA) as driver:
        fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=800)
        for turn in (range(1, 9), range(9, 17), range(17, 21)):
            await driver.send("transcribe", audio=speech(turn), pace=0.01)
            await driver.send("stop speaking")
            if way == SIDECAR:
                await driver.until(partial(was_transcribed, driver, turn[-1]))
        await driver.until(lambda: len(driver.of("done")) == 6)
        assert len(fault.fired) == 1
        if way == SIDECAR:
            assert driver.words(TEXT) == words(1, 20)
            assert not driver.of(FAILED)
            assert not driver.of("on_disconnected")
        else:
            # The client opened several connections: it sends audio on one, waits for ready on another, and receives
            # nothing more.
            assert len(driver.of("on_connected")) > 2
            assert not driver.words(TEXT)
            driver.abandon()


@both_ways
async def test_an_stt_idle_expiry_between_turns(way: str) -> None:
    async with at(way) as (address, simulator), client("stt", address, model=NOVA) as driver:
        for turn in (range(1, 5), range(5, 9), range(9, 13)):
            await driver.send("transcribe", audio=speech(turn))
            await driver.send("stop speaking")
            await driver.until(partial(was_transcribed, driver, turn[-1]))
            if turn[-1] == 12:
                break
            simulator.inject(**IDLE, kind="stt")
            await simulator.log.until(lambda log: not log.open)
            if way == DIRECTLY:
                await driver.until(partial(has_lost, driver, turn[-1] // 4))
        assert driver.words(TEXT) == words(1, 12)
        assert not driver.of(FAILED)
        assert len(driver.of("on_disconnected")) == (0 if way == SIDECAR else 2)


def has_lost(driver: Driver, times: int) -> bool:
    return len(driver.of("on_disconnected")) == times and len(driver.of("on_connected")) == times + 1


@both_ways
async def test_a_tts_drop_before_the_first_audio(way: str) -> None:
    async with at(way) as (address, simulator), client("tts", address, model=AURA) as driver:
        fault = simulator.inject(do="drop", kind="tts", when="text")
        await driver.send("speak", text="n1 n2.")
        if way == DIRECTLY:
            await driver.until(partial(has_lost, driver, 1))
        await speak(driver, "n3 n4.")
        assert whole_words(driver.audio(AUDIO)) == ([1, 2, 3, 4] if way == SIDECAR else [3, 4])
        assert not driver.of(FAILED)
        assert len(fault.fired) == 1


@both_ways
async def test_a_tts_error_before_the_first_audio(way: str) -> None:
    async with at(way) as (address, simulator), client("tts", address, model=AURA) as driver:
        fault = simulator.inject(
            do="error", kind="tts", when="text", code="backend_connection_failed", message="no voice", then_close=1011
        )
        await driver.send("speak", text="n1 n2.")
        if way == DIRECTLY:
            await driver.until(partial(has_lost, driver, 1))
        await speak(driver, "n3 n4.")
        assert whole_words(driver.audio(AUDIO)) == ([1, 2, 3, 4] if way == SIDECAR else [3, 4])
        assert [event["error"] for event in driver.of(FAILED)] == ([] if way == SIDECAR else ["no voice"])
        assert len(fault.fired) == 1


@both_ways
async def test_a_tts_route_that_closes_after_each_turn(way: str) -> None:
    async with at(way) as (address, _), client("tts", address, model="slng/rime/arcana:3-en") as driver:
        for number in (1, 2, 3, 4):
            await speak(driver, f"n{number}0 n{number}1.")
            if way == DIRECTLY:
                await driver.until(partial(has_lost, driver, number))
        assert whole_words(driver.audio(AUDIO)) == [10, 11, 20, 21, 30, 31, 40, 41]
        assert not driver.of(FAILED)
        assert len(driver.of("on_connected")) == (1 if way == SIDECAR else 5)


@both_ways
async def test_a_tts_route_that_is_spent_after_each_turn(way: str) -> None:
    async with at(way) as (address, _), client("tts", address, model="soniox/tts-rt:v1") as driver:
        await speak(driver, "n10 n11.")
        for number in (2, 3):
            await driver.send("speak", text=f"n{number}0 n{number}1.")
            if way == SIDECAR:
                await driver.until(partial(was_played, driver, number * 10 + 1))
            else:
                await driver.until(partial(lambda count: len(driver.of(FAILED)) == count, number - 1))
        assert whole_words(driver.audio(AUDIO)) == ([10, 11, 20, 21, 30, 31] if way == SIDECAR else [10, 11])
        assert len(driver.of(FAILED)) == (0 if way == SIDECAR else 2)


@both_ways
async def test_a_tts_session_that_expires_between_turns(way: str) -> None:
    async with at(way) as (address, simulator), client("tts", address, model="gradium/tts:default") as driver:
        await speak(driver, "n1 n2.")
        if way == SIDECAR:  # an expiry between its last audio and its end would be within the turn
            await driver.until(lambda: driver.of(ENDED))
        expiry = {"type": "error", "message": "Session expired: no output for 120 s"}
        simulator.inject(do="send", when="now", kind="tts", message=expiry)
        simulator.inject(**IDLE, kind="tts")
        await simulator.log.until(lambda log: not log.open)
        if way == DIRECTLY:
            await driver.until(lambda: driver.of(FAILED) and has_lost(driver, 1))
        await speak(driver, "n3 n4.")
        assert whole_words(driver.audio(AUDIO)) == [1, 2, 3, 4]
        assert len(driver.of(FAILED)) == (0 if way == SIDECAR else 1)


@both_ways
async def test_an_interruption_upstream_is_slow_to_clear(way: str) -> None:
    async with at(way, pace=4, clear_ms=300) as (address, _), client("tts", address, model=AURA) as driver:
        await driver.send("speak", text=" ".join(words(1, 39)))
        await driver.until(lambda: len(driver.of(AUDIO)) > 5)
        await driver.send("interrupt")
        await driver.until(lambda: driver.of("InterruptionFrame"))
        await speak(driver, "n100 n101.")
        after = signal.decode(driver.audio(AUDIO, after="InterruptionFrame"))
        stale = [word.number for word in after if word.number < 100]
        if way == SIDECAR:
            assert [(word.number, word.whole) for word in after] == [(100, True), (101, True)]
        else:
            # Late audio of the old turn is taken for audio of the new one.
            assert stale


@both_ways
async def test_http_tts_at_a_gateway_without_an_http_bridge(way: str) -> None:
    options = SimulatorOptions.fast(regional=True)
    async with upstream_at(way, options) as (address, simulator), client("http", address, model=AURA) as driver:
        if way == SIDECAR:
            simulator.inject(do="drop", kind="tts", when="text")
        await driver.send("speak", text="n1 n2.")
        if way == DIRECTLY:
            await driver.until(lambda: driver.of(FAILED))
            assert "405" in driver.of(FAILED)[0]["error"]
            assert not driver.of(AUDIO)
        else:
            await driver.until(lambda: driver.of(ENDED))
            rate = driver.of(AUDIO)[0]["sample_rate"]
            assert whole_words(driver.audio(AUDIO), rate) == [1, 2]
            assert not driver.of(FAILED)


# Losses in the plugin's own process, through the sidecar too


@both_ways
async def test_an_stt_update_loses_the_speech_since_the_last_final(way: str) -> None:
    async with at(way, endpoint_ms=0) as (address, simulator), client("stt", address, model=NOVA) as driver:
        pcm = speech(range(1, 6))
        await driver.send("transcribe", audio=pcm)
        await simulator.log.until(lambda log: [len(record.audio) for record in log.of("stt")] == [len(pcm)])
        await driver.send("update", settings={"language": "de"})
        await driver.until(lambda: len(driver.of("on_connected")) == 2)
        await driver.send("transcribe", audio=speech(range(6, 11)))
        await driver.send("stop speaking")
        await driver.until(partial(was_transcribed, driver, 10))
        assert driver.words(TEXT) == words(6, 10)


@both_ways
async def test_a_tts_update_cuts_the_speech_under_way(way: str) -> None:
    async with at(way, pace=4) as (address, _), client("tts", address, model=AURA) as driver:
        await driver.send("speak", text=" ".join(words(1, 39)))
        await driver.until(lambda: len(driver.of(AUDIO)) > 5)
        await driver.send("update", settings={"voice": "another"})
        await speak(driver, "n100 n101.")
        played = numbers(driver.audio(AUDIO))
        assert played[-2:] == [100, 101]
        assert len(played) < 30
        assert not driver.of(FAILED)


@both_ways
async def test_no_transcript_is_ever_marked_finalized(way: str) -> None:
    async with at(way, from_finalize=True) as (address, _), client("stt", address, model=NOVA) as driver:
        await driver.send("transcribe", audio=speech(range(1, 4)))
        await driver.send("stop speaking")
        await driver.until(partial(was_transcribed, driver, 3))
        assert not any(event["finalized"] for event in driver.of(TEXT))
