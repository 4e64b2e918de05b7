"""The official ``pipecat-slng`` 0.7.0 in a real Pipecat pipeline, straight on the simulator.

It only dials ``wss://{world_part}.api.slng.ai``; ``WorldPart.bridge_url`` is the one place where that address is
made, and is replaced. Nothing else of it is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from loguru import logger
from pipecat.frames.frames import CancelFrame, Frame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pipecat_slng import SlngSTTService, SlngTTSService, WorldPart

from bench.clients import RATE, WAIT

_STOP = 2.0
F = TypeVar("F", bound=Frame)


class _Sink(FrameProcessor):
    """Keeps what leaves downstream, with its time."""

    def __init__(self) -> None:
        super().__init__(enable_direct_mode=True)
        self.frames: list[tuple[float, Frame]] = []
        self.changed = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is FrameDirection.DOWNSTREAM:
            self.frames.append((time.monotonic(), frame))
            self.changed.set()
        await self.push_frame(frame, direction)


class Bot:
    """A pipeline that runs."""

    def __init__(self, worker: PipelineWorker, sink: _Sink) -> None:
        self._worker = worker
        self._sink = sink

    async def send(self, frame: Frame) -> float:
        """Queue a frame; give the time just before."""
        at = time.monotonic()
        await self._worker.queue_frame(frame)
        return at

    def out(self, kind: type[F]) -> list[tuple[float, F]]:
        """Give the frames of a kind that left the pipeline, each with its time."""
        return [(at, frame) for at, frame in self._sink.frames if isinstance(frame, kind)]

    async def until(self, condition: Callable[[], object], timeout: float = WAIT) -> None:
        """Wait until the condition holds; it is looked at after each frame."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._sink.changed.clear()
                await self._sink.changed.wait()

    def transcribed(self) -> list[str]:
        """Give the words of the finals."""
        return " ".join(frame.text for _, frame in self.out(TranscriptionFrame)).split()


@contextlib.asynccontextmanager
async def running_bot(service: FrameProcessor) -> AsyncIterator[Bot]:
    """Run a pipeline around a service while the block runs."""
    sink = _Sink()
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    worker = PipelineWorker(Pipeline([service, sink]), cancel_on_idle_timeout=False, enable_rtvi=False, params=params)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator] # Pipecat leaves it untyped
    async def _started(_worker: PipelineWorker, _frame: Frame) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(WAIT):
            await started.wait()
        yield Bot(worker, sink)
        await worker.queue_frame(CancelFrame())
        await asyncio.wait([running], timeout=_STOP)
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=_STOP)


def stt_service(model: str) -> Any:
    return SlngSTTService(api_key="key-of-the-bench", world_part="us-east", model=model)


def tts_service(model: str) -> Any:
    return SlngTTSService(api_key="key-of-the-bench", world_part="us-east", model=model, voice="one")


def point_at(url: str) -> None:
    """Let the official plugin dial this address, and say nothing on standard error."""
    address = url.replace("http:", "ws:")

    def bridge_url(_self: WorldPart, kind: str, model: str) -> str:
        return f"{address}/v1/bridges/unmute/{kind}/{model}"

    WorldPart.bridge_url = bridge_url  # type: ignore[method-assign, assignment] # the one seam
    logger.remove()
