"""``POST /v1/audio/speech``: HTTP speech in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from slng_sidecar.config import load_settings
from slng_sidecar.keys import ConfigError
from slng_sidecar.simulator import SimulatorOptions
from support.http_tools import http_client, server_sent_events
from support.numbered_signal import whole_words
from support.processes import need
from support.running import AURA, gateway_and_simulator

PATH = "/v1/audio/speech"
LONG = " ".join(f"n{n}" for n in range(1, 60))


@pytest.mark.parametrize(
    ("asked", "accept", "media_type"),
    [
        ({}, "*/*", "audio/wav"),
        ({"response_format": "wav"}, "audio/pcm", "audio/wav"),
        ({"response_format": "pcm"}, "*/*", "audio/pcm;rate=24000"),
        ({}, "audio/pcm", "audio/pcm;rate=24000"),
    ],
)
async def test_a_wav_comes_unless_pcm_is_requested(asked: dict[str, Any], accept: str, media_type: str) -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        body = {"model": "tts-1", "input": "n1 n2", "voice": "alloy", **asked}
        reply = await http.post(PATH, json=body, headers={"Accept": accept})
        assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
        assert reply.headers["x-model"] == AURA
        assert "x-ignored" not in reply.headers
        assert whole_words(reply.content[44 if media_type == "audio/wav" else 0 :], 24_000) == [1, 2]


async def test_pcm_is_24_khz_by_default_whatever_upstream_returns() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(http_rate=48_000)) as (url, _), http_client(url) as http:
        wav = await http.post(PATH, json={"input": LONG})
        assert wav.headers["x-sample-rate"] == "48000"
        seconds = (len(wav.content) - 44) / 2 / 48_000
        for rate in (None, 8_000, 16_000):
            reply = await http.post(PATH, json={"input": LONG, "response_format": "pcm", "sample_rate": rate})
            assert reply.headers["x-sample-rate"] == str(rate or 24_000)
            assert len(reply.content) / 2 / (rate or 24_000) == pytest.approx(seconds, abs=0.0005)


@pytest.mark.parametrize(
    ("asked", "model", "voice"),
    [
        ({}, AURA, "house"),
        ({"model": "tts-1", "voice": "alloy"}, AURA, "house"),
        ({"model": "tts-1-hd", "voice": "echo"}, AURA, "aura-2-orion-en"),
        ({"model": "fast", "voice": "aura-2-luna-en"}, "slng/simulator/signal:1", "aura-2-luna-en"),
        ({"model": "deepgram/aura:2", "voice": {"id": "aura-2-luna-en"}}, "deepgram/aura:2", "aura-2-luna-en"),
    ],
)
async def test_names_of_models_and_voices_are_aliases_defaults_or_themselves(
    asked: dict[str, Any], model: str, voice: str
) -> None:
    settings: dict[str, Any] = {
        "sidecar_model_aliases": "fast=slng/simulator/signal:1",
        "sidecar_voice_aliases": {"echo": "aura-2-orion-en"},
        "slng_tts_voice": "house",
    }
    async with gateway_and_simulator(**settings) as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, json={"input": "n1", **asked})
        assert (reply.status_code, reply.headers["x-model"]) == (200, model)
        (record,) = simulator.log.of("http")
        assert (record.model, record.received[0][1]["voice"]) == (model, voice)


@pytest.mark.parametrize("value", ["fast", "fast=aura", "=x/y"])
def test_an_alias_that_names_no_model_is_an_error_in_the_settings(value: str) -> None:
    if value == "=x/y":
        assert load_settings(slng_api_key="k", sidecar_model_aliases=value)
        return
    with pytest.raises(ConfigError, match="SIDECAR_MODEL_ALIASES"):
        load_settings(slng_api_key="k", sidecar_model_aliases=value)


async def test_language_and_speed_go_upstream_and_openai_s_default_speed_changes_nothing() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        await http.post(PATH, json={"input": "n1", "speed": 1.0})
        assert [record.kind for record in simulator.log.records] == ["http"]
        await http.post(PATH, json={"input": "n1", "speed": 1.5, "language": "es", "sample_rate": 16_000})
        init = simulator.log.of("tts")[0].last_received("init")
        assert init is not None
        assert init["config"] == {"sample_rate": 16_000, "encoding": "linear16", "language": "es", "speed": 1.5}


async def test_ignored_fields_are_named() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        odd = {"instructions": "Sing.", "user": "u", "x\r\ny": 1, "é": 2}
        reply = await http.post(PATH, json={"input": "n1", **odd})
        assert reply.headers["x-ignored"] == "instructions, user"


@pytest.mark.parametrize(
    ("body", "status", "message_part"),
    [
        (b"", 400, "not JSON"),
        (b"{}", 400, '"input"'),
        (b'{"text": "n1"}', 400, '"input"'),
        (b'{"input": "a", "response_format": "midi"}', 400, "response_format"),
        (b'{"input": "a", "stream_format": "x"}', 400, "stream_format"),
        (b'{"input": "a", "speed": 9}', 400, "speed"),
        (b'{"input": "a", "speed": "fast"}', 400, "speed"),
        (b'{"input": "a", "voice": 5}', 400, "voice"),
        (b'{"input": "a", "sample_rate": 7}', 400, "sample_rate"),
        (b'{"input": "a", "model": "a/b c"}', 400, "is not a model"),
        (json.dumps({"input": "a" * 10_001}).encode(), 413, "10,000"),
    ],
)
async def test_an_unusable_request_is_refused_by_name_before_any_dial(
    body: bytes, status: int, message_part: str
) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(PATH, content=body)
        assert reply.status_code == status
        assert message_part in reply.json()["error"]["message"]
        assert simulator.log.dials == 0


SUFFIX = {"wav": "wav", "mp3": "mp3", "opus": "ogg", "flac": "flac", "aac": "aac"}
TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac", "aac": "audio/aac"}


@pytest.mark.parametrize("name", SUFFIX)
@pytest.mark.parametrize("way", ["bridge", "websocket"])
async def test_every_format_is_as_long_as_pcm_to_the_millisecond(name: str, way: str, tmp_path: Path) -> None:
    need("ffmpeg")
    async with gateway_and_simulator(slng_http_tts=way) as (url, _), http_client(url) as http:
        pcm = (await http.post(PATH, json={"input": LONG, "response_format": "pcm"})).content
        reply = await http.post(PATH, json={"input": LONG, "response_format": name})
    assert reply.headers["content-type"] == TYPES[name]
    path = tmp_path / f"x.{SUFFIX[name]}"
    path.write_bytes(reply.content)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ar", "24000", "-ac", "1", "-"]
    read = subprocess.run(command, capture_output=True, check=True).stdout
    late_ms = (len(read) - len(pcm)) / 48
    # A stream of MP3 or AAC cannot record how much of its first and last frames is padding.
    assert 0 <= late_ms <= (100 if name in ("mp3", "aac") else 0.5)
    if name in ("wav", "flac"):
        assert read == pcm
    if name in ("wav", "mp3", "opus"):
        samples, rate = soundfile.read(io.BytesIO(reply.content))
        assert abs(len(samples) / rate - len(read) / 48_000) < 0.001
    if name in ("wav", "flac"):
        need("sox")
        raw = subprocess.run(["sox", path, "-t", "raw", "-"], capture_output=True, check=True).stdout
        assert raw == pcm


@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "aac"])
async def test_encoded_bytes_leave_while_upstream_still_speaks(name: str) -> None:
    options = SimulatorOptions.fast(pace=2)
    async with (
        gateway_and_simulator(options) as (url, simulator),
        http_client(url) as http,
        http.stream("POST", PATH, json={"input": LONG, "response_format": name}) as reply,
    ):
        pieces = reply.aiter_raw()
        assert await anext(pieces)
        assert await anext(pieces)
        assert simulator.log.of("http")[0].ended is None


async def test_server_sent_events_carry_the_same_audio() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        body = {"input": "n1 n2", "response_format": "pcm", "stream_format": "sse"}
        reply = await http.post(PATH, json=body)
        assert reply.headers["content-type"] == "text/event-stream"
        events = server_sent_events(reply.text)
        assert [event["type"] for event in events] == ["speech.audio.delta"] * (len(events) - 1) + ["speech.audio.done"]
        assert whole_words(b"".join(base64.b64decode(event["audio"]) for event in events[:-1]), 24_000) == [1, 2]


@pytest.mark.parametrize("asked", [{"stream_format": "sse"}, {"response_format": "mp3"}, {"response_format": "flac"}])
async def test_a_failure_in_mid_sentence_breaks_every_form_off(asked: dict[str, str]) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(break_bytes=60_000)) as (url, _), http_client(url) as http:
        got = bytearray()

        async def read() -> None:
            async with http.stream("POST", PATH, json={"input": LONG, **asked}) as reply:
                assert reply.status_code == 200
                async for data in reply.aiter_raw():
                    got.extend(data)

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
        if "stream_format" in asked:
            assert server_sent_events(got.decode())[-1]["error"]["code"] == "upstream_closed"


async def test_a_client_that_leaves_in_mid_file_stops_upstream() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(pace=1)) as (url, simulator), http_client(url) as http:
        async with http.stream("POST", PATH, json={"input": LONG, "response_format": "mp3"}) as reply:
            await anext(reply.aiter_raw())
        (record,) = simulator.log.of("http")
        await simulator.log.until(lambda log: record.ended)
        assert record.ended == "client"


async def test_without_the_codecs_wav_and_pcm_work_and_the_rest_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        for name in ("wav", "pcm"):
            assert (await http.post(PATH, json={"input": "n1", "response_format": name})).status_code == 200
        dials = simulator.log.dials
        for name in ("mp3", "opus", "flac", "aac"):
            reply = await http.post(PATH, json={"input": "n1", "response_format": name})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported_audio_format")
            assert name in reply.json()["error"]["message"]
            assert "slng-sidecar[codecs]" in reply.json()["error"]["message"]
        assert simulator.log.dials == dials


@pytest.mark.parametrize("name", ["wav", "mp3", "opus"])
async def test_a_hundred_at_once_are_all_served(name: str) -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        asked = (http.post(PATH, json={"input": f"n{n} n{n + 1}", "response_format": name}) for n in range(1, 101))
        replies = await asyncio.gather(*asked)
        assert {reply.status_code for reply in replies} == {200}
        assert all(len(reply.content) > 1_000 for reply in replies)
