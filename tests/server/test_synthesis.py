"""HTTP TTS over upstream's HTTP bridge, and when the bridge is used."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from slng_sidecar.server.synthesis import KnownGateways
from slng_sidecar.simulator import BAD_PROVIDER_KEY, SimulatorOptions, running_simulator
from support.http_tools import http_client
from support.numbered_signal import whole_words
from support.running import AURA, gateway_and_simulator, running_gateway

PATH = f"/v1/bridges/unmute/tts/{AURA}"
EXTERNAL = "/v1/bridges/unmute/tts/deepgram/aura:2"
PCM = {"Accept": "audio/pcm"}
LONG = " ".join(f"n{n}" for n in range(1, 60))


@pytest.mark.parametrize("form", ["wav", "wav_exact", "pcm"])
async def test_text_and_voice_go_over_the_bridge_and_its_reply_is_decoded(form: str) -> None:
    options = SimulatorOptions.fast(http_format=form)
    async with gateway_and_simulator(options) as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1 n2", "voice": "v"}, headers=PCM)
        assert (reply.status_code, reply.headers["x-upstream"]) == (200, "bridge")
        assert reply.headers["x-sample-rate"] == "24000"
        assert whole_words(reply.content, 24_000) == [1, 2]
        (record,) = simulator.log.records
        assert record.kind == "http"
        assert record.received[0][1] == {"text": "n1 n2", "voice": "v"}


async def test_a_wav_keeps_its_own_rate_unless_another_is_requested() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(http_rate=16_000)) as (url, _), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1 n2"})
        assert (reply.headers["x-sample-rate"], reply.content[24:28]) == ("16000", (16_000).to_bytes(4, "little"))
        assert whole_words(reply.content[44:]) == [1, 2]


async def test_a_requested_rate_is_made_by_resampling() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(http_rate=48_000)) as (url, simulator),
        http_client(url) as http,
    ):
        whole = (await http.post(PATH, json={"text": "n1 n2 n3"}, headers=PCM)).content
        body = {"text": "n1 n2 n3", "config": {"sample_rate": 16_000}}
        reply = await http.post(PATH, json=body, headers=PCM)
        assert reply.headers["x-sample-rate"] == "16000"
        assert abs(len(reply.content) - len(whole) / 3) <= 4
        assert len(simulator.log.of("http")) == 2


async def test_the_region_stands_in_the_query_and_ids_and_keys_in_the_headers() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        headers = {"X-SLNG-Agent-Id": "a-1", "X-SLNG-Session-Id": "s-1", "X-Slng-Provider-Key": "mine-and-only-mine"}
        await http.post(EXTERNAL, json={"text": "n1"}, headers=headers)
        (record,) = simulator.log.of("http")
        assert record.headers["x-slng-agent-id"] == "a-1"
        assert record.headers["x-slng-session-id"] == "s-1"
        assert record.headers["x-slng-provider-key"] == "mine-and-only-mine"
        assert record.headers["authorization"] == "Bearer test-key-of-slng"


@pytest.mark.parametrize(
    ("overrides", "query"),
    [
        ({"slng_region_override": "eu-north-1", "slng_world_part_override": "eu"}, {"region": "eu-north-1"}),
        ({"slng_world_part_override": "eu"}, {"world-part": "eu"}),
    ],
)
async def test_the_region_wins_over_the_world_part(overrides: dict[str, Any], query: dict[str, str]) -> None:
    async with gateway_and_simulator(**overrides) as (url, simulator), http_client(url) as http:
        assert (await http.post(PATH, json={"text": "n1"})).status_code == 200
        (record,) = simulator.log.of("http")
        assert record.query == query
        assert not {"x-region-override", "x-world-part-override"} & record.headers.keys()


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_gateway_without_a_bridge_is_tried_once_an_hour(status: int) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        simulator.inject(do="refuse", kind="http", status=status, times=0)
        for _ in range(3):
            reply = await http.post(PATH, json={"text": "n1 n2"}, headers=PCM)
            assert (reply.status_code, reply.headers["x-upstream"]) == (200, "websocket")
            assert whole_words(reply.content, 24_000) == [1, 2]
        assert (len(simulator.log.of("http")), len(simulator.log.of("tts"))) == (1, 3)
        metrics = (await http.get("/metrics")).text
        assert 'slng_sidecar_session_events_total{kind="tts",reason="http_bridge_missing"} 1.0' in metrics


async def test_a_regional_gateway_is_used_over_websockets() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(regional=True)) as (url, simulator),
        http_client(url) as http,
    ):
        assert whole_words((await http.post(PATH, json={"text": "n7"}, headers=PCM)).content, 24_000) == [7]
        assert [record.kind for record in simulator.log.records] == ["http", "tts"]


async def test_a_misspelt_model_leaves_the_bridge_to_the_other_models() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post("/v1/bridges/unmute/tts/slng/deepgram/orra:2-en", json={"text": "n1"})
        assert reply.status_code == 404
        assert (await http.post(PATH, json={"text": "n1"})).headers["x-upstream"] == "bridge"
        assert len(simulator.log.of("http")) == 2


def test_a_gateway_without_a_bridge_is_tried_again_after_an_hour() -> None:
    now = 100.0
    known = KnownGateways(lambda: now)
    known.lacks_bridge("https://a")
    now += 3599
    assert not known.has_bridge("https://a")
    assert known.has_bridge("https://b")
    now += 2
    assert known.has_bridge("https://a")


@pytest.mark.parametrize("config", [{"language": "en"}, {"speed": 1.5}, {"pronunciation": {"name": "x"}}, {"own": 1}])
async def test_settings_that_the_bridge_lacks_go_over_websockets_or_are_refused_by_name(config: dict[str, Any]) -> None:
    body = {"text": "n1", "config": config}
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json=body)
        assert reply.headers["x-upstream"] == "websocket"
        assert len(simulator.log.of("http")) == 0
    async with gateway_and_simulator(slng_http_tts="bridge") as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "config_error")
        assert f"config.{next(iter(config))}" in reply.json()["error"]["message"]
        assert "SLNG_HTTP_TTS" in reply.json()["error"]["message"]
        assert simulator.log.dials == 0


async def test_a_missing_bridge_is_an_error_with_the_remedy_if_only_the_bridge_is_allowed() -> None:
    options = SimulatorOptions.fast(regional=True)
    async with gateway_and_simulator(options, slng_http_tts="bridge") as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        assert reply.status_code == 405
        assert "SLNG_HTTP_TTS=auto" in reply.json()["error"]["message"]
        assert len(simulator.log.records) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "config_error"), (401, "auth_error"), (403, "auth_error"), (402, None), (422, None), (429, "rate_limit")],
)
async def test_refusals_keep_their_status_and_are_not_retried_over_websockets(status: int, code: str | None) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        simulator.inject(do="refuse", kind="http", status=status, body={"error": "because so"})
        reply = await http.post(PATH, json={"text": "n1"})
        assert reply.status_code == status
        assert code in (None, reply.json()["error"]["code"])
        assert "because so" in reply.json()["error"]["message"]
        assert "Server-Timing" in reply.headers
        assert [record.kind for record in simulator.log.records] == ["http"]


@pytest.mark.parametrize("way", ["auto", "bridge"])
async def test_a_provider_s_refusal_of_the_client_s_key_names_whose_key_it_was(way: str) -> None:
    async with gateway_and_simulator(slng_http_tts=way) as (url, simulator), http_client(url) as http:
        reply = await http.post(EXTERNAL, json={"text": "n1"}, headers={"X-Slng-Provider-Key": BAD_PROVIDER_KEY})
        assert (reply.status_code, reply.headers["x-slng-auth-source"]) == (401, "client_key")
        assert reply.json()["error"]["upstream"] == {"status": 401, "auth_source": "client_key"}
        assert BAD_PROVIDER_KEY not in reply.text
        assert len(simulator.log.records) == 1


@pytest.mark.parametrize(
    ("profile", "name"),
    [
        ({"http_format": "mp3"}, "MP3"),
        ({"http_format": "mp3", "http_type": "audio/wav"}, "MP3"),
        ({"http_format": "ogg"}, "Ogg"),
        ({"http_format": "pcm", "http_type": "audio/mpeg"}, "MP3"),
        ({"http_format": "pcm", "http_type": "text/html"}, "text/html"),
        ({"truncate_bytes": 20}, "before its samples"),
    ],
)
async def test_a_reply_that_is_neither_wav_nor_pcm_is_refused_by_name(profile: dict[str, Any], name: str) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(**profile)) as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "unsupported_audio_format")
        assert name in reply.json()["error"]["message"]
        assert len(simulator.log.records) == 1


@pytest.mark.parametrize("profile", [{"break_bytes": 30_000}, {"http_format": "wav_exact", "truncate_bytes": 30_000}])
async def test_a_reply_that_breaks_off_does_not_end_cleanly(profile: dict[str, Any]) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(**profile)) as (url, _), http_client(url) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(PATH, json={"text": LONG})


async def test_a_connection_lost_before_the_first_audio_is_retried_once() -> None:
    # The body breaks off within the WAV header, so no audio was delivered.
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        simulator.inject(do="profile", kind="http", set={"break_bytes": 30}, times=1)
        assert whole_words((await http.post(PATH, json={"text": "n1 n2"}, headers=PCM)).content, 24_000) == [1, 2]
        assert len(simulator.log.of("http")) == 2
        simulator.inject(do="profile", kind="http", set={"break_bytes": 30}, times=2)
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_closed")
        assert len(simulator.log.of("http")) == 4


async def test_no_audio_at_all_is_an_error() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(truncate_bytes=44)) as (url, _), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "provider_error")


async def test_a_silent_bridge_fails_in_time() -> None:
    async with gateway_and_simulator(sidecar_first_audio_timeout=0.3) as (url, simulator), http_client(url) as http:
        simulator.inject(do="hang", kind="http")
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
        assert "0.3 s" in reply.json()["error"]["message"]


async def test_an_unreachable_upstream_is_reported_by_name() -> None:
    async with running_simulator(SimulatorOptions.fast()) as simulator:
        gone = simulator.url
    async with running_gateway(gone) as url, http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unreachable")


async def test_the_first_bytes_leave_before_upstream_has_finished() -> None:
    options = SimulatorOptions.fast(pace=2)
    async with (
        gateway_and_simulator(options) as (url, simulator),
        http_client(url) as http,
        http.stream("POST", PATH, json={"text": LONG}) as reply,
    ):
        await anext(reply.aiter_raw())
        assert simulator.log.of("http")[0].ended is None


async def test_a_client_that_leaves_ends_the_request_upstream_at_once() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(pace=1)) as (url, simulator), http_client(url) as http:
        async with http.stream("POST", PATH, json={"text": LONG}) as reply:
            await anext(reply.aiter_raw())
        (record,) = simulator.log.of("http")
        await simulator.log.until(lambda log: record.ended)
        assert record.ended == "client"
        assert (await http.get("/v1/status")).json()["sessions"] == []


async def test_a_client_that_leaves_before_the_first_audio_ends_the_request_too() -> None:
    options = SimulatorOptions.fast(first_audio_ms=60_000)
    async with gateway_and_simulator(options) as (url, simulator), http_client(url) as http:
        asking = asyncio.create_task(http.post(PATH, json={"text": "n1"}))
        await simulator.log.until(lambda log: log.of("http") and log.of("http")[0].status)
        asking.cancel()
        (record,) = simulator.log.of("http")
        await simulator.log.until(lambda log: record.ended)
        assert record.ended == "client"


async def test_requests_at_once_count_as_sessions_and_more_get_429_with_the_limit() -> None:
    options = SimulatorOptions.fast(pace=1)
    async with gateway_and_simulator(options, sidecar_max_sessions=1) as (url, simulator), http_client(url) as http:
        asking = asyncio.create_task(http.post(PATH, json={"text": LONG}))
        await simulator.log.until(lambda log: log.records)
        assert [live["kind"] for live in (await http.get("/v1/status")).json()["sessions"]] == ["tts"]
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "session_limit")
        assert "SIDECAR_MAX_SESSIONS" in reply.json()["error"]["message"]
        asking.cancel()


@pytest.mark.parametrize("way", ["auto", "websocket"])
async def test_a_hundred_at_once_each_get_their_own_audio(way: str) -> None:
    async with gateway_and_simulator(slng_http_tts=way) as (url, simulator), http_client(url) as http:
        asked = (http.post(PATH, json={"text": f"n{n} n{n + 1}"}, headers=PCM) for n in range(1, 101))
        replies = await asyncio.gather(*asked)
        assert [whole_words(reply.content, 24_000) for reply in replies] == [[n, n + 1] for n in range(1, 101)]
        assert len(simulator.log.records) == 100


def durations(header: str) -> dict[str, float]:
    """Read a Server-Timing header."""
    return {name: float(value) for name, _, value in (part.partition(";dur=") for part in header.split(", "))}


@pytest.mark.parametrize("way", ["bridge", "websocket"])
async def test_every_speech_reply_reports_where_its_time_went(way: str) -> None:
    # The upgrade, ready and the first audio each take some time. The bridge has only the first audio.
    options = SimulatorOptions.fast(upgrade_ms=200, ready_ms=300, first_audio_ms=400)
    async with gateway_and_simulator(options, slng_http_tts=way) as (url, _), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        spent = durations(reply.headers["server-timing"])
        assert list(spent) == ["dial", "ready", "first-audio", "overhead"]
        if way == "websocket":
            assert spent["dial"] >= 199
            assert spent["ready"] >= 299
            assert spent["first-audio"] >= 399
        # Upstream's latency starts with the request, and part of it may pass before the sidecar reads the headers.
        assert spent["ready"] + spent["first-audio"] >= 399
        assert 0 <= spent["overhead"] < 200


async def test_redirects_are_not_followed_with_the_operators_key() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        elsewhere = {"Location": f"{simulator.http_url}{PATH}?elsewhere=1"}
        simulator.inject(do="refuse", kind="http", status=307, headers=elsewhere)
        assert (await http.post(PATH, json={"text": "n1"})).status_code == 502
        assert len(simulator.log.records) == 1


async def test_a_proxy_of_the_environment_is_used_only_if_the_setting_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with server, gateway_and_simulator() as (url, simulator), http_client(url) as http:
        assert (await http.post(PATH, json={"text": "n1"})).status_code == 200
        assert not asked
        async with running_gateway(simulator.url, slng_proxy_from_env=True) as proxied, http_client(proxied) as through:
            assert (await through.post(PATH, json={"text": "n1"})).status_code == 502
            assert asked[0].startswith(b"POST http://127.0.0.1:")


async def test_errors_in_the_shape_of_the_body_are_json_of_the_contract() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.post(PATH, files={"audio": b"RIFF"})
        assert (reply.status_code, json.loads(reply.content)["error"]["code"]) == (415, "bad_request")
        reply = await http.head(PATH)
        assert (reply.status_code, reply.headers["allow"], reply.content) == (405, "POST", b"")
        reply = await http.post(PATH, json={"text": "n1 n2"}, headers={"Range": "bytes=0-9"})
        assert (reply.status_code, reply.headers["accept-ranges"]) == (200, "none")
        assert whole_words(reply.content[44:], 24_000) == [1, 2]
