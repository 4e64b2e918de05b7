"""Peculiarities of upstream that the fault matrix has no cell for, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.engines.pcm import tone
from slng_sidecar.simulator import SimulatorOptions
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, gateway_and_simulator, talking

EXTENDED = "slng-sidecar.v1"
OVER_LIMIT = pytest.mark.parametrize("over_limit", ["429", "rate_limit"])


def one_slot(over_limit: str) -> SimulatorOptions:
    """Return an upstream that accepts one connection only. How SLNG refuses a second one is not known."""
    return SimulatorOptions.fast(max_connections=1, over_limit=over_limit, ready_ms=20)


@OVER_LIMIT
@pytest.mark.parametrize(("kind", "model", "init"), [("stt", NOVA, STT_INIT), ("tts", AURA, TTS_INIT)])
async def test_a_session_without_an_upstream_slot_gets_an_error(
    kind: str, model: str, init: dict[str, Any], over_limit: str
) -> None:
    async with (
        gateway_and_simulator(one_slot(over_limit)) as (url, _),
        talking(url, kind, model, subprotocol=EXTENDED) as first,
        talking(url, kind, model, subprotocol=EXTENDED) as second,
    ):
        await first.send(init)
        await first.until("ready")
        await second.send(init)
        assert (await second.until_closed())[0] == 1013
        error = second.messages[-1]
        assert (error["code"], error["fatal"], error["retryable"]) == ("rate_limit", True, True)


@OVER_LIMIT
async def test_stt_settings_change_if_upstream_has_no_second_slot(over_limit: str) -> None:
    async with (
        gateway_and_simulator(one_slot(over_limit)) as (url, simulator),
        talking(url, "stt", NOVA, subprotocol=EXTENDED) as talk,
    ):
        await talk.send(STT_INIT, signal.encode([1, 2, signal.SignalWord(3, gap=20)]))
        await talk.send({"type": "update", "id": "u", "config": {"language": "de"}})
        updated = await talk.until("updated")
        assert (updated["applied"], updated["rejected"]) == ({"language": "de"}, {})
        await talk.send(signal.encode([4, 5, signal.SignalWord(6, gap=20)]), {"type": "close"})
        assert (await talk.until_closed())[0] == 1000
        assert " ".join(talk.finals()).split() == [f"n{n}" for n in range(1, 7)]
        assert len(simulator.log.of("stt")) == 3  # including the refused one


@OVER_LIMIT
async def test_a_voice_changes_if_upstream_has_no_second_slot(over_limit: str) -> None:
    async with (
        gateway_and_simulator(one_slot(over_limit)) as (url, simulator),
        talking(url, "tts", AURA, subprotocol=EXTENDED) as talk,
    ):
        await talk.send(TTS_INIT)
        for name, text in (("a", "n1 n2"), ("b", "n3 n4")):
            await talk.send({"type": "text", "context_id": name, "text": text}, {"type": "flush", "context_id": name})
            if name == "a":
                await talk.send({"type": "update", "id": "u", "voice": "other"})
        ends = [(await talk.until("audio_end"))["reason"] for _ in range(2)]
        assert ends == ["completed", "completed"]
        assert [word.number for word in signal.decode(bytes(talk.audio), 16_000)] == [1, 2, 3, 4]
        (updated,) = [message for message in talk.messages if message["type"] == "updated"]
        assert (updated["applied"], updated["rejected"]) == ({"voice": "other"}, {})
        last = simulator.log.of("tts")[-1].last_received("init")
        assert last is not None
        assert last["voice"] == "other"


async def test_words_that_upstream_writes_as_a_number_are_delivered_as_a_number() -> None:
    options = SimulatorOptions.fast(speech="tone", script=("ten apples", "ten more"))
    async with (
        gateway_and_simulator(options) as (url, _),
        talking(url, "stt", "sarvam/saaras:v3", subprotocol=EXTENDED) as talk,
    ):
        await talk.send(STT_INIT)
        for _ in range(2):
            await talk.send(tone(500, 16_000), {"type": "finalize"})
            assert (await talk.until("finalized"))["outcome"] == "final"
        assert talk.finals() == ["10 apples", "10 more"]
