"""How a sidecar process reacts to SIGTERM, to a second SIGTERM and to SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pipecat.frames.frames import ErrorFrame, TTSAudioRawFrame, TTSSpeakFrame, VADUserStoppedSpeakingFrame
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.engines import signal as speech
from support.bots import SIGNAL, simulator_process
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import running_pipeline
from support.processes import Running, serving
from support.running import TTS_INIT, talking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


async def ready_status(url: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{url}/readyz")).status_code


def terminate(sidecar: Running) -> None:
    sidecar.process.send_signal(signal.SIGTERM)


async def test_speech_and_transcription_under_way_are_finished_before_the_process_ends() -> None:
    async with (
        simulator_process(pace=4, first_audio_ms=100) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url) as sidecar,
    ):
        stt = SlngSTTService(sidecar_url=sidecar.url, model=SIGNAL)
        tts = SlngTTSService(sidecar_url=sidecar.url, model=SIGNAL)
        async with running_pipeline(stt, tts) as pipeline:
            await pipeline.send(TTSSpeakFrame(" ".join(f"n{number}" for number in range(1, 40))))
            await pipeline.send(*audio_frames(range(1, 8)))
            await pipeline.until(lambda: pipeline.down(TTSAudioRawFrame))
            terminate(sidecar)
            await sidecar.says("draining: 2 sessions")
            assert await ready_status(sidecar.url) == 503
            await pipeline.send(*audio_frames(range(8, 12)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n11"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert transcribed(pipeline) == [f"n{number}" for number in range(1, 12)]
            assert played(pipeline) == list(range(1, 40))
            assert await sidecar.ends() == 0
            await pipeline.until(lambda: len(pipeline.up(ErrorFrame)) == 2)
            assert all("shutting down" in frame.error for frame in pipeline.up(ErrorFrame))


async def test_a_bot_that_shuts_down_at_the_same_time_can_still_speak() -> None:
    async with (
        simulator_process(pace=1) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url) as sidecar,
        talking(sidecar.url, "tts", SIGNAL) as speaking,
    ):
        await speaking.send(TTS_INIT, {"type": "text", "text": "n1 n2 n3 n4 n5 n6 n7 n8 n9"}, {"type": "flush"})
        await speaking.until("ready")
        terminate(sidecar)
        await sidecar.says("draining: 1 sessions")
        async with talking(sidecar.url, "tts", SIGNAL) as late:
            await late.send(TTS_INIT, {"type": "text", "text": "n20 n21"}, {"type": "flush"})
            await late.until("audio_end")
            assert late.audio
            assert (await late.until_closed())[0] == 1012
        await speaking.until("audio_end")
        assert (await speaking.until_closed())[0] == 1012
        assert await sidecar.ends() == 0


async def test_a_second_signal_ends_at_once() -> None:
    async with (
        simulator_process(pace=1) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url) as sidecar,
        talking(sidecar.url, "tts", SIGNAL) as speaking,
    ):
        text = " ".join(f"n{number}" for number in range(1, 200))
        await speaking.send(TTS_INIT, {"type": "text", "text": text}, {"type": "flush"})
        await speaking.until("ready")
        terminate(sidecar)
        await sidecar.says("draining: 1 sessions")
        terminate(sidecar)
        async with asyncio.timeout(10):
            assert (await speaking.until_closed())[0] in (1012, 1006)
            assert await sidecar.ends() == 0


async def test_the_time_to_drain_is_bounded() -> None:
    async with (
        simulator_process(pace=1) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, SIDECAR_DRAIN_SECONDS="1") as sidecar,
        talking(sidecar.url, "tts", SIGNAL) as speaking,
    ):
        text = " ".join(f"n{number}" for number in range(1, 200))
        await speaking.send(TTS_INIT, {"type": "text", "text": text}, {"type": "flush"})
        await speaking.until("ready")
        terminate(sidecar)
        assert (await speaking.until("error"))["code"] == "draining"
        assert (await speaking.until_closed())[0] == 1012
        assert await sidecar.ends() == 0


async def test_an_idle_sidecar_ends_at_once() -> None:
    async with serving("--simulate") as sidecar:
        terminate(sidecar)
        assert await sidecar.ends() == 0


async def test_sighup_applies_what_can_change_and_names_what_cannot(tmp_path: Path) -> None:
    config = tmp_path / "sidecar.toml"
    config.write_text('sidecar_max_sessions = 7\nsidecar_log_format = "text"\n')
    async with simulator_process() as simulator, httpx.AsyncClient(trust_env=False) as client:
        env = {"SLNG_API_KEY": "k", "SLNG_BASE_URL": simulator.url}
        async with serving("--config", config, cwd=None, **env) as sidecar:
            config.write_text('sidecar_max_sessions = 3\nsidecar_log_format = "json"\n')
            sidecar.process.send_signal(signal.SIGHUP)
            await sidecar.says("SIGHUP: changed SIDECAR_MAX_SESSIONS")
            await sidecar.says("these need a restart: SIDECAR_LOG_FORMAT")
            assert (await client.get(f"{sidecar.url}/v1/status")).json()["max_sessions"] == 3
            config.write_text("sidecar_max_sessions = none\n")
            sidecar.process.send_signal(signal.SIGHUP)
            await sidecar.says("SIGHUP: the settings cannot be used, so the previous ones stay")
            assert (await client.get(f"{sidecar.url}/v1/status")).json()["max_sessions"] == 3


LONG = " ".join(f"n{number}" for number in range(1, 60))
SPEECH, FILE = f"/v1/bridges/unmute/tts/{SIGNAL}", f"/v1/bridges/unmute/stt/{SIGNAL}"


@pytest.mark.parametrize("way", ["bridge", "websocket"])
@pytest.mark.parametrize("seconds", ["30", "0.5"])
async def test_speech_over_http_is_finished_or_breaks_off_visibly(way: str, seconds: str) -> None:
    settings: dict[str, Any] = {"SLNG_HTTP_TTS": way, "SIDECAR_DRAIN_SECONDS": seconds, "SIDECAR_CLOSE_TIMEOUT": "20"}
    async with (
        simulator_process(pace=8) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, **settings) as sidecar,
        httpx.AsyncClient(trust_env=False, base_url=sidecar.url, timeout=30) as http,
    ):
        got = bytearray()
        ended = True
        try:
            accept = {"Accept": "audio/pcm"}
            async with http.stream("POST", SPEECH, json={"text": LONG}, headers=accept) as reply:
                async for data in reply.aiter_raw():
                    if not got:
                        terminate(sidecar)
                    got += data
        except httpx.RemoteProtocolError:
            ended = False
        words = [word.number for word in speech.decode(bytes(got), 24_000)]
        assert ended is (seconds == "30")
        assert (words == list(range(1, 60))) is ended
        async with asyncio.timeout(10):  # far below the time allowed for closing
            assert await sidecar.ends() == 0


async def test_requests_over_http_that_are_cut_off_report_it_if_they_can() -> None:
    async with (
        simulator_process(pace=1) as simulator,
        serving(SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, SIDECAR_DRAIN_SECONDS="0.5") as sidecar,
        httpx.AsyncClient(trust_env=False, base_url=sidecar.url, timeout=30) as http,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sidecar.url.rpartition(":")[2]))
        writer.write(f"POST {FILE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n".encode())
        writer.write(wav_header(16_000) + bytes(32_000))
        await sidecar.says("stt session 1")
        events = bytearray()
        with contextlib.suppress(httpx.RemoteProtocolError):
            body = {"input": LONG, "model": SIGNAL, "stream_format": "sse", "response_format": "pcm"}
            async with http.stream("POST", "/v1/audio/speech", json=body) as reply:
                async for data in reply.aiter_raw():
                    if not events:
                        terminate(sidecar)
                    events += data
        assert b'"code":"draining"' in events
        assert b"speech.audio.done" not in events
        assert b" 503 " in await reader.readline()
        assert b'"code":"draining"' in await reader.readuntil(b"}}}")
        writer.close()
        assert await sidecar.ends() == 0
