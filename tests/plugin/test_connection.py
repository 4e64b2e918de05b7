"""The connection to the sidecar: which errors it reports, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.utils.errors import ErrorCategory
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService, connection
from slng_sidecar.simulator import SimulatorOptions, running_simulator
from support.bots import free_port
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import RunningPipeline, running_pipeline
from support.running import gateway_and_simulator, running_gateway
from websockets.asyncio.server import ServerConnection, serve


@pytest.fixture
def short_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "GIVE_UP_AFTER", 0.6)
    monkeypatch.setattr(connection, "WAIT_AFTER_GIVING_UP", 0.1)


async def one_error(pipeline: RunningPipeline) -> ErrorFrame:
    await pipeline.until(lambda: pipeline.up(ErrorFrame))
    [error] = pipeline.up(ErrorFrame)
    return error


async def test_a_refused_token_is_a_permanent_error_at_once_and_reported_once() -> None:
    async with gateway_and_simulator(sidecar_token="right") as (url, _):
        stt = SlngSTTService(sidecar_url=url, sidecar_token="wrong-secret")
        async with running_pipeline(stt) as pipeline:
            error = await one_error(pipeline)
            assert error.category is ErrorCategory.AUTHENTICATION
            assert not stt.is_usable
            assert "wrong-secret" not in error.error
            frames = audio_frames(range(1, 3))
            await pipeline.send(*frames)
            await pipeline.until(lambda: len(pipeline.down(InputAudioRawFrame)) == len(frames))
            assert len(pipeline.up(ErrorFrame)) == 1


async def test_the_token_from_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLNG_SIDECAR_TOKEN", "right")
    async with (
        gateway_and_simulator(sidecar_token="right") as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))


async def test_a_key_that_slng_refuses_is_a_permanent_error() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(keys=("another",))) as (url, simulator):
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt) as pipeline:
            error = await one_error(pipeline)
            assert error.category is ErrorCategory.AUTHENTICATION
            assert not stt.is_usable
        assert simulator.log.dials == 1


async def test_an_invalid_setting_is_reported_with_the_sidecar_s_message() -> None:
    async with gateway_and_simulator() as (url, _):
        tts = SlngTTSService(sidecar_url=url, sample_rate=-1)
        async with running_pipeline(tts) as pipeline:
            error = await one_error(pipeline)
            assert "sample_rate" in error.error
            assert error.category is ErrorCategory.INVALID_REQUEST
            assert not tts.is_usable


@pytest.mark.usefixtures("short_outage")
async def test_an_outage_causes_one_error_and_then_a_permanent_one() -> None:
    stt = SlngSTTService(sidecar_url=f"http://127.0.0.1:{free_port()}")
    async with running_pipeline(stt) as pipeline:
        await pipeline.until(lambda: len(pipeline.up(ErrorFrame)) == 2)
        first, second = pipeline.up(ErrorFrame)
        assert first.category is second.category is ErrorCategory.CONNECTIVITY
        assert "away for" in second.error
        assert not stt.is_usable
        frames = audio_frames(range(1, 3))
        await pipeline.send(*frames)
        await pipeline.until(lambda: len(pipeline.down(InputAudioRawFrame)) == len(frames))
        assert len(pipeline.up(ErrorFrame)) == 2


@pytest.mark.usefixtures("short_outage")
async def test_a_sidecar_that_comes_back_after_a_permanent_outage_is_used_again() -> None:
    port = free_port()
    stt = SlngSTTService(sidecar_url=f"http://127.0.0.1:{port}")
    async with running_simulator(SimulatorOptions.fast()) as simulator, running_pipeline(stt) as pipeline:
        connected = asyncio.Event()

        async def on_connected(*_arguments: object) -> None:
            connected.set()

        stt.add_event_handler("on_connected", on_connected)
        await pipeline.until(lambda: len(pipeline.up(ErrorFrame)) == 2)
        async with running_gateway(simulator.url, sidecar_port=port):
            await asyncio.wait_for(connected.wait(), 5)
            assert stt.is_usable
            await pipeline.send(*audio_frames(range(1, 5)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n4"))
            assert transcribed(pipeline) == ["n1", "n2", "n3", "n4"]


@pytest.mark.usefixtures("short_outage")
async def test_waiting_contexts_end_when_the_outage_becomes_permanent() -> None:
    tts = SlngTTSService(sidecar_url=f"http://127.0.0.1:{free_port()}")
    async with running_pipeline(tts) as pipeline:
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
        assert not tts.is_usable
        await pipeline.send(TTSSpeakFrame("n2"))
        await pipeline.until(lambda: len(pipeline.down(TTSStoppedFrame)) == 2)
        assert len(pipeline.up(ErrorFrame)) == 2


async def test_an_end_frame_does_not_wait_for_a_sidecar_that_is_away() -> None:
    tts = SlngTTSService(sidecar_url=f"http://127.0.0.1:{free_port()}")
    async with asyncio.timeout(5), running_pipeline(tts) as pipeline:
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(lambda: pipeline.up(ErrorFrame))


@contextlib.asynccontextmanager
async def listening(handler: Any, **options: Any) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def test_another_websocket_server_is_reported_as_such() -> None:
    async def handler(websocket: ServerConnection) -> None:
        await websocket.wait_closed()

    async with listening(handler) as url:
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt) as pipeline:
            error = await one_error(pipeline)
            assert "is not a slng-sidecar" in error.error
            assert not stt.is_usable


async def test_a_listener_that_hangs_up_counts_as_a_sidecar_that_is_not_up_yet() -> None:
    """Docker's port proxy accepts connections while the container behind it is still starting."""
    hung_up = asyncio.Semaphore(0)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        hung_up.release()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        stt = SlngSTTService(sidecar_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with running_pipeline(stt) as pipeline:
            for _ in range(4):
                await asyncio.wait_for(hung_up.acquire(), 5)
            error = await one_error(pipeline)
            assert error.category is ErrorCategory.CONNECTIVITY
            assert stt.is_usable


async def test_invalid_messages_do_not_end_the_session() -> None:
    async def handler(websocket: ServerConnection) -> None:
        for message in (
            "{",
            "[]",
            "7",
            '{"type": 7}',
            '{"type": "final_transcript"}',
            b"audio",
            '{"type": "unheard of"}',
        ):
            await websocket.send(message)
        await websocket.send('{"type": "final_transcript", "transcript": "still here", "covered_ms": 0}')
        await websocket.wait_closed()

    async with (
        listening(handler, subprotocols=["slng-sidecar.v1"]) as url,
        running_pipeline(SlngSTTService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.until(lambda: transcribed(pipeline) == ["still", "here"])


async def test_proxies_from_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with gateway_and_simulator() as (url, _), running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline:
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert not pipeline.up(ErrorFrame)


async def test_a_unix_socket_works(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with (
        running_simulator(SimulatorOptions.fast()) as simulator,
        running_gateway(simulator.url, sidecar_uds=str(path)),
        running_pipeline(
            SlngSTTService(sidecar_url=f"unix:{path}"), SlngTTSService(sidecar_url=f"unix:{path}")
        ) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1 n2"), *audio_frames(range(1, 4)), VADUserStoppedSpeakingFrame())
        await pipeline.until(partial(have_ended, pipeline, 1))
        await pipeline.until(partial(was_transcribed, pipeline, "n3"))
        assert played(pipeline) == [1, 2]
