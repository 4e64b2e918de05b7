"""What the sidecar reports about itself: health, metrics, status and its page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions
from support.http_tools import http_client
from support.running import AURA, NOVA, STT_INIT, TTS_INIT, gateway_and_simulator, talking

EXTENDED = "slng-sidecar.v1"


class Scrape:
    """The content of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        samples = [sample for family in self.families.values() for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@contextlib.asynccontextmanager
async def serving(
    options: SimulatorOptions | None = None, **settings: Any
) -> AsyncIterator[tuple[str, Simulator, httpx.AsyncClient]]:
    async with (
        gateway_and_simulator(options, **settings) as (url, simulator),
        http_client(url) as client,
    ):
        yield url, simulator, client


async def scrape(client: httpx.AsyncClient) -> Scrape:
    return Scrape((await client.get("/metrics")).text)


async def test_turns_audio_and_characters_are_counted_by_model() -> None:
    async with serving(SimulatorOptions.fast(first_audio_ms=60)) as (url, _, client):
        async with talking(url, "tts", AURA, subprotocol=EXTENDED) as talk:
            await talk.send(TTS_INIT, {"type": "text", "context_id": "a", "text": "n1 n2"})
            await talk.send({"type": "flush", "context_id": "a"})
            end = await talk.until("audio_end")
            await talk.send({"type": "text", "context_id": "b", "text": "n3"}, {"type": "clear", "context_id": "b"})
            await talk.until("cleared")
            found = await scrape(client)
            assert found.value("slng_sidecar_active_sessions", kind="tts") == 1
        assert found.value("slng_sidecar_contexts_total", model=AURA, outcome="completed") == 1
        assert found.value("slng_sidecar_contexts_total", model=AURA, outcome="cleared") == 1
        assert found.value("slng_sidecar_characters_total", model=AURA) == len("n1 n2") + len("n3")
        seconds = found.value("slng_sidecar_audio_seconds_total", kind="tts", model=AURA)
        assert seconds == pytest.approx(end["duration_ms"] / 1000, abs=0.001)
        assert found.value("slng_sidecar_first_audio_seconds_count", model=AURA) == 1
        assert 0.06 <= found.value("slng_sidecar_first_audio_seconds_sum", model=AURA) < 1
        assert found.value("slng_sidecar_upstream_open_seconds_count", kind="tts") == 1


async def test_finalizes_and_repaired_audio_are_counted() -> None:
    async with serving() as (url, simulator, client):
        pcm = signal.encode([signal.SignalWord(number) for number in range(1, 9)])
        async with talking(url, "stt", NOVA, subprotocol=EXTENDED) as talk:
            await talk.send(STT_INIT, pcm, {"type": "finalize", "id": "f"})
            await talk.until("finalized")
            simulator.inject(do="drop", when="audio", kind="stt")
            await talk.send(pcm)
            while (await talk.until("status"))["state"] != "connected":
                pass
            await talk.send({"type": "finalize", "id": "g"})
            await talk.until("finalized")
        found = await scrape(client)
        assert found.value("slng_sidecar_finalizes_total", model=NOVA, outcome="final") == 2
        assert found.value("slng_sidecar_finalize_seconds_count", model=NOVA) == 2
        assert found.value("slng_sidecar_upstream_losses_total", kind="stt", cause="upstream_closed") == 1
        assert found.value("slng_sidecar_stt_repaired_audio_seconds_total", what="replayed") > 0
        seconds = found.value("slng_sidecar_audio_seconds_total", kind="stt", model=NOVA)
        assert seconds == pytest.approx(2 * len(pcm) / 32_000, abs=0.01)


async def test_any_number_of_models_does_not_fill_the_memory() -> None:
    async with serving() as (url, _, client):
        for number in range(105):
            async with talking(url, "tts", f"a/b:{number}") as talk:
                await talk.send({"type": "text"})
        found = await scrape(client)
        models = {
            sample.labels["model"]
            for family in found.families.values()
            for sample in family.samples
            if "model" in sample.labels
        }
        assert len(models) <= 101


async def test_http_speech_is_counted_over_either_upstream_api() -> None:
    for way in ("bridge", "websocket"):
        async with serving(slng_http_tts=way) as (_, _, client):
            await client.post(f"/v1/bridges/unmute/tts/{AURA}", json={"text": "n1 n2"})
            found = await scrape(client)
            assert found.value("slng_sidecar_contexts_total", model=AURA, outcome="completed") == 1
            assert found.value("slng_sidecar_characters_total", model=AURA) == 5
            assert found.value("slng_sidecar_audio_seconds_total", kind="tts", model=AURA) > 0.1
            assert found.value("slng_sidecar_overhead_seconds_count") == 1
            assert 0 < found.value("slng_sidecar_overhead_seconds_sum") < 1
            # The upstream connection closes after the reply is complete.
            async with asyncio.timeout(5):
                while not (await scrape(client)).value("slng_sidecar_sessions_total", kind="tts", outcome="closed"):
                    await asyncio.sleep(0.02)


async def test_the_event_loop_is_watched() -> None:
    async with (
        serving() as (_, _, client),
        asyncio.timeout(5),
    ):
        while not (await scrape(client)).value("slng_sidecar_event_loop_lag_seconds_count"):
            await asyncio.sleep(0.05)


async def test_the_status_names_the_last_error_without_its_words() -> None:
    async with serving(SimulatorOptions.fast(keys=("another",))) as (url, _, client):
        async with talking(url, "stt", NOVA) as talk:
            await talk.send(STT_INIT)
            await talk.until("error")
        [error] = (await client.get("/v1/status")).json()["errors"]
        assert {name: error[name] for name in ("kind", "model", "code")} == {
            "kind": "stt",
            "model": NOVA,
            "code": "auth_error",
        }
        assert error.keys() == {"at", "session", "kind", "model", "code"}


async def test_the_page_runs_nothing_but_its_own_script() -> None:
    async with serving() as (_, _, client):
        reply = await client.get("/")
        assert reply.headers["content-type"].startswith("text/html")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'sha256-" in policy
        assert reply.text.count("<script>") == 1
        assert "innerHTML" not in reply.text


async def test_status_and_metrics_need_the_token_and_health_does_not() -> None:
    async with serving(sidecar_token="secret") as (_, _, client):
        for path in ("/", "/v1/status", "/metrics"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, params={"token": "secret"})).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200
            assert (await client.head(path)).status_code == 200
