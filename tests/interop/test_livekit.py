"""The official ``livekit-plugins-slng`` 1.8.9 in a separate process.

The plugin opens a connection for each utterance and retries many failures itself. Each test that also goes directly to
the simulator shows what the plugin notices or loses there. Through the sidecar it notices no drop and no expiry. The
last tests in this file show what the plugin loses in its own process.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions
from support.drivers import DIRECTLY, SIDECAR, Driver, driving, upstream_at
from support.numbered_signal import speech, whole_words, words
from support.running import AURA, NOVA

pytestmark = pytest.mark.interop
both_ways = pytest.mark.parametrize("way", [DIRECTLY, SIDECAR])

SESSION, RETRIED = "gateway.session", "fallback.attempt_failed"
IDLE = {"do": "close", "when": "now", "code": 1008, "reason": "idle timeout"}


def at(way: str, **profile: Any) -> contextlib.AbstractAsyncContextManager[tuple[str, Simulator]]:
    return upstream_at(way, SimulatorOptions.fast(**profile))


def stt_client(address: str) -> contextlib.AbstractAsyncContextManager[Driver]:
    return driving("livekit", "livekit_slng.py", service="stt", slng_base_url=address, model=NOVA)


def tts_client(address: str, model: str = AURA, **options: Any) -> contextlib.AbstractAsyncContextManager[Driver]:
    return driving(
        "livekit", "livekit_slng.py", service="tts", slng_base_url=address, model=model, voice="v", **options
    )


def was_transcribed(driver: Driver, number: int) -> bool:
    return f"n{number}" in driver.words("final")


async def transcribe(driver: Driver, words: range) -> None:
    """Send words and a flush, and wait until the last word is transcribed."""
    await driver.send("transcribe", audio=speech(words))
    await driver.send("flush")
    await driver.until(partial(was_transcribed, driver, words[-1]))


async def speak(driver: Driver, *texts: str) -> None:
    spoken = len(driver.of("spoken"))
    await driver.send("speak", texts=texts)
    await driver.until(lambda: len(driver.of("spoken")) > spoken)


# Plain use


@both_ways
async def test_stt_delivers_every_word(way: str) -> None:
    async with at(way) as (address, simulator), stt_client(address) as driver:
        await transcribe(driver, range(1, 11))
        await transcribe(driver, range(11, 23))
        await driver.send("end")
        await driver.until(lambda: driver.of("ended"))
        assert driver.words("final") == words(1, 22)
        assert not driver.of("error")
        assert simulator.log.dials == 1


@both_ways
async def test_tts_speaks_every_word(way: str) -> None:
    async with at(way) as (address, simulator), tts_client(address) as driver:
        await speak(driver, "n1 n2. ", "n3 n4.")
        await speak(driver, "n5 n6.")
        await driver.send("synthesize", text="n7 n8.")
        await driver.until(lambda: len(driver.of("spoken")) == 3)
        assert whole_words(driver.audio("audio")) == list(range(1, 9))
        assert not driver.of("error")
        assert not driver.of(RETRIED)
        assert len(simulator.log.of("tts")) == 3


# Faults of upstream


@both_ways
async def test_an_stt_drop_before_a_final_while_another_final_has_come(way: str) -> None:
    async with at(way) as (address, simulator), stt_client(address) as driver:
        fault = simulator.inject(do="drop", kind="stt", when="final", occurrence=2)
        # All of the audio has reached upstream before the first final comes.
        await driver.send("transcribe", audio=speech(range(1, 13)))
        await simulator.log.until(lambda _: fault.fired)
        await transcribe(driver, range(13, 21))
        if way == SIDECAR:
            assert driver.words("final") == words(1, 20)
            assert len(driver.of(SESSION)) == 1
        else:
            # The plugin discards the audio of all words at the first final, whichever words that covers.
            assert driver.words("final")[:4] == words(1, 4)
            assert not set(driver.words("final")) & set(words(5, 12))
            assert len(driver.of(SESSION)) == 2
        assert not driver.of("error")


@both_ways
async def test_an_stt_drop_under_audio(way: str) -> None:
    async with at(way) as (address, simulator), stt_client(address) as driver:
        fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=800)
        await transcribe(driver, range(1, 5))
        await transcribe(driver, range(5, 13))
        # Before any final the plugin itself replays the audio on a second connection.
        assert driver.words("final") == words(1, 12)
        assert len(driver.of(SESSION)) == (1 if way == SIDECAR else 2)
        assert not driver.of("error")
        assert len(fault.fired) == 1


@both_ways
async def test_an_stt_idle_expiry_between_turns(way: str) -> None:
    async with at(way) as (address, simulator), stt_client(address) as driver:
        for turn in (range(1, 5), range(5, 9), range(9, 13)):
            await transcribe(driver, turn)
            simulator.inject(**IDLE, kind="stt")
            await simulator.log.until(lambda log: not log.open)
        assert len(driver.of(SESSION)) == (1 if way == SIDECAR else 3)
        # Without the sidecar, audio that it sends before it notices the close is lost: nothing, or the beginning of the
        # next turn.
        if way == SIDECAR:
            assert driver.words("final") == words(1, 12)
        assert not driver.of("error")


@both_ways
@pytest.mark.parametrize(
    "fault",
    [
        {"do": "drop", "when": "text"},
        {"do": "error", "when": "text", "code": "backend_connection_failed", "then_close": 1011},
    ],
    ids=["drop", "error"],
)
async def test_a_tts_failure_before_the_first_audio(way: str, fault: dict[str, Any]) -> None:
    async with at(way) as (address, simulator), tts_client(address) as driver:
        simulator.inject(kind="tts", **fault)
        await speak(driver, "n1 n2.")
        await speak(driver, "n3 n4.")
        assert whole_words(driver.audio("audio")) == [1, 2, 3, 4]
        assert not driver.of("error")
        # The plugin itself sends the text again on another connection.
        assert len(driver.of(RETRIED)) == (0 if way == SIDECAR else 1)
        assert len(simulator.log.of("tts")) == 3


@both_ways
async def test_a_tts_drop_within_the_audio(way: str) -> None:
    async with at(way) as (address, simulator), tts_client(address) as driver:
        simulator.inject(do="drop", kind="tts", when="audio", after_ms=400)
        await speak(driver, " ".join(words(20, 39)))
        assert len(signal.decode(driver.audio("audio"))) < 20
        # Nobody can speak the rest. Without the sidecar the plugin takes the audio so far for the whole.
        assert len(driver.of("error")) == (1 if way == SIDECAR else 0)


@both_ways
@pytest.mark.parametrize("model", ["slng/rime/arcana:3-en", "soniox/tts-rt:v1"], ids=["closes", "is spent"])
async def test_a_tts_route_that_ends_with_each_turn(way: str, model: str) -> None:
    async with at(way) as (address, _), tts_client(address, model) as driver:
        for number in (1, 2, 3, 4):
            await speak(driver, f"n{number}0 n{number}1.")
        assert whole_words(driver.audio("audio")) == [10, 11, 20, 21, 30, 31, 40, 41]
        assert not driver.of("error")
        assert not driver.of(RETRIED)


@both_ways
async def test_a_warm_tts_connection_that_expires_between_turns(way: str) -> None:
    async with (
        at(way) as (address, simulator),
        tts_client(address, "gradium/tts:default", warm_standby_enabled=True) as driver,
    ):
        for first in (1, 3):
            await speak(driver, f"n{first} n{first + 1}.")
            # The warm connection, once the connection that spoke is closed.
            await simulator.log.until(lambda log: [record.types[:2] for record in log.open] == [["init"]])
            expiry = {"type": "error", "message": "Session expired: no output for 120 s"}
            simulator.inject(do="send", when="now", kind="tts", message=expiry)
            simulator.inject(**IDLE, kind="tts")
            await simulator.log.until(lambda log: not log.open)
        await speak(driver, "n5 n6.")
        assert whole_words(driver.audio("audio")) == [1, 2, 3, 4, 5, 6]
        assert not driver.of("error")
        assert len(driver.of(RETRIED)) == (0 if way == SIDECAR else 2)


# Losses in the plugin's own process, through the sidecar too


@both_ways
async def test_an_stt_update_loses_the_speech_since_the_last_final(way: str) -> None:
    async with at(way, endpoint_ms=0) as (address, simulator), stt_client(address) as driver:
        await driver.send("transcribe", audio=speech(range(1, 6)))
        await simulator.log.until(lambda log: any(len(record.audio) for record in log.of("stt")))
        await driver.send("update", settings={"language": "de"})
        await transcribe(driver, range(6, 11))
        assert driver.words("final") == words(6, 10)
        assert len(driver.of(SESSION)) == 2


@both_ways
async def test_an_error_message_ends_its_stt_session(way: str) -> None:
    async with at(way) as (address, simulator), stt_client(address) as driver:
        simulator.inject(do="error", kind="stt", when="audio", after_ms=800, code="provider_error", message="hiccup")
        await transcribe(driver, range(1, 5))
        assert driver.words("final") == words(1, 4)
        # The plugin ends at any error. The sidecar does not pass on errors that may be temporary.
        assert len(driver.of(SESSION)) == (1 if way == SIDECAR else 2)
