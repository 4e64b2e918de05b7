"""The content of ``/metrics`` after a sidecar was used in every way that is counted."""

from __future__ import annotations

import asyncio
import functools

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions

from support.http_tools import http_client
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, gateway_and_simulator, talking

EXTENDED = "slng-sidecar.v1"
PCM = signal.encode([signal.SignalWord(number) for number in range(1, 9)])


@functools.cache
def labels_by_sample() -> dict[str, set[str]]:
    """Return the labels of each sample by its name. Fail if a metric was not used."""
    families = asyncio.run(_scrape())
    unused = [family.name for family in families if not family.samples]
    assert not unused, f"nothing here counts these metrics: {unused}"
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


async def _scrape() -> list[Metric]:
    options = SimulatorOptions.fast(first_audio_ms=20)
    async with (
        gateway_and_simulator(options, sidecar_standby=1) as (url, simulator),
        http_client(url) as client,
    ):
        await _use(url, simulator, client)
        async with asyncio.timeout(5):
            while True:
                text = (await client.get("/metrics")).text
                found = list(text_string_to_metric_families(text))
                counted = {sample.name: sample.value for family in found for sample in family.samples}
                # The event loop is measured every half second.
                if counted["slng_sidecar_event_loop_lag_seconds_count"]:
                    return found
                await asyncio.sleep(0.05)


async def _use(url: str, simulator: Simulator, client: httpx.AsyncClient) -> None:
    async with talking(url, "tts", AURA, subprotocol=EXTENDED) as talk:
        await talk.send(TTS_INIT, {"type": "text", "context_id": "a", "text": "n1 n2"})
        await talk.send({"type": "flush", "context_id": "a"}, {"type": "nonsense"})
        await talk.until("audio_end")
    async with talking(url, "stt", NOVA, subprotocol=EXTENDED) as talk:
        await talk.send(STT_INIT, PCM, {"type": "finalize", "id": "f"})
        await talk.until("finalized")
        simulator.inject(do="drop", when="audio", kind="stt")
        await talk.send(PCM)
        while (await talk.until("status"))["state"] != "connected":
            pass
    simulator.inject(do="refuse", status=401, kind="stt")
    async with talking(url, "stt", "slng/another:1") as talk:
        await talk.send(STT_INIT)
        await talk.until("error")
    await client.post(f"/v1/bridges/unmute/tts/{AURA}", json={"text": "n1 n2"})
    await client.get("/v1/status", headers={"Origin": "https://evil.example"})
