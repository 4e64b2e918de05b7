from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import signal
from slng_sidecar.engines.pcm import wav_head
from slng_sidecar.simulator import BAD_PROVIDER_KEY, Simulator
from support.simulator_client import AURA, KEY, NOVA, fast

TTS = f"/v1/bridges/unmute/tts/{AURA}"
STT = f"/v1/bridges/unmute/stt/{NOVA}"


@asynccontextmanager
async def _client(**options: Any) -> AsyncIterator[tuple[Simulator, httpx.AsyncClient]]:
    async with (
        fast(**options) as simulator,
        httpx.AsyncClient(base_url=simulator.http_url, headers=KEY, timeout=5) as client,
    ):
        yield simulator, client


async def test_speech_is_a_wav_with_the_streaming_sizes() -> None:
    async with _client() as (_, http):
        reply = await http.post(TTS, json={"text": "n1 n2", "voice": "v"})
        assert (reply.status_code, reply.headers["content-type"]) == (200, "audio/wav")
        head, pcm = reply.content[:44], reply.content[44:]
        assert int.from_bytes(head[4:8], "little") == 2_147_418_148
        assert int.from_bytes(head[40:44], "little") == 2_147_418_112
        assert int.from_bytes(head[24:28], "little") == 24_000
        assert [word.text for word in signal.decode(pcm, 24_000)] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("variant", "begins", "media_type"),
    [
        ("wav_exact", b"RIFF", "audio/wav"),
        ("pcm", signal.encode([1], 24_000)[:8], "audio/pcm"),
        ("mp3", b"ID3", "audio/mpeg"),
        ("ogg", b"OggS", "audio/ogg"),
    ],
)
async def test_speech_comes_in_other_forms(variant: str, begins: bytes, media_type: str) -> None:
    async with _client(http_format=variant) as (_, http):
        reply = await http.post(TTS, json={"text": "n1"})
        assert reply.content.startswith(begins)
        assert reply.headers["content-type"] == media_type


@pytest.mark.parametrize(
    "body", [{"text": "n1", "config": {}}, {"text": ""}, {}, {"text": "n1", "speed": 2}, {"text": 1}]
)
async def test_a_body_that_the_bridge_does_not_accept_is_refused(body: dict[str, Any]) -> None:
    async with _client() as (_, http):
        assert (await http.post(TTS, json=body)).status_code == 400


async def test_a_key_a_model_and_byok_are_refused_as_at_the_upgrade() -> None:
    async with _client() as (_, http):
        body = {"text": "n1"}
        refused = await http.post(TTS, json=body, headers={"Authorization": "Bearer bad"})
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        refused = await http.post(TTS, json=body, headers={"X-Slng-Provider-Key": "mine"})
        assert (refused.status_code, refused.json()) == (
            400,
            {"error": "BYOK is only supported for external STT/TTS routes"},
        )
        assert (await http.post("/v1/bridges/unmute/tts/acme/mouth:1", json=body)).status_code == 404
        external = "/v1/bridges/unmute/tts/deepgram/aura:2"
        refused = await http.post(external, json=body, headers={"X-Slng-Provider-Key": BAD_PROVIDER_KEY})
        assert (refused.status_code, refused.headers["x-slng-auth-source"]) == (401, "client_key")


async def test_a_regional_gateway_has_only_the_http_route_of_aura() -> None:
    async with _client(regional=True) as (_, http):
        assert (await http.post(TTS, json={"text": "n1"})).status_code == 405
        assert (await http.post(STT, content=bytes(640))).status_code == 405
        native = await http.post(f"/v1/tts/{AURA}", json={"model": "aura-2-thalia-en", "text": "n1"})
        assert [word.text for word in signal.decode(native.content, 24_000)] == ["n1"]


@pytest.mark.parametrize(("host", "status"), [("eu-west.api.slng.ai", 405), ("api.slng.ai", 200)])
async def test_the_host_header_decides_which_gateway_answers(host: str, status: int) -> None:
    async with _client(regional=status == 200) as (_, http):
        assert (await http.post(TTS, json={"text": "n1"}, headers={"Host": host})).status_code == status


async def test_the_route_of_aura_refuses_audio_settings() -> None:
    async with _client() as (_, http):
        refused = await http.post(f"/v1/tts/{AURA}", json={"text": "n1", "encoding": "linear16"})
        assert refused.status_code == 400
        assert refused.json() == {"error": "Audio settings are not supported for this Deepgram Aura route"}


@pytest.mark.parametrize(("status", "headers"), [(413, {}), (429, {"retry-after": "7"}), (503, {})])
async def test_a_request_can_be_refused(status: int, headers: dict[str, str]) -> None:
    async with _client() as (simulator, http):
        fault = simulator.inject(do="refuse", kind="http", status=status, headers=headers)
        refused = await http.post(TTS, json={"text": "n1"})
        assert refused.status_code == status
        assert headers.items() <= dict(refused.headers).items()
        assert len(fault.fired) == 1
        assert (await http.post(TTS, json={"text": "n1"})).status_code == 200


async def test_a_request_can_hang() -> None:
    async with _client() as (simulator, http):
        fault = simulator.inject(do="hang", kind="http")
        with pytest.raises(httpx.ReadTimeout):
            await http.post(TTS, json={"text": "n1"}, timeout=0.1)
        await simulator.until_fired(fault)


async def test_the_simulator_stops_while_a_request_hangs() -> None:
    async with _client() as (simulator, http):
        fault = simulator.inject(do="hang", kind="http")
        request = asyncio.create_task(http.post(TTS, json={"text": "n1"}))
        await simulator.until_fired(fault)
        simulator.stopping.set()
        assert (await request).status_code == 503


async def test_a_body_is_paced_by_the_clock() -> None:
    async with _client(first_audio_ms=60, pace=4) as (_, http):
        loop = asyncio.get_running_loop()
        sent = loop.time()
        async with http.stream("POST", TTS, json={"text": "n1 n2 n3 n4"}) as reply:
            pieces = [(loop.time() - sent, piece) async for piece in reply.aiter_raw()]
        seconds = sum(len(piece) for _, piece in pieces) / 48_000
        assert pieces[0][0] >= 0.06
        assert pieces[-1][0] >= 0.06 + (seconds - 8192 / 48_000) / 4
        assert len(pieces) > 2


async def test_a_body_can_end_early_as_if_it_were_complete() -> None:
    async with _client(truncate_bytes=500) as (_, http):
        assert len((await http.post(TTS, json={"text": "n1"})).content) == 500


async def test_a_body_can_break_off() -> None:
    async with _client() as (simulator, http):
        simulator.inject(do="profile", kind="http", set={"break_bytes": 500})
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(TTS, json={"text": "n1"})


async def test_a_request_can_be_dropped_before_its_answer() -> None:
    async with _client() as (simulator, http):
        simulator.inject(do="drop", kind="http", when="request")
        with pytest.raises(httpx.TransportError):
            await http.post(TTS, json={"text": "n1"})
        assert (await http.post(TTS, json={"text": "n1"})).status_code == 200


@pytest.mark.parametrize("way", ["raw", "wav", "json", "multipart"])
async def test_audio_in_every_kind_of_body_is_transcribed(way: str) -> None:
    pcm = signal.encode([1, 2])
    async with _client() as (simulator, http):
        match way:
            case "raw":
                reply = await http.post(STT, content=pcm)
            case "wav":
                reply = await http.post(STT, content=wav_head(16_000, len(pcm)) + pcm)
            case "json":
                encoded = base64.b64encode(pcm).decode()
                reply = await http.post(STT, json={"audio": encoded, "language": "hi", "sample_rate": 16_000})
            case _:
                files = {"audio": ("a.wav", wav_head(16_000, len(pcm)) + pcm, "audio/wav")}
                reply = await http.post(STT, files=files, data={"language": "hi"})
        body = reply.json()
        assert body["alternatives"][0]["transcript"] == "n1 n2"
        assert (body["type"], body["is_final"]) == ("transcription", True)
        assert body["language"] == ("hi" if way in ("json", "multipart") else "en")
        assert simulator.log.records[0].audio.endswith(pcm)


async def test_unreadable_audio_is_refused() -> None:
    async with _client() as (_, http):
        assert (await http.post(STT, content=b"RIFFnonsense")).status_code == 400
        assert (await http.post(STT, json={"url": "http://127.0.0.1/a.wav"})).status_code == 400
        assert (await http.post(STT, files={"sound": b"abc"})).status_code == 400
        assert (await http.post(STT, content=bytes((32 << 20) + 1))).status_code == 413


async def test_the_catalogue_is_open_and_filters_by_kind() -> None:
    async with _client() as (_, http):
        http.headers.clear()
        items = (await http.get("/v1/catalog/models", params={"service_type": "tts"})).json()["data"]
        assert {item["service_type"] for item in items} == {"tts"}
        assert AURA in {item["code"] for item in items}
        assert (await http.get("/v1/catalog/models", params={"limit": 5})).status_code == 400


async def test_me_distinguishes_a_good_key_from_a_bad_one() -> None:
    async with _client(keys=("key",)) as (_, http):
        assert (await http.get("/v1/me")).status_code == 200
        assert (await http.get("/v1/me", headers={"Authorization": "Bearer other"})).status_code == 401
