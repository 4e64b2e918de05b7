"""HTTP transcription in OpenAI's and in SLNG's shape."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy
import pytest
import soundfile
from slng_sidecar.audio.decoding import Decoding
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator
from support.audio import audio_file
from support.http_tools import http_client, server_sent_events
from support.running import NOVA, gateway_and_simulator, running_gateway

OPENAI = "/v1/audio/transcriptions"
SLNG = f"/v1/bridges/unmute/stt/{NOVA}"
RATE = 16_000
WORDS = list(range(1, 41))
# There is a pause after every tenth word, so that there are several finals.
PCM = signal.encode([signal.SignalWord(n, gap=30 if n % 10 == 0 else 2) for n in WORDS], RATE)
WAV = wav_header(RATE, data_size=len(PCM)) + PCM
TEXT = " ".join(f"n{n}" for n in WORDS)


def form(file: bytes = WAV, **fields: Any) -> dict[str, Any]:
    """Return a form whose fields precede its file."""
    return {"data": {"model": "whisper-1", **fields}, "files": {"file": ("hello.wav", file, "audio/wav")}}


def audio_upstream(simulator: Simulator) -> bytes:
    """Return the audio that upstream received on all its connections."""
    return b"".join(bytes(record.audio) for record in simulator.log.of("stt"))


async def test_a_file_comes_back_as_its_words() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(OPENAI, **form(language="en"))
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
        assert reply.json()["text"] == TEXT
        assert reply.headers["x-model"] == NOVA
        assert "dial;dur=" in reply.headers["server-timing"]
        assert "first-words;dur=" in reply.headers["server-timing"]
        assert audio_upstream(simulator) == PCM
        init = simulator.log.of("stt")[0].last_received("init")
        assert init is not None
        assert init["config"] == {
            "sample_rate": RATE, "encoding": "linear16", "enable_partials": False, "language": "en",
        }  # fmt: skip


async def test_a_file_is_one_session_with_one_dial_as_over_a_websocket() -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        await http.post(OPENAI, **form())
        assert simulator.log.of("stt")[0].types == ["init", "close"]
        assert 'slng_sidecar_sessions_total{kind="stt",outcome="closed"} 1.0' in (await http.get("/metrics")).text
        assert (await http.get("/v1/status")).json()["sessions"] == []


async def test_text_is_text_and_verbose_json_has_times() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.post(OPENAI, **form(response_format="text"))
        assert (reply.headers["content-type"], reply.text) == ("text/plain; charset=utf-8", f"{TEXT}\n")
        reply = await http.post(OPENAI, **form(response_format="verbose_json"))
        verbose = reply.json()
        assert verbose["text"] == " ".join(segment["text"] for segment in verbose["segments"]) == TEXT
        assert verbose["duration"] == pytest.approx(len(PCM) / 2 / RATE, abs=0.001)
        assert "words" not in verbose
        assert [segment["id"] for segment in verbose["segments"]] == list(range(len(verbose["segments"])))
        assert 0 <= verbose["segments"][0]["start"] < verbose["segments"][-1]["end"] <= verbose["duration"]
        granular: dict[str, Any] = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
        reply = await http.post(OPENAI, **form(**granular))
        words = reply.json()["words"]
        assert [word["word"] for word in words] == TEXT.split()
        assert "segments" not in reply.json()
        at = 0.0
        for word in words:
            assert at <= word["start"] < word["end"]
            at = word["start"]


async def test_the_words_come_as_events_while_they_are_recognized() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.post(OPENAI, **form(stream="true"))
        assert reply.headers["content-type"] == "text/event-stream"
        events = server_sent_events(reply.text)
        assert events[-1] == {"type": "transcript.text.done", "text": TEXT}
        assert "".join(event["delta"] for event in events[:-1]) == TEXT
        assert len(events) > 2


async def test_the_first_words_come_before_the_file_is_all_sent() -> None:
    more = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield wav_header(RATE) + signal.encode([signal.SignalWord(1, gap=30), signal.SignalWord(2, gap=60)], RATE)
        await more.wait()
        yield signal.encode([3], RATE)

    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        asking = asyncio.create_task(http.post(SLNG, content=body()))
        await simulator.log.until(lambda log: any("final" in m["type"] for r in log.of("stt") for _, m in r.sent))
        more.set()
        assert (await asking).json()["alternatives"][0]["transcript"] == "n1 n2 n3"


@pytest.mark.parametrize("kind", ["multipart", "raw", "curl", "chunked"])
async def test_slng_s_shape_accepts_a_form_or_the_file_alone(kind: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(WAV), 999):
            yield WAV[at : at + 999]

    how: dict[str, dict[str, Any]] = {
        "multipart": {"files": {"audio": ("x", WAV)}},
        "raw": {"content": WAV, "headers": {"Content-Type": "audio/wav"}},
        "curl": {"content": WAV, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        "chunked": {"content": pieces()},
    }
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(SLNG, **how[kind])
        assert reply.status_code == 200
        body = reply.json()
        assert (body["type"], body["is_final"], body["channel"]) == ("transcription", True, 0)
        assert body["alternatives"][0]["transcript"] == TEXT
        assert body["alternatives"][0]["confidence"] == pytest.approx(0.95)
        assert audio_upstream(simulator) == PCM


@pytest.mark.parametrize(
    ("content_type", "query"),
    [("audio/pcm;rate=16000", ""), ("audio/L16; rate=16000", ""), ("", "?encoding=linear16&sample_rate=16000")],
)
async def test_samples_without_a_header_are_accepted_if_they_are_described(content_type: str, query: str) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        headers = {"Content-Type": content_type} if content_type else {}
        reply = await http.post(SLNG + query, content=PCM, headers=headers)
        assert reply.json()["alternatives"][0]["transcript"] == TEXT
        assert audio_upstream(simulator) == PCM


async def test_fields_may_follow_the_file_if_none_precedes_it() -> None:
    file = ("hello.wav", WAV, "audio/wav")
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        parts: dict[str, Any] = {"file": file, "model": (None, "slng/simulator/signal:1"), "language": (None, "fr")}
        reply = await http.post(OPENAI, files=parts)
        assert (reply.json()["text"], reply.headers["x-model"]) == (TEXT, "slng/simulator/signal:1")
        init = simulator.log.of("stt")[0].last_received("init")
        assert init is not None
        assert init["config"]["language"] == "fr"
        parts = {"model": (None, "whisper-1"), "file": file, "language": (None, "fr")}
        reply = await http.post(OPENAI, files=parts)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "bad_request")
        assert "'language' before the file" in reply.json()["error"]["message"]


async def test_ignored_fields_are_named() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.post(OPENAI, **form(prompt="n1", temperature="0.5"))
        assert reply.headers["x-ignored"] == "prompt, temperature"


def written(rate: int, channels: int, form: str, subtype: str | None) -> bytes:
    wave = 0.5 * numpy.sin(numpy.arange(rate * 2) / 7)
    return audio_file(numpy.stack([wave] * channels, axis=1), rate, form, subtype)


@pytest.mark.parametrize(
    ("form_", "subtype"), [("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "OPUS"), ("MP3", None)]
)
async def test_files_of_any_kind_reach_upstream_as_mono_at_its_rate(form_: str, subtype: str | None) -> None:
    options = SimulatorOptions.fast("tone")
    async with gateway_and_simulator(options) as (url, simulator), http_client(url) as http:
        reply = await http.post(OPENAI, **form(written(48_000, 2, form_, subtype)))
        assert reply.status_code == 200
        assert abs(len(audio_upstream(simulator)) / 2 / RATE - 2) < 0.15
        init = simulator.log.of("stt")[0].last_received("init")
        assert init is not None
        assert (init["config"]["sample_rate"], init["config"]["encoding"]) == (RATE, "linear16")


async def test_a_wav_that_claims_4_gb_and_holds_1_kb_is_read_as_1_kb() -> None:
    lie = wav_header(RATE)[:40] + struct.pack("<I", 4_000_000_000)
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        assert (await http.post(SLNG, content=lie + PCM[:1_024])).status_code == 200
        assert audio_upstream(simulator) == PCM[:1_024]


@pytest.mark.parametrize(
    ("file", "status", "code"),
    [
        (b"", 415, "unsupported_audio_format"),
        (b"Dear Sir or Madam, " * 500, 415, "unsupported_audio_format"),
        (b"PK\x03\x04" + bytes(5_000), 415, "unsupported_audio_format"),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415, "unsupported_audio_format"),
        (WAV[:20] + b"\x34\x12" + WAV[22:], 415, "unsupported_audio_format"),  # an unknown codec
        (wav_header(RATE, data_size=0), 400, "bad_request"),
    ],
)
async def test_a_file_that_is_not_audio_is_refused_before_any_dial(file: bytes, status: int, code: str) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        for reply in (await http.post(OPENAI, **form(file)), await http.post(SLNG, content=file)):
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert simulator.log.dials == 0


@pytest.mark.parametrize(
    ("request_", "status", "message_part"),
    [
        ({"json": {"file": "x"}}, 415, "multipart/form-data"),
        ({"content": WAV}, 415, "multipart/form-data"),
        ({"data": {"model": "whisper-1"}, "files": {"audio": WAV}}, 400, "'file', not 'audio'"),
        ({"files": {"model": (None, "whisper-1")}}, 400, "no audio"),
        ({"files": [("file", WAV), ("file", WAV)]}, 400, "twice"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "not the multipart"),
        (
            {"content": b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n" + WAV,
             "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400, "breaks off",
        ),
        (form(response_format="srt"), 400, "verbose_json"),
        (form(timestamp_granularities="letter"), 400, "timestamp_granularities"),
        (form(stream="true", response_format="verbose_json"), 400, "stream"),
        (form(sample_rate="x"), 400, "sample_rate"),
        (form(encoding="midi"), 400, "encoding"),
        (form(model="a/b c"), 400, "is not a model"),
        (form(prompt="x" * 300_000), 413, "262,144"),
        ({"data": {f"f{n}": "x" for n in range(101)}, "files": {"file": WAV}}, 413, "100 fields"),
    ],
)  # fmt: skip
async def test_an_unreadable_file_is_refused_by_name_before_any_dial(
    request_: dict[str, Any], status: int, message_part: str
) -> None:
    async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
        reply = await http.post(OPENAI, **request_)
        assert reply.status_code == status
        assert message_part in reply.json()["error"]["message"]
        assert simulator.log.dials == 0
        assert (await http.get("/v1/status")).json()["sessions"] == []


@pytest.mark.logs_errors
async def test_a_fault_of_the_sidecar_ends_its_own_request_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        with monkeypatch.context() as broken:
            broken.setattr(Decoding, "_decode", fail)
            reply = await http.post(OPENAI, **form())
        assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
        assert (await http.post(OPENAI, **form())).json()["text"] == TEXT
        assert (await http.post("/v1/audio/speech", json={"input": "n1 n2"})).status_code == 200


async def test_slng_s_shape_refuses_json_by_name() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        reply = await http.post(SLNG, json={"url": "https://example.invalid/x.wav"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "bad_request")
        reply = await http.head(SLNG)
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


async def begun(url: str, body: bytes, size: int = 1_000_000) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin an upload of a given size and send its first bytes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {SLNG} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode() + body)
    return reader, writer


class TestLimits:
    @pytest.mark.parametrize("with_length", [True, False])
    async def test_a_file_that_is_too_large_is_refused_with_the_limit(self, with_length: bool) -> None:
        async def without_length() -> AsyncIterator[bytes]:
            yield WAV

        async with gateway_and_simulator(sidecar_max_upload="10 KB") as (url, _), http_client(url) as http:
            reply = await http.post(SLNG, content=WAV if with_length else without_length())
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")
            assert "10,000 bytes" in reply.json()["error"]["message"]
            assert "SIDECAR_MAX_UPLOAD" in reply.json()["error"]["message"]
            reply = await http.post(OPENAI, **form())
            assert reply.status_code == 413

    async def test_a_file_that_is_too_long_is_refused_with_the_limit(self) -> None:
        flac = io.BytesIO()
        soundfile.write(flac, numpy.zeros(RATE * 60, dtype="int16"), RATE, format="FLAC")
        assert len(flac.getvalue()) < 20_000  # a minute of audio in a few kilobytes
        async with gateway_and_simulator(sidecar_max_audio=5) as (url, simulator), http_client(url) as http:
            reply = await http.post(OPENAI, **form(flac.getvalue()))
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")
            assert "5 s of audio" in reply.json()["error"]["message"]
            assert "SIDECAR_MAX_AUDIO" in reply.json()["error"]["message"]
            assert len(audio_upstream(simulator)) <= 5 * 2 * RATE

    async def test_uploads_at_once_count_as_sessions(self) -> None:
        never = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield WAV[:1_000]
            await never.wait()

        async with gateway_and_simulator(sidecar_max_sessions=1) as (url, simulator), http_client(url) as http:
            asking = asyncio.create_task(http.post(SLNG, content=slow()))
            await simulator.log.until(lambda log: log.of("stt"))
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "session_limit")
            asking.cancel()
            await simulator.log.until(lambda log: not log.open)
            async with asyncio.timeout(5):
                while (await http.get("/v1/status")).json()["sessions"]:
                    await asyncio.sleep(0.01)
            assert (await http.post(OPENAI, **form())).status_code == 200

    async def test_an_upload_that_stalls_is_refused(self) -> None:
        async with gateway_and_simulator(sidecar_init_timeout=0.3) as (url, simulator):
            reader, writer = await begun(url, WAV[:1_000])
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readuntil(b"}}}")
            assert b" 408 " in head
            assert json.loads(body)["error"]["code"] == "client_stuck"
            await simulator.log.until(lambda log: not log.open)
            writer.close()


async def read_stream(http: httpx.AsyncClient, got: bytearray) -> None:
    async with http.stream("POST", OPENAI, **form(stream="true")) as reply:
        assert reply.status_code == 200
        async for data in reply.aiter_raw():
            got += data


class TestUpstreamFailures:
    async def test_a_refused_key_keeps_its_status(self) -> None:
        async with gateway_and_simulator(SimulatorOptions.fast(keys=("x",))) as (url, _), http_client(url) as http:
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "auth_error")

    async def test_an_unreachable_upstream_is_reported_by_name(self) -> None:
        async with running_simulator(SimulatorOptions.fast()) as simulator:
            gone = simulator.url
        async with running_gateway(gone) as url, http_client(url) as http:
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unreachable")

    @pytest.mark.parametrize("after_ms", [500, 3_000])
    async def test_a_dropped_connection_costs_no_word(self, after_ms: int) -> None:
        async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
            fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=after_ms)
            reply = await http.post(OPENAI, **form())
            assert reply.json()["text"] == TEXT
            assert len(fault.fired) == 1

    async def test_audio_that_cannot_be_replayed_never_gives_a_transcript_with_a_clean_end(self) -> None:
        # Upstream transcribes nothing, so nothing is covered, and drops after more audio than the replay buffer holds.
        options = SimulatorOptions.fast(words=False, endpoint_ms=0)
        async with (
            gateway_and_simulator(options, sidecar_replay_seconds=2) as (url, simulator),
            http_client(url) as http,
        ):
            simulator.inject(do="drop", kind="stt", when="audio", after_ms=8_000)
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_closed")
            assert "could not be sent again" in reply.json()["error"]["message"]

    async def test_an_upstream_that_stays_away_is_an_error_that_a_stream_shows_too(self) -> None:
        async with gateway_and_simulator(sidecar_reconnect_seconds=0.5) as (url, simulator), http_client(url) as http:
            for number in range(2, 40):
                simulator.inject(do="refuse", kind="stt", status=503, connection=number)
            simulator.inject(do="drop", kind="stt", when="audio", after_ms=6_000)
            got = bytearray()
            with pytest.raises(httpx.RemoteProtocolError):
                await read_stream(http, got)
            events = server_sent_events(got.decode())
            assert events[0]["type"] == "transcript.text.delta"
            assert "code" in events[-1]["error"]

    async def test_an_upstream_that_falls_silent_fails_in_time(self) -> None:
        options = SimulatorOptions.fast(close_answer="ignore", endpoint_ms=0)
        async with (
            gateway_and_simulator(options, sidecar_transcript_timeout=0.5) as (url, simulator),
            http_client(url) as http,
        ):
            simulator.inject(do="mute", kind="stt", when="close")
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
            assert "SIDECAR_TRANSCRIPT_TIMEOUT" in reply.json()["error"]["message"]

    async def test_an_error_of_upstream_fails_the_request(self) -> None:
        async with gateway_and_simulator() as (url, simulator), http_client(url) as http:
            simulator.inject(do="error", when="audio", kind="stt", code="rate_limit", message="slow down")
            reply = await http.post(OPENAI, **form())
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit")

    @pytest.mark.parametrize("profile", [{"final_ms": 300}, {"words": False, "final_ms": 300}, {"finals": 4}])
    async def test_finals_that_come_long_after_their_audio_are_all_there(self, profile: dict[str, Any]) -> None:
        async with gateway_and_simulator(SimulatorOptions.fast(**profile)) as (url, _), http_client(url) as http:
            assert (await http.post(OPENAI, **form())).json()["text"] == TEXT


async def test_words_that_the_filter_drops_are_left_out_and_counted_in_verbose_json() -> None:
    options = SimulatorOptions.fast(confidence=0.3)
    async with gateway_and_simulator(options) as (url, _), http_client(url) as http:
        reply = await http.post(OPENAI, **form(response_format="verbose_json"))
        assert reply.json()["text"] == ""
        assert " ".join(dropped["text"] for dropped in reply.json()["dropped"]) == TEXT
        assert reply.json()["dropped"][0]["confidence"] == 0.3
    async with gateway_and_simulator(options, sidecar_confidence_scope="off") as (url, _), http_client(url) as http:
        assert (await http.post(OPENAI, **form())).json()["text"] == TEXT


@pytest.mark.parametrize("when", ["while it uploads", "while it waits"])
async def test_a_client_that_leaves_stops_upstream_and_leaves_nothing_behind(when: str) -> None:
    options = SimulatorOptions.fast(close_answer="ignore", words=False, endpoint_ms=0)
    async with gateway_and_simulator(options) as (url, simulator):
        size = len(WAV) if when == "while it waits" else len(WAV) + 100
        _, writer = await begun(url, WAV, size)
        await simulator.log.until(lambda log: sum(r.audio_in for r in log.of("stt")) > len(PCM) - 20_000)
        writer.transport.abort()
        await simulator.log.until(lambda log: not log.open)
        async with http_client(url) as http, asyncio.timeout(5):
            while (await http.get("/v1/status")).json()["sessions"]:
                await asyncio.sleep(0.01)
        assert not [thread for thread in threading.enumerate() if thread.name == "decoding"]


async def test_a_slow_upstream_holds_the_upload_back() -> None:
    async with gateway_and_simulator() as (url, simulator):
        fault = simulator.inject(do="stop_reading", kind="stt", when="audio", after_ms=100)
        _, writer = await begun(url, wav_header(RATE), 150_000_000)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
                sent += 65_536

        sending = asyncio.create_task(send())
        await simulator.until_fired(fault)
        at_rest = -1
        async with asyncio.timeout(4):  # less than the time after which a peer counts as stuck
            while at_rest != sent:
                at_rest = sent
                await asyncio.sleep(0.5)
        assert not sending.done()
        assert sent < 30_000_000
        sending.cancel()
        writer.transport.abort()
        # While the sidecar reads nothing from a client, it does not notice that the client leaves. It does once
        # upstream reads again.
        simulator.inject(do="drop", kind="stt", when="now")
        await simulator.log.until(lambda log: not log.open)


async def test_many_at_once_each_get_their_own_words() -> None:
    async def one(http: httpx.AsyncClient, number: int) -> str:
        pcm = signal.encode([number, number + 1], RATE)
        reply = await http.post(OPENAI, **form(wav_header(RATE, data_size=len(pcm)) + pcm))
        text: str = reply.json()["text"]
        return text

    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        texts = await asyncio.gather(*(one(http, number) for number in range(1, 101)))
        assert texts == [f"n{number} n{number + 1}" for number in range(1, 101)]


async def test_without_the_codecs_wav_is_transcribed_and_the_rest_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    async with gateway_and_simulator() as (url, _), http_client(url) as http:
        assert (await http.post(OPENAI, **form())).json()["text"] == TEXT
        reply = await http.post(OPENAI, **form(written(RATE, 1, "FLAC", None)))
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_audio_format")
        assert "slng-sidecar[codecs]" in reply.json()["error"]["message"]
