"""A real Pipecat pipeline around one service, and every frame that leaves it at either end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pipecat.frames.frames import EndFrame, Frame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner

WAIT = 10.0
F = TypeVar("F", bound=Frame)


class Collector(FrameProcessor):
    """Keeps the frames that pass in one direction."""

    def __init__(self, direction: FrameDirection, changed: asyncio.Event) -> None:
        super().__init__(enable_direct_mode=True)
        self.frames: list[Frame] = []
        self._kept = direction
        self._changed = changed

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is self._kept:
            self.frames.append(frame)
            self._changed.set()
        await self.push_frame(frame, direction)


class RunningPipeline:
    """A running pipeline. ``down`` and ``up`` return the frames that left it."""

    def __init__(self, worker: PipelineWorker, down: Collector, up: Collector, changed: asyncio.Event) -> None:
        self._worker = worker
        self._down = down
        self._up = up
        self._changed = changed

    def down(self, kind: type[F]) -> list[F]:
        return [frame for frame in self._down.frames if isinstance(frame, kind)]

    def up(self, kind: type[F]) -> list[F]:
        return [frame for frame in self._up.frames if isinstance(frame, kind)]

    def all_down(self, kinds: tuple[type[Frame], ...]) -> list[Frame]:
        """Return the frames of several kinds that left downstream, in their order."""
        return [frame for frame in self._down.frames if isinstance(frame, kinds)]

    def after(self, mark: type[Frame], kind: type[F]) -> list[F]:
        """Return the frames of a kind that left downstream after the first ``mark``."""
        first = next(index for index, frame in enumerate(self._down.frames) if isinstance(frame, mark))
        return [frame for frame in self._down.frames[first:] if isinstance(frame, kind)]

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self._worker.queue_frame(frame)

    async def cancel(self) -> None:
        """Cancel the pipeline, as a bot does when its caller hangs up."""
        await self._worker.cancel()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds. It is checked after each frame."""
        async with asyncio.timeout(WAIT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def running_pipeline(
    *processors: FrameProcessor, sample_rate: int = 16_000, metrics: bool = False, tracing: bool = False
) -> AsyncIterator[RunningPipeline]:
    """Run a pipeline while the block runs, and end it with an end frame, as a bot does."""
    changed = asyncio.Event()
    source, sink = Collector(FrameDirection.UPSTREAM, changed), Collector(FrameDirection.DOWNSTREAM, changed)
    worker = PipelineWorker(
        Pipeline([source, *processors, sink]),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
        enable_tracing=tracing,
        params=PipelineParams(
            audio_in_sample_rate=sample_rate,
            audio_out_sample_rate=sample_rate,
            enable_metrics=metrics,
            enable_usage_metrics=metrics,
        ),
    )
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
        yield RunningPipeline(worker, sink, source, changed)
        await worker.queue_frame(EndFrame())
        async with asyncio.timeout(WAIT):
            await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
