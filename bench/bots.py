"""Bots: the services of this project's plugin or of the official ``pipecat-slng`` 0.7.0 in a real Pipecat pipeline.

This project's services connect to the sidecar, and the official ones directly to the simulator. The official ones
always connect to ``wss://{world_part}.api.slng.ai``. ``WorldPart.bridge_url`` is the only function that builds this
address, so the benchmark replaces it and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pipecat_slng_sidecar
from loguru import logger
from pipecat.frames.frames import CancelFrame, ErrorFrame, Frame, InputAudioRawFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner
from pipecat_slng import SlngSTTService, SlngTTSService, WorldPart

from bench.clients import RATE, WAIT
from bench.world import World

_STOP = 2.0
F = TypeVar("F", bound=Frame)
R = TypeVar("R")


class _FrameRecorder(FrameProcessor):
    """Records the frames that pass in one direction, each with its time."""

    def __init__(self, direction: FrameDirection, changed: asyncio.Event) -> None:
        super().__init__(enable_direct_mode=True)
        self.frames: list[tuple[float, Frame]] = []
        self._direction = direction
        self._changed = changed

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if direction is self._direction:
            self.frames.append((time.monotonic(), frame))
            self._changed.set()
        await self.push_frame(frame, direction)


class Bot:
    """A running pipeline.

    Attributes:
        start_ms: the time from its start until the StartFrame had passed all of it, in ms.
    """

    def __init__(
        self,
        worker: PipelineWorker,
        source: _FrameRecorder,
        sink: _FrameRecorder,
        changed: asyncio.Event,
        start_ms: float,
    ) -> None:
        self.start_ms = start_ms
        self._worker = worker
        self._source = source
        self._sink = sink
        self._changed = changed

    async def send(self, frame: Frame) -> float:
        """Queue a frame and return the time just before."""
        at = time.monotonic()
        await self._worker.queue_frame(frame)
        return at

    async def send_audio(self, pcm: bytes) -> float:
        """Queue audio of the user and return the time just before."""
        return await self.send(InputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1))

    def output(self, kind: type[F]) -> list[tuple[float, F]]:
        """Return the frames of a type that left the pipeline, each with its time."""
        return [(at, frame) for at, frame in self._sink.frames if isinstance(frame, kind)]

    def errors(self) -> list[ErrorFrame]:
        """Return the errors that were pushed upstream out of the pipeline."""
        return [frame for _, frame in self._source.frames if isinstance(frame, ErrorFrame)]

    def transit_ms(self, sent: list[float]) -> list[float]:
        """Return how long each audio frame took through the pipeline, in ms.

        Args:
            sent: when each frame was queued.
        """
        return [1000 * (at - start) for (at, _), start in zip(self.output(InputAudioRawFrame), sent, strict=False)]

    async def until(self, condition: Callable[[], object], timeout: float = WAIT) -> None:
        """Wait until the condition is true. It is checked after each frame."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def transcribed(self) -> list[str]:
        """Return the words of the finals."""
        return " ".join(frame.text for _, frame in self.output(TranscriptionFrame)).split()


@contextlib.asynccontextmanager
async def running_bot(*services: FrameProcessor) -> AsyncIterator[Bot]:
    """Run a pipeline with these services while the block runs."""
    changed = asyncio.Event()
    source = _FrameRecorder(FrameDirection.UPSTREAM, changed)
    sink = _FrameRecorder(FrameDirection.DOWNSTREAM, changed)
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    pipeline = Pipeline([source, *services, sink])
    worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False, enable_rtvi=False, params=params)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator] # Pipecat leaves it untyped
    async def _started(_worker: PipelineWorker, _frame: Frame) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    start = time.monotonic()
    running = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(WAIT):
            await started.wait()
        yield Bot(worker, source, sink, changed, 1000 * (time.monotonic() - start))
        await worker.queue_frame(CancelFrame())
        await asyncio.wait([running], timeout=_STOP)
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=_STOP)


async def wait_until_connected() -> None:
    """Wait for a second, in which a bot's connections open. The official services emit no event for it."""
    await asyncio.sleep(1)


@dataclass(frozen=True)
class Side:
    """One of the two plugins that are compared.

    Attributes:
        name: part of the names of its models.
        stt: creates an STT service for a model.
        tts: creates a TTS service for a model, with the voice ``one``.
        stt_settings: the class of the STT settings.
        tts_settings: the class of the TTS settings.
    """

    name: str
    stt: Callable[[str], Any]
    tts: Callable[[str], Any]
    stt_settings: Any
    tts_settings: Any


OFFICIAL = Side(
    "official",
    lambda model: SlngSTTService(api_key="key-of-the-bench", world_part="us-east", model=model),
    lambda model: SlngTTSService(api_key="key-of-the-bench", world_part="us-east", model=model, voice="one"),
    SlngSTTService.Settings,
    SlngTTSService.Settings,
)


def ours(sidecar: str) -> Side:
    """Return this project's side, which uses the sidecar at this address."""
    return Side(
        "ours",
        lambda model: pipecat_slng_sidecar.SlngSTTService(sidecar_url=sidecar, model=model),
        lambda model: pipecat_slng_sidecar.SlngTTSService(sidecar_url=sidecar, model=model, voice="one"),
        pipecat_slng_sidecar.SlngSTTSettings,
        pipecat_slng_sidecar.SlngTTSSettings,
    )


async def run_both_sides(
    world: World,
    name: str,
    run: Callable[[World, Side, str, int], Awaitable[R]],
    *,
    concurrent: bool = True,
    **profile: Any,
) -> list[list[R]]:
    """Run a measurement ``world.runs`` times on each side, first on ours and then on the official one.

    Args:
        world: the processes to measure with.
        name: part of the names of the models. Each run has a model of its own.
        run: runs once, with the world, the side, the model and the index of the run.
        concurrent: whether all runs of a side take place at the same time. That is faster, but less precise.
        **profile: fields of the route profile of every model.

    Returns:
        The results of each side.
    """
    results = []
    for side in (ours(world.sidecar), OFFICIAL):
        models = [await world.model(f"{name}-{side.name}-{i}", **profile) for i in range(world.runs)]
        runs = [run(world, side, model, i) for i, model in enumerate(models)]
        results.append(await asyncio.gather(*runs) if concurrent else [await each for each in runs])
    return results


def redirect_official(url: str) -> None:
    """Make the official plugin connect to this address, and silence the log of Pipecat and the plugins."""
    address = url.replace("http:", "ws:")

    def bridge_url(_self: WorldPart, kind: str, model: str) -> str:
        return f"{address}/v1/bridges/unmute/{kind}/{model}"

    WorldPart.bridge_url = bridge_url  # type: ignore[method-assign, assignment] # see the module docstring
    logger.remove()
