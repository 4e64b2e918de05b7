"""Pipecat's ServiceSwitcher fails over if a service is permanently unusable, and not if nothing was lost."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from pipecat.frames.frames import ErrorFrame, TTSSpeakFrame, VADUserStoppedSpeakingFrame
from pipecat.pipeline.service_switcher import ServiceSwitcher, ServiceSwitcherStrategyFailover
from pipecat.processors.frame_processor import FrameProcessor
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService
from support.numbered_signal import words
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import WAIT, RunningPipeline, running_pipeline
from support.running import gateway_and_simulator


class Switcher(ServiceSwitcher[ServiceSwitcherStrategyFailover]):
    """Fails over, and records the services that it switched to."""

    def __init__(self, *services: FrameProcessor) -> None:
        super().__init__(list(services), ServiceSwitcherStrategyFailover)
        self.switched: list[FrameProcessor] = []
        self._happened = asyncio.Event()
        self.strategy.add_event_handler("on_service_switched", self._switched)

    async def _switched(self, _strategy: object, service: FrameProcessor) -> None:
        self.switched.append(service)
        self._happened.set()

    async def has_switched(self) -> None:
        async with asyncio.timeout(WAIT):
            await self._happened.wait()


async def transcribe(pipeline: RunningPipeline, words: range) -> None:
    await pipeline.send(*audio_frames(words), VADUserStoppedSpeakingFrame())
    await pipeline.until(partial(was_transcribed, pipeline, f"n{words[-1]}"))


async def test_an_stt_that_is_refused_is_replaced_once() -> None:
    async with gateway_and_simulator(sidecar_token="right") as (url, _):
        refused = SlngSTTService(sidecar_url=url, sidecar_token="wrong")
        works = SlngSTTService(sidecar_url=url, sidecar_token="right")
        switcher = Switcher(refused, works)
        async with running_pipeline(switcher) as pipeline:
            await switcher.has_switched()
            await transcribe(pipeline, range(1, 5))
            await transcribe(pipeline, range(5, 9))
            assert transcribed(pipeline) == words(1, 8)
        assert switcher.switched == [works]
        assert (refused.is_usable, works.is_usable) == (False, True)


async def test_a_tts_that_is_refused_is_replaced_once() -> None:
    async with gateway_and_simulator(sidecar_token="right") as (url, _):
        refused = SlngTTSService(sidecar_url=url, sidecar_token="wrong")
        works = SlngTTSService(sidecar_url=url, sidecar_token="right")
        switcher = Switcher(refused, works)
        async with running_pipeline(switcher) as pipeline:
            await switcher.has_switched()
            await pipeline.send(TTSSpeakFrame("n1 n2"), TTSSpeakFrame("n3"))
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert played(pipeline) == [1, 2, 3]
        assert switcher.switched == [works]


@pytest.mark.parametrize("fault", ["drop", "close"])
async def test_a_drop_of_upstream_switches_nothing_and_loses_nothing(fault: str) -> None:
    async with gateway_and_simulator() as (url, simulator):
        first, second = SlngSTTService(sidecar_url=url), SlngSTTService(sidecar_url=url)
        switcher = Switcher(first, second)
        async with running_pipeline(switcher) as pipeline:
            await transcribe(pipeline, range(1, 5))
            simulator.inject(do=fault, when="now")
            await transcribe(pipeline, range(5, 9))
            assert transcribed(pipeline) == words(1, 8)
            assert not pipeline.up(ErrorFrame)
        assert switcher.switched == []
        assert first.is_usable
