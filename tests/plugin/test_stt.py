"""The plugin's STT service in a real Pipecat pipeline, with a gateway and a simulator on real sockets."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    MetricsFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import ProcessingMetricsData, STTUsageMetricsData, TTFBMetricsData
from pipecat_slng_sidecar import SlngSTTService, SlngSTTSettings
from slng_sidecar.simulator import SimulatorOptions
from slng_sidecar.simulator.records import Record
from support.numbered_signal import words
from support.official import audio_frames, transcribed, was_transcribed
from support.pipelines import running_pipeline
from support.running import gateway_and_simulator


def config_of(record: Record) -> dict[str, Any]:
    config: dict[str, Any] = record.received[0][1]["config"]
    return config


def finalized(frames: list[TranscriptionFrame]) -> list[str]:
    return [frame.text.split()[-1] for frame in frames if frame.finalized]


async def test_every_word_is_transcribed_and_each_turn_finalized_once() -> None:
    async with gateway_and_simulator() as (url, simulator):
        async with running_pipeline(SlngSTTService(sidecar_url=url)) as pipeline:
            for turn in (range(1, 11), range(11, 23)):
                await pipeline.send(*audio_frames(turn))
                await pipeline.until(lambda: pipeline.down(InterimTranscriptionFrame))
                await pipeline.send(VADUserStoppedSpeakingFrame())
                await pipeline.until(partial(was_transcribed, pipeline, f"n{turn[-1]}"))
            assert transcribed(pipeline) == words(1, 22)
            assert finalized(pipeline.down(TranscriptionFrame)) == ["n10", "n22"]
            assert not pipeline.up(ErrorFrame)
        assert simulator.log.dials == 1


async def test_audio_that_comes_before_upstream_is_ready_is_kept_and_passed_on_at_once() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(upgrade_ms=1500)) as (url, simulator),
        running_pipeline(SlngSTTService(sidecar_url=url)) as pipeline,
    ):
        frames = audio_frames(range(1, 9))
        await pipeline.send(*frames)
        await pipeline.until(lambda: len(pipeline.down(InputAudioRawFrame)) == len(frames))
        assert not simulator.log.open  # upstream has not accepted the connection yet
        await pipeline.send(VADUserStoppedSpeakingFrame())
        await pipeline.until(partial(was_transcribed, pipeline, "n8"))
        assert transcribed(pipeline) == words(1, 8)


async def test_the_last_words_before_an_end_frame_are_transcribed() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(upgrade_ms=100, ready_ms=100)) as (url, _):
        async with running_pipeline(SlngSTTService(sidecar_url=url)) as pipeline:
            await pipeline.send(*audio_frames(range(1, 9)))
        assert transcribed(pipeline) == words(1, 8)


async def test_settings_change_at_their_place_in_the_audio_and_nothing_is_lost() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(upgrade_ms=50, ready_ms=50)) as (url, simulator):
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt) as pipeline:
            await pipeline.send(*audio_frames(range(1, 9)))
            await pipeline.until(lambda: pipeline.down(InterimTranscriptionFrame))
            await pipeline.send(STTUpdateSettingsFrame(delta=SlngSTTSettings(language="de")))
            await pipeline.send(*audio_frames(range(9, 17)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n16"))
            assert transcribed(pipeline) == words(1, 16)
            await simulator.log.until(lambda log: len(log.of("stt")) == 2 and log.of("stt")[1].received)
            assert not pipeline.up(ErrorFrame)
        assert [config_of(record)["language"] for record in simulator.log.of("stt")] == ["en", "de"]


async def test_an_updated_model_brings_its_own_language() -> None:
    async with gateway_and_simulator() as (url, simulator):
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt) as pipeline:
            await pipeline.send(*audio_frames(range(1, 5)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n4"))
            await pipeline.send(STTUpdateSettingsFrame(delta=SlngSTTSettings(model="slng/deepgram/nova:3-hi")))
            await simulator.log.until(lambda log: len(log.of("stt")) == 2)
            await pipeline.send(*audio_frames(range(5, 9)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n8"))
        first, second = simulator.log.of("stt")
        assert config_of(first)["language"] == "en"
        assert second.model == "slng/deepgram/nova:3-hi"
        assert "language" not in config_of(second)


async def test_a_refused_update_keeps_the_old_settings_and_is_reported() -> None:
    async with gateway_and_simulator() as (url, _):
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt) as pipeline:
            await pipeline.send(STTUpdateSettingsFrame(delta=SlngSTTSettings(model="nonsense")))
            await pipeline.until(lambda: pipeline.up(ErrorFrame))
            [error] = pipeline.up(ErrorFrame)
            assert "nonsense" in error.error
            assert stt._settings.model == "slng/deepgram/nova:3-en"
            assert stt.is_usable
            await pipeline.send(*audio_frames(range(1, 5)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n4"))


async def test_a_dropped_final_fires_its_event_and_is_no_transcript() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(confidence=0.3)) as (url, _):
        dropped: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        stt = SlngSTTService(sidecar_url=url)

        @stt.event_handler("on_transcript_dropped")  # type: ignore[untyped-decorator] # Pipecat leaves it untyped
        async def _dropped(_service: SlngSTTService, transcript: str, confidence: float) -> None:
            dropped.put_nowait((transcript, confidence))

        async with running_pipeline(stt) as pipeline:
            await pipeline.send(*audio_frames(range(1, 5)), VADUserStoppedSpeakingFrame())
            transcript, confidence = await asyncio.wait_for(dropped.get(), 5)
            assert (transcript.split(), confidence) == (words(1, 4), 0.3)
            assert not pipeline.down(TranscriptionFrame)
            assert not pipeline.up(ErrorFrame)


async def test_the_filter_s_scope_can_be_narrowed() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(confidence=0.3)) as (url, _),
        running_pipeline(SlngSTTService(sidecar_url=url, confidence_scope="partials")) as pipeline,
    ):
        await pipeline.send(*audio_frames(range(1, 5)), VADUserStoppedSpeakingFrame())
        await pipeline.until(partial(was_transcribed, pipeline, "n4"))
        assert not pipeline.down(InterimTranscriptionFrame)


async def test_no_final_after_the_user_speaks_again_is_marked_finalized() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(final_ms=300)) as (url, _),
        running_pipeline(SlngSTTService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(VADUserStartedSpeakingFrame(), *audio_frames(range(1, 5)))
        await pipeline.send(VADUserStoppedSpeakingFrame(), VADUserStartedSpeakingFrame())
        await pipeline.until(partial(was_transcribed, pipeline, "n4"))
        assert finalized(pipeline.down(TranscriptionFrame)) == []


async def test_metrics_are_those_of_a_streaming_service() -> None:
    async with gateway_and_simulator() as (url, _):
        async with running_pipeline(SlngSTTService(sidecar_url=url), metrics=True) as pipeline:
            frames = audio_frames(range(1, 5))
            await pipeline.send(VADUserStartedSpeakingFrame(), *frames)
            await pipeline.send(VADUserStoppedSpeakingFrame(stop_secs=0.2, timestamp=time.time()))
            await pipeline.until(partial(was_transcribed, pipeline, "n4"))
        data = [each for frame in pipeline.down(MetricsFrame) for each in frame.data if "Slng" in each.processor]
        assert [each.value for each in data if isinstance(each, TTFBMetricsData) and each.value] != []
        # Pipecat itself starts with a value of zero of each kind.
        assert not [each for each in data if isinstance(each, ProcessingMetricsData) and each.value]
        seconds = sum(each.value.audio_seconds for each in data if isinstance(each, STTUsageMetricsData))
        assert seconds == pytest.approx(sum(len(frame.audio) for frame in frames) / 32_000)
