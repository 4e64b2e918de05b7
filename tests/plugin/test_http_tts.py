"""The plugin's HTTP TTS service in a real Pipecat pipeline, with a gateway and a simulator on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.utils.errors import ErrorCategory
from pipecat_slng_sidecar import SlngHttpTTSService, SlngTTSSettings
from slng_sidecar.simulator import SimulatorOptions, running_simulator
from support.bots import free_port
from support.official import have_ended, played
from support.pipelines import running_pipeline
from support.running import gateway_and_simulator, running_gateway


async def test_sentences_are_spoken_whole_and_in_order() -> None:
    async with (
        gateway_and_simulator() as (url, _),
        running_pipeline(SlngHttpTTSService(sidecar_url=url, voice="one")) as pipeline,
    ):
        await pipeline.send(
            LLMFullResponseStartFrame(), TextFrame("n1 n2. "), TextFrame("n3 n4."), LLMFullResponseEndFrame()
        )
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert played(pipeline) == [1, 2, 3, 4]
        assert not pipeline.up(ErrorFrame)


async def test_audio_is_pushed_as_it_comes() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=2)) as (url, _),
        running_pipeline(SlngHttpTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame(" ".join(f"n{number}" for number in range(1, 30))))
        await pipeline.until(lambda: pipeline.down(TTSAudioRawFrame))
        assert not pipeline.down(TTSStoppedFrame)
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert played(pipeline) == list(range(1, 30))


async def test_an_interruption_aborts_the_request() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=2)) as (url, simulator),
        running_pipeline(SlngHttpTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame(" ".join(f"n{number}" for number in range(1, 60))))
        await pipeline.until(lambda: pipeline.down(TTSAudioRawFrame))
        await pipeline.send(InterruptionFrame())
        await pipeline.until(lambda: pipeline.down(InterruptionFrame))
        await simulator.log.until(lambda log: not log.open)
        await pipeline.send(TTSSpeakFrame("n100"))
        await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
        after = b"".join(frame.audio for frame in pipeline.after(InterruptionFrame, TTSAudioRawFrame))
        everything = b"".join(frame.audio for frame in pipeline.down(TTSAudioRawFrame))
        assert 0 < len(after) < len(everything)
        assert not pipeline.up(ErrorFrame)


async def test_settings_apply_from_the_next_sentence_on() -> None:
    async with (
        gateway_and_simulator(slng_http_tts="websocket") as (url, simulator),
        running_pipeline(SlngHttpTTSService(sidecar_url=url, voice="one")) as pipeline,
    ):
        await pipeline.send(
            TTSSpeakFrame("n1"),
            TTSUpdateSettingsFrame(delta=SlngTTSSettings(voice="two", speed=1.5, language="de")),
            TTSSpeakFrame("n2"),
        )
        await pipeline.until(partial(have_ended, pipeline, 2))
        first, second = (record.received[0][1] for record in simulator.log.of("tts"))
        assert (first["voice"], "language" in first["config"]) == ("one", False)
        assert second["voice"] == "two"
        assert (second["config"]["speed"], second["config"]["language"]) == (1.5, "de")


async def test_a_failure_is_one_error_frame_that_names_the_cause() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(keys=("another",))) as (url, _),
        running_pipeline(SlngHttpTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        [error] = pipeline.up(ErrorFrame)
        assert "401" in error.error
        assert error.category is ErrorCategory.AUTHENTICATION


async def test_an_upstream_that_dies_in_mid_sentence_is_one_error_frame() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=4), slng_http_tts="websocket") as (url, simulator),
        running_pipeline(SlngHttpTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame(" ".join(f"n{number}" for number in range(1, 40))))
        await pipeline.until(lambda: pipeline.down(TTSAudioRawFrame))
        simulator.inject(do="drop", when="now")
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert len(pipeline.up(ErrorFrame)) == 1


async def test_a_missing_sidecar_is_one_error_frame_that_explains_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipecat_slng_sidecar.http_tts._WAIT_FOR_SIDECAR", 0.2)
    address = f"http://127.0.0.1:{free_port()}"
    async with running_pipeline(SlngHttpTTSService(sidecar_url=address)) as pipeline:
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        [error] = pipeline.up(ErrorFrame)
        assert address in error.error
        assert "slng-sidecar serve" in error.error
        assert error.category is ErrorCategory.CONNECTIVITY


async def test_a_reply_that_is_not_pcm_is_never_played() -> None:
    """A server that is no sidecar: the simulator answers this route with a WAV, as SLNG does."""
    async with (
        running_simulator(SimulatorOptions.fast()) as simulator,
        running_pipeline(SlngHttpTTSService(sidecar_url=simulator.url, settings=SlngTTSSettings())) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert len(pipeline.up(ErrorFrame)) == 1
        assert not pipeline.down(TTSAudioRawFrame)


async def test_a_session_passed_by_the_caller_is_used_and_left_open() -> None:
    async with gateway_and_simulator() as (url, _), aiohttp.ClientSession() as session:
        async with running_pipeline(SlngHttpTTSService(sidecar_url=url, aiohttp_session=session)) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1 n2"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == [1, 2]
        assert not session.closed


async def test_the_wait_for_a_free_connection_of_the_session_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipecat_slng_sidecar.http_tts._WAIT_FOR_SIDECAR", 0.2)
    taken = asyncio.Event()

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        with contextlib.closing(writer):
            await reader.read()

    async with (
        gateway_and_simulator() as (url, _),
        await asyncio.start_server(keep, "127.0.0.1", 0) as silent,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        running_pipeline(SlngHttpTTSService(sidecar_url=url, aiohttp_session=session)) as pipeline,
    ):
        port = silent.sockets[0].getsockname()[1]
        another = asyncio.create_task(session.get(f"http://127.0.0.1:{port}").__aenter__())
        await taken.wait()
        await pipeline.send(TTSSpeakFrame("n1"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        [error] = pipeline.up(ErrorFrame)
        assert error.category is ErrorCategory.CONNECTIVITY
        another.cancel()


async def test_a_unix_socket_works_too(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with (
        running_simulator(SimulatorOptions.fast()) as simulator,
        running_gateway(simulator.url, sidecar_uds=str(path)),
        running_pipeline(SlngHttpTTSService(sidecar_url=f"unix:{path}")) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1 n2"))
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert played(pipeline) == [1, 2]


@pytest.mark.parametrize(
    ("way", "regional"), [("bridge", False), ("auto", True)], ids=["the bridge", "a gateway without one"]
)
async def test_it_speaks_over_either_upstream_api(way: str, regional: bool) -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(regional=regional, http_rate=16_000), slng_http_tts=way) as (
            url,
            simulator,
        ),
        running_pipeline(SlngHttpTTSService(sidecar_url=url, voice="one")) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame("n1 n2 n3"), TTSSpeakFrame("n4 n5"))
        await pipeline.until(partial(have_ended, pipeline, 2))
        assert played(pipeline) == [1, 2, 3, 4, 5]
        assert not pipeline.up(ErrorFrame)
        kinds = [record.kind for record in simulator.log.records if record.status in (101, 200)]
        assert set(kinds) == ({"http"} if way == "bridge" else {"tts"})
