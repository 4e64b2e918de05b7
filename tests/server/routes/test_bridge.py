"""HTTP TTS: one text, whose audio is sent while it is synthesized."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import httpx
import pytest
from slng_sidecar.simulator import SimulatorOptions
from support.http_tools import http_client
from support.numbered_signal import whole_words
from support.running import AURA, gateway_and_simulator

PATH = f"/v1/bridges/unmute/tts/{AURA}"
OVER_WEBSOCKET: dict[str, Any] = {"slng_http_tts": "websocket"}


async def test_a_text_comes_back_as_a_wav_of_unknown_length() -> None:
    async with gateway_and_simulator(**OVER_WEBSOCKET) as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1 n2 n3", "voice": "aura-2-thalia-en"})
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "audio/wav"
        assert (reply.headers["x-sample-rate"], reply.headers["x-channels"]) == ("24000", "1")
        assert reply.headers["x-sample-format"] == "s16le"
        body = reply.content
        assert (body[:4], body[8:16], body[36:40]) == (b"RIFF", b"WAVEfmt ", b"data")
        assert struct.unpack_from("<I", body, 4) == struct.unpack_from("<I", body, 40) == (0xFFFFFFFF,)
        assert struct.unpack_from("<HHIIHH", body, 20) == (1, 1, 24000, 48000, 2, 16)
        assert whole_words(body[44:], 24000) == [1, 2, 3]
        init = simulator.log.of("tts")[0].last_received("init")
        assert init is not None
        assert init["voice"] == "aura-2-thalia-en"
        assert init["config"] == {"sample_rate": 24000, "encoding": "linear16"}


async def test_raw_pcm_has_the_requested_rate_if_it_is_accepted() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        body = {"text": "n1 n2", "config": {"sample_rate": 8000, "language": "en", "speed": 1.1, "own_option": True}}
        reply = await http.post(PATH, json=body, headers={"Accept": "audio/pcm"})
        assert reply.headers["content-type"] == "audio/pcm;rate=8000"
        assert whole_words(reply.content, 8000) == [1, 2]
        init = simulator.log.of("tts")[0].last_received("init")
        assert init is not None
        assert init["config"] == {**body["config"], "encoding": "linear16"}  # type: ignore[dict-item] # it is one


async def test_the_first_bytes_leave_before_upstream_has_finished() -> None:
    options = SimulatorOptions.fast(pace=2, chunk_ms=20)
    async with (
        gateway_and_simulator(options, **OVER_WEBSOCKET) as (url, simulator),
        http_client(url) as http,
        http.stream("POST", PATH, json={"text": " ".join(f"n{n}" for n in range(1, 20))}) as reply,
    ):
        await anext(reply.aiter_raw())
        assert "audio_end" not in [message["type"] for _, message in simulator.log.of("tts")[0].sent]


async def test_the_operator_s_voice_is_used_if_a_request_names_none() -> None:
    async with (
        gateway_and_simulator(slng_tts_voice="aura-2-luna-en", **OVER_WEBSOCKET) as (url, simulator),
        http_client(url) as http,
    ):
        await http.post(PATH, json={"text": "n1"})
        init = simulator.log.of("tts")[0].last_received("init")
        assert init is not None
        assert init["voice"] == "aura-2-luna-en"


@pytest.mark.parametrize(
    ("body", "status", "code", "message_part"),
    [
        (b"", 400, "bad_request", "not JSON"),
        (b"{", 400, "bad_request", "The body is not JSON"),
        (b"[]", 400, "bad_request", "a list"),
        (b"\xff", 400, "bad_request", "UTF-8"),
        (b"{}", 400, "bad_request", "nothing to say"),
        (b'{"text": null}', 400, "bad_request", "nothing to say"),
        (b'{"text": ""}', 400, "bad_request", "nothing to say"),
        (b'{"text": " \\n "}', 400, "bad_request", "nothing to say"),
        (b'{"text": 5}', 400, "bad_request", "nothing to say"),
        (b'{"text": "a", "voice": 5}', 400, "config_error", "voice"),
        (b'{"text": "a", "config": []}', 400, "config_error", "config"),
        (b'{"text": "a", "config": {"sample_rate": "x"}}', 400, "config_error", "config.sample_rate"),
        (b'{"text": "a", "config": {"sample_rate": 1}}', 400, "config_error", "config.sample_rate"),
        (b'{"text": "a", "config": {"encoding": "mp3"}}', 400, "config_error", "config.encoding"),
        (b'{"text": "a", "config": {"speed": -1}}', 400, "config_error", "config.speed"),
        (json.dumps({"text": "a" * 10_001}).encode(), 413, "payload_too_large", "10,000"),
        (json.dumps({"text": "a" * 1_000_000}).encode(), 413, "payload_too_large", "10,000"),
    ],
)
async def test_an_unusable_body_is_refused_by_name_before_any_dial(
    body: bytes, status: int, code: str, message_part: str
) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, content=body)
        assert reply.status_code == status
        error = reply.json()["error"]
        assert error["code"] == error["data"]["code"] == code
        assert message_part in error["message"]
        assert simulator.log.dials == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", PATH, 405, "method_not_allowed"),
        ("POST", "/v1/bridges/unmute/tts/aura", 400, "bad_request"),
        ("POST", "/v1/bridges/unmute/tts/slng%2Fdeepgram/aura:2-en", 400, "bad_request"),
        ("POST", "/v1/bridges/unmute/tts/a/b%0d%0ac", 400, "bad_request"),
        ("GET", "/nothing", 404, "not_found"),
    ],
)
async def test_a_wrong_address_is_refused_by_name(method: str, path: str, status: int, code: str) -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.request(method, path, content=b'{"text": "a"}')
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_refusal_of_upstream_keeps_its_status() -> None:
    options = SimulatorOptions.fast(keys=("another",))
    async with gateway_and_simulator(options) as (url, _), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "auth_error")
        assert "SLNG_API_KEY" in reply.json()["error"]["message"]


async def test_whose_key_was_refused_at_the_upgrade_is_passed_on() -> None:
    async with gateway_and_simulator(**OVER_WEBSOCKET) as (url, simulator), http_client(url) as http:
        headers = {"X-Slng-Auth-Source": "client_key"}
        simulator.inject(do="refuse", when="upgrade", status=403, headers=headers)
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.headers["x-slng-auth-source"]) == (403, "client_key")


async def test_byok_on_a_hosted_route_is_refused_in_upstream_s_words() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"text": "n1"}, headers={"X-Slng-Provider-Key": "k"})
        assert reply.status_code == 400
        assert reply.json()["error"]["message"] == "BYOK is only supported for external STT/TTS routes"
        assert simulator.log.dials == 0


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"do": "refuse", "when": "upgrade", "status": 502}, 502, "backend_connection_failed"),
        ({"do": "refuse", "when": "upgrade", "status": 429}, 429, "rate_limit"),
        (
            {"do": "error", "when": "text", "code": "pronunciation_not_found", "message": "no dictionary x"},
            400,
            "pronunciation_not_found",
        ),
    ],
)
async def test_a_failure_before_the_first_audio_is_a_status(fault: dict[str, Any], status: int, code: str) -> None:
    async with gateway_and_simulator(**OVER_WEBSOCKET) as (url, simulator), http_client(url) as http:
        simulator.inject(**fault)
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


async def test_a_turn_without_audio_is_an_error_and_no_empty_file() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(silent=True), **OVER_WEBSOCKET) as (url, _),
        http_client(url) as http,
    ):
        reply = await http.post(PATH, json={"text": "n1"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "provider_error")


async def test_a_failure_after_the_first_audio_breaks_the_body_off() -> None:
    options = SimulatorOptions.fast(pace=20, chunk_ms=20)
    async with gateway_and_simulator(options, **OVER_WEBSOCKET) as (url, simulator), http_client(url) as http:
        fault = simulator.inject(do="drop", kind="tts", when="audio", after_ms=400)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(PATH, json={"text": " ".join(f"n{n}" for n in range(1, 20))})
        assert len(fault.fired) == 1


async def test_a_client_that_leaves_ends_the_synthesis_at_once() -> None:
    options = SimulatorOptions.fast(pace=1, chunk_ms=20)
    async with gateway_and_simulator(options, **OVER_WEBSOCKET) as (url, simulator), http_client(url) as http:
        async with http.stream("POST", PATH, json={"text": " ".join(f"n{n}" for n in range(1, 60))}) as reply:
            await anext(reply.aiter_raw())
        await simulator.log.until(lambda log: not log.open)
        assert simulator.log.of("tts")[0].ended == "client"


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v1/bridges/unmute/tts/slng/deepgram/aura:2-en"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_body_that_is_not_complete_in_time_is_refused(path: str, leaves: bool) -> None:
    settings: dict[str, Any] = {} if leaves else {"sidecar_init_timeout": 0.3}
    async with gateway_and_simulator(**settings) as (url, simulator), http_client(url) as http:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100"
        writer.write(f'POST {path} HTTP/1.1\r\n{head}\r\n\r\n{{"input":'.encode())
        if leaves:  # this is no error of the sidecar's, so nothing is logged as an error
            await writer.drain()
            assert (await http.get("/healthz")).status_code == 200
        else:
            async with asyncio.timeout(10):
                assert b" 408 " in await reader.readline()
                assert b"client_stuck" in await reader.readuntil(b"}}}")
        writer.close()
        await writer.wait_closed()
        assert (await http.get("/v1/status")).json()["sessions"] == []
        assert simulator.log.dials == 0


async def test_many_at_once_each_get_their_own_audio() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        replies = await asyncio.gather(*(http.post(PATH, json={"text": f"n{n} n{n + 1}"}) for n in range(1, 41)))
        assert [whole_words(reply.content[44:], 24000) for reply in replies] == [[n, n + 1] for n in range(1, 41)]


async def test_health_metrics_and_status_are_served() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        assert (await http.get("/healthz")).json()["status"] == "ok"
        assert (await http.get("/readyz")).status_code == 200
        await http.post(PATH, json={"text": "n1"})
        metrics = (await http.get("/metrics")).text
        assert 'slng_sidecar_upstream_dials_total{kind="tts"} 1.0' in metrics
        status = (await http.get("/v1/status")).json()
        assert status["max_sessions"] == 200
        assert "test-key-of-slng" not in str(status) + metrics
        assert PATH.replace(AURA, "{model}") in (await http.get("/openapi.json")).json()["paths"]
