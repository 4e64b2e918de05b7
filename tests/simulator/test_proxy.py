"""The effects of the TCP proxy on connections through it, as the client sees them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import BadFault, Simulator, SimulatorOptions, running_simulator
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, Talk, talking
from websockets.exceptions import ConnectionClosed

WORDS = {"type": "text", "text": " ".join(f"n{number}" for number in range(1, 9))}


@contextlib.asynccontextmanager
async def proxied(**options: Any) -> AsyncIterator[Simulator]:
    async with running_simulator(SimulatorOptions.fast(tcp=True, **options)) as simulator:
        yield simulator


@contextlib.asynccontextmanager
async def speaking(simulator: Simulator) -> AsyncIterator[Talk]:
    async with talking(simulator.http_url, "tts", AURA) as talk:
        await talk.send(TTS_INIT)
        await talk.until("ready")
        yield talk


async def test_all_bytes_pass_unchanged() -> None:
    async with proxied() as simulator, speaking(simulator) as talk:
        await talk.send(WORDS, {"type": "flush"})
        await talk.until("audio_end")
        assert [word.text for word in signal.decode(bytes(talk.audio), 16_000)] == WORDS["text"].split()
        await talk.send({"type": "close"})
        assert (await talk.until_closed())[0] == 1000


async def test_bytes_can_be_delayed_and_stay_in_order() -> None:
    loop = asyncio.get_running_loop()
    async with proxied() as simulator, speaking(simulator) as talk:
        simulator.inject(do="tcp", when="text", latency_ms=150)
        start = loop.time()
        await talk.send(WORDS, {"type": "flush"})
        await talk.until("audio_end")
        assert loop.time() - start >= 0.15
        assert [word.text for word in signal.decode(bytes(talk.audio), 16_000)] == WORDS["text"].split()


async def test_bandwidth_bounds_how_fast_bytes_pass() -> None:
    loop = asyncio.get_running_loop()
    async with proxied() as simulator, speaking(simulator) as talk:
        simulator.inject(do="tcp", when="text", bytes_per_s=200_000, slice_bytes=1000)
        start = loop.time()
        await talk.send(WORDS, {"type": "flush"})
        await talk.until("audio_end")
        # Bytes that were already on their way are not counted.
        assert len(talk.audio) / (loop.time() - start) < 250_000
        assert [word.text for word in signal.decode(bytes(talk.audio), 16_000)] == WORDS["text"].split()


async def test_slices_split_messages_anywhere() -> None:
    async with proxied() as simulator:
        simulator.inject(do="tcp", when="upgrade", slice_bytes=7)
        async with speaking(simulator) as talk:
            await talk.send({"type": "text", "text": "n1 n2"}, {"type": "flush"})
            await talk.until("audio_end")
            assert [word.text for word in signal.decode(bytes(talk.audio), 16_000)] == ["n1", "n2"]


@pytest.mark.parametrize("then", ["reset", "half_close"])
async def test_a_connection_can_be_broken(then: str) -> None:
    async with proxied() as simulator, speaking(simulator) as talk:
        fault = simulator.inject(do="tcp", when="text", then=then)
        await talk.send(WORDS)
        assert (await talk.until_closed())[0] == 1006
        await simulator.until_fired(fault)
        await simulator.log.until(lambda log: not log.open)


async def test_a_client_can_be_cut_off_from_everything_upstream_sends() -> None:
    async with proxied() as simulator, speaking(simulator) as talk:
        simulator.inject(do="tcp", when="text", then="stop_writing")
        await talk.send(WORDS, {"type": "flush"})
        await simulator.log.until(lambda log: log.of("tts")[0].types[-1] == "flush")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(talk.next_whenever(), 0.2)
        talk.websocket.transport.abort()


async def test_a_clients_writes_can_fill_up() -> None:
    async def pour(talk: Talk) -> None:
        while True:
            await talk.send(bytes(64_000))

    async with proxied() as simulator, talking(simulator.http_url, "stt", NOVA) as talk:
        await talk.send(STT_INIT)
        await talk.until("ready")
        simulator.inject(do="tcp", when="audio", then="stop_reading")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pour(talk), 1)
        assert simulator.log.of("stt")[0].audio_in < 1_000_000
        talk.websocket.transport.abort()


async def test_many_connections_end_with_the_simulator() -> None:
    async with proxied() as simulator, contextlib.AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talking(simulator.http_url, "tts", AURA)) for _ in range(20)]
        simulator.stopping.set()
        for talk in talks:
            with contextlib.suppress(ConnectionClosed):
                await talk.until("never")
            assert talk.websocket.close_code == 1012


async def test_the_fault_is_refused_without_a_proxy() -> None:
    async with running_simulator(SimulatorOptions.fast()) as simulator:
        with pytest.raises(BadFault, match="--tcp"):
            simulator.inject(do="tcp", when="text", then="reset")
    with pytest.raises(BadFault, match="one or more of"):
        async with proxied(faults=({"do": "tcp", "when": "text"},)):
            pass
