"""The extended dialect of TTS over real sockets: local client, gateway, simulator."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from slng_sidecar import __version__
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions
from support.running import AURA, TTS_INIT, Talk, gateway_and_simulator, talking

SIGNAL_TTS = "slng/simulator/signal:1"


@contextlib.asynccontextmanager
async def extended(model: str = AURA, init: dict[str, Any] = TTS_INIT, **profile: Any) -> AsyncIterator[Any]:
    """Open an extended session on a separate gateway, and yield it with the simulator."""
    async with (
        gateway_and_simulator(SimulatorOptions.fast(**profile)) as (url, simulator),
        talking(url, "tts", model, subprotocol="slng-sidecar.v1") as talk,
    ):
        await talk.send(init)
        yield talk, simulator


async def speak(talk: Talk, name: str, text: str) -> None:
    await talk.send({"type": "text", "context_id": name, "text": text}, {"type": "flush", "context_id": name})


async def until_end(talk: Talk, name: str) -> tuple[str, list[str]]:
    """Read until a context has ended, and return its reason and the words of its audio."""
    talk.audio.clear()
    end = await talk.until("audio_end")
    assert end["context_id"] == name
    assert end["duration_ms"] == round(len(talk.audio) / 32)
    return end["reason"], [word.text for word in signal.decode(bytes(talk.audio), 16_000)]


async def test_contexts_are_spoken_in_order_under_their_names() -> None:
    async with extended() as (talk, simulator):
        await speak(talk, "a", "n1 n2")
        await speak(talk, "b", "n3")
        ready = await talk.until("ready")
        assert ready["sidecar"] == {"version": __version__, "session": "1"}
        assert await until_end(talk, "a") == ("completed", ["n1", "n2"])
        assert await until_end(talk, "b") == ("completed", ["n3"])
        assert talk.types == ["ready", "audio_start", "audio_end", "audio_start", "audio_end"]
        await talk.send({"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert simulator.log.dials == 1


async def test_a_context_spans_an_update_and_nothing_of_it_is_lost() -> None:
    async with extended() as (talk, simulator):
        await talk.until("ready")
        await talk.send({"type": "text", "context_id": "a", "text": "n1 n2"})
        await talk.send({"type": "update", "id": "u", "voice": "other"})
        await talk.send({"type": "text", "context_id": "a", "text": "n3 n4"}, {"type": "flush", "context_id": "a"})
        assert await until_end(talk, "a") == ("completed", ["n1", "n2", "n3", "n4"])
        assert talk.types.count("audio_start") == 1
        (updated,) = [message for message in talk.messages if message["type"] == "updated"]
        assert updated == {"type": "updated", "id": "u", "applied": {"voice": "other"}, "unchanged": [], "rejected": {}}
        voices = [record.last_received("init").get("voice") for record in simulator.log.of("tts")]
        assert voices == [None, "other"]


async def test_an_update_to_another_model_dials_that_model() -> None:
    async with extended() as (talk, simulator):
        await talk.send({"type": "update", "id": "u", "model": "cartesia/sonic:3.5"})
        await talk.until("updated")
        await speak(talk, "a", "n1")
        assert await until_end(talk, "a") == ("completed", ["n1"])
        assert [record.model for record in simulator.log.of("tts")] == [AURA, "cartesia/sonic:3.5"]


async def test_settings_that_upstream_refuses_leave_the_old_ones_in_effect() -> None:
    async with extended() as (talk, _):
        await talk.until("ready")
        await talk.send({"type": "update", "id": "u", "config": {"pronunciation": {"name": "unknown"}}})
        await speak(talk, "a", "n1 n2")
        updated = await talk.until("updated")
        assert updated["applied"] == {}
        assert "unknown" in updated["rejected"]["pronunciation"]
        assert (await talk.until("error"))["context_id"] == "a"
        assert await until_end(talk, "a") == ("completed", ["n1", "n2"])


async def test_clearing_one_context_leaves_the_next_whole() -> None:
    async with extended(pace=20, clear_ms=50, late_audio_ms=40) as (talk, _):
        await speak(talk, "a", " ".join(f"n{number}" for number in range(1, 60)))
        await speak(talk, "b", "n100 n101")
        while not talk.audio:
            await talk.next()
        await talk.send({"type": "clear", "context_id": "a"})
        assert (await talk.until("audio_end"))["reason"] == "cleared"
        assert (await talk.until("cleared"))["context_id"] == "a"
        assert await until_end(talk, "b") == ("completed", ["n100", "n101"])


async def test_a_drop_before_the_audio_is_reported_and_loses_nothing() -> None:
    async with extended() as (talk, simulator):
        simulator.inject(do="drop", kind="tts", when="flush")
        await speak(talk, "a", "n1 n2")
        assert (await talk.until("status"))["state"] == "reconnecting"
        assert (await talk.until("status"))["state"] == "connected"
        assert await until_end(talk, "a") == ("completed", ["n1", "n2"])


async def test_a_drop_within_the_audio_fails_that_context_only() -> None:
    async with extended(SIGNAL_TTS, pace=50) as (talk, simulator):
        simulator.inject(do="drop", kind="tts", when="audio", after_ms=500)
        await speak(talk, "a", "n1 n2 n3 n4 n5 n6 n7 n8 n9")
        await speak(talk, "b", "n10 n11")
        reason, words = await until_end(talk, "a")
        assert reason == "failed"
        assert words[0] == "n1"
        assert [message["context_id"] for message in talk.messages if message["type"] == "error"] == ["a"]
        assert await until_end(talk, "b") == ("completed", ["n10", "n11"])


@pytest.mark.parametrize("model", ["slng/rime/arcana:3-en", "soniox/tts-rt:v1"])
async def test_on_routes_that_take_one_turn_the_next_connection_is_ready_before_it_is_needed(model: str) -> None:
    async with extended(model) as (talk, simulator):
        await speak(talk, "a", "n1")
        assert await until_end(talk, "a") == ("completed", ["n1"])
        await simulator.log.until(lambda log: log.dials == 2 and "ready" in [m["type"] for _, m in log.records[1].sent])
        await speak(talk, "b", "n2")
        assert await until_end(talk, "b") == ("completed", ["n2"])
        assert [types(simulator, at) for at in (0, 1)] == [["init", "text", "flush"]] * 2
        assert "status" not in talk.types


def types(simulator: Simulator, at: int) -> list[str]:
    return [kind for kind in simulator.log.of("tts")[at].types if kind != "close"]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_telephony_audio_is_delivered_decoded(encoding: str) -> None:
    async with extended(init={"type": "init", "config": {"encoding": encoding, "sample_rate": 16_000}}) as (talk, _):
        await speak(talk, "a", "n1 n2 n3")
        assert await until_end(talk, "a") == ("completed", ["n1", "n2", "n3"])
        (start,) = [message for message in talk.messages if message["type"] == "audio_start"]
        assert (start["encoding"], start["sample_rate"], start["channels"]) == ("linear16", 16_000, 1)


async def test_an_encoding_that_cannot_be_decoded_is_refused_before_a_dial() -> None:
    async with extended(init={"type": "init", "config": {"encoding": "flac"}}) as (talk, simulator):
        assert (await talk.until("error"))["code"] == "unsupported_audio_format"
        assert (await talk.until_closed())[0] == 1008
        assert simulator.log.dials == 0
