"""The probes of ``tests/live`` distinguish both variants of the simulator for each fact that the sources dispute."""

from __future__ import annotations

from typing import Any

import pytest
from slng_sidecar.simulator import SimulatorOptions, running_simulator
from support import live_probes as ask
from support.live_probes import Gateway
from support.running import AURA, NOVA


@pytest.mark.parametrize(
    ("probe", "profile", "answer"),
    [
        ("which_terminal", {"terminal": "audio_end"}, "audio_end"),
        ("which_terminal", {"terminal": "flushed"}, "flushed"),
        ("is_a_standalone_flush_honoured", {"flush": "both"}, "standalone and inline"),
        ("is_a_standalone_flush_honoured", {"flush": "standalone"}, "standalone"),
        ("is_a_standalone_flush_honoured", {"flush": "inline"}, "inline"),
        ("how_does_audio_come", {"audio_form": "binary"}, "binary"),
        ("how_does_audio_come", {"audio_form": "audio_chunk"}, "base64"),
        ("what_happens_to_the_connection", {}, "accepts another turn"),
        ("what_happens_to_the_connection", {"after_turn": "close"}, "closes after the terminal (closed 1000)"),
        ("what_happens_to_the_connection", {"after_turn": "spent"}, "is spent (error)"),
        ("what_happens_to_the_connection", {"after_turn": "close", "terminal": "none"}, "closes instead of a terminal"),
        ("what_answers_an_empty_flush", {"empty_flush": "terminal"}, "audio_end"),
        ("what_answers_an_empty_flush", {"empty_flush": "ignore"}, "silence"),
        ("what_answers_an_empty_flush", {"empty_flush": "error"}, "error"),
    ],
)
async def test_tts(probe: str, profile: dict[str, Any], answer: str) -> None:
    async with running_simulator(SimulatorOptions.fast(**profile)) as simulator:
        gateway = Gateway(simulator.url, "key", patience=0.5)
        assert await getattr(ask, probe)(gateway, AURA) == answer


@pytest.mark.parametrize(("variant", "answer"), [("empty", "an empty final"), ("ignore", "silence")])
async def test_an_empty_finalize(variant: str, answer: str) -> None:
    async with running_simulator(SimulatorOptions.fast(empty_finalize=variant)) as simulator:
        gateway = Gateway(simulator.url, "key", patience=0.5)
        assert await ask.what_answers_an_empty_finalize(gateway, NOVA) == answer


@pytest.mark.parametrize(("kind", "model"), [("stt", NOVA), ("tts", AURA)])
async def test_close(kind: str, model: str) -> None:
    async with running_simulator(SimulatorOptions.fast(close_code=1001)) as simulator:
        gateway = Gateway(simulator.url, "key", patience=0.5)
        assert await ask.how_is_close_answered(gateway, kind, model) == "closed 1001"


async def test_routes_regions_and_http() -> None:
    async with running_simulator(SimulatorOptions.fast(regional=True)) as simulator:
        gateway = Gateway(simulator.url, "key")
        assert await ask.is_the_route_accepted(gateway, "stt", NOVA) == "accepted"
        assert await ask.is_the_route_accepted(gateway, "stt", "slng/deepgram/nova:3-multi") == "HTTP 502"
        assert await ask.does_it_answer(gateway) == "HTTP 200"
        assert (await ask.is_http_tts_served(gateway, AURA)).startswith("HTTP 405")
    assert (await ask.does_it_answer(Gateway("http://127.0.0.1:9", "key"))).startswith("unreachable")
    async with running_simulator(SimulatorOptions.fast(regional=False)) as simulator:
        assert (await ask.is_http_tts_served(Gateway(simulator.url, "key"), AURA)).startswith("HTTP 200 audio/")
