"""A client that leaves frees its session, whatever still waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from slng_sidecar.simulator import SimulatorOptions
from support.running import AURA, TTS_INIT, gateway_and_simulator, talking

LONG = " ".join(f"n{number}" for number in range(1, 300))
WITHIN = 10.0


async def sessions(url: str) -> list[Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        found: list[Any] = (await client.get(f"{url}/v1/status")).json()["sessions"]
        return found


async def until_free(url: str) -> None:
    async with asyncio.timeout(WITHIN):
        while await sessions(url):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("subprotocol", [None, "slng-sidecar.v1"])
@pytest.mark.parametrize("leaves", ["closes", "vanishes"])
async def test_a_client_that_leaves_while_much_audio_waits_for_it_frees_its_session(
    subprotocol: str | None, leaves: str
) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(pace=0)) as (url, simulator):
        async with talking(url, "tts", AURA, subprotocol=subprotocol) as talk:
            context = {"context_id": "a"} if subprotocol else {}
            await talk.send({**TTS_INIT, "config": {"sample_rate": 48_000, "encoding": "linear16"}})
            await talk.until("ready")
            await talk.send({"type": "text", "text": LONG, **context}, {"type": "flush", **context})
            while not isinstance(await talk.next(), bytes):
                pass
            # The client does not read. Upstream has sent what it may once no more audio leaves the simulator.
            record = simulator.log.of("tts")[0]
            sent = -1
            async with asyncio.timeout(WITHIN):
                while sent < 300_000 or record.audio_out > sent:
                    sent = record.audio_out
                    await asyncio.sleep(0.3)
            if leaves == "vanishes":
                talk.websocket.transport.abort()
        await until_free(url)
        async with asyncio.timeout(WITHIN):
            await simulator.log.until(lambda log: not log.open)
