"""Bots: the services of our plugin, or of the official ``pipecat-slng`` 0.7.0, in a real Pipecat pipeline.

Ours talk to the sidecar, the official ones straight to the simulator. The official ones only dial
``wss://{world_part}.api.slng.ai``; ``WorldPart.bridge_url`` is the one place where that address is made, and is
replaced. Nothing else of them is touched.
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


class _Ear(FrameProcessor):
    """Keeps what passes in one direction, with its time."""

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
    """A pipeline that runs.

    Attributes:
        start_ms: from its start until the StartFrame had passed all of it.
    """

    def __init__(
        self, worker: PipelineWorker, source: _Ear, sink: _Ear, changed: asyncio.Event, start_ms: float
    ) -> None:
        self.start_ms = start_ms
        self._worker = worker
        self._source = source
        self._sink = sink
        self._changed = changed

    async def send(self, frame: Frame) -> float:
        """Queue a frame; give the time just before."""
        at = time.monotonic()
        await self._worker.queue_frame(frame)
        return at

    async def hear(self, pcm: bytes) -> float:
        """Queue audio of the user; give the time just before."""
        return await self.send(InputAudioRawFrame(audio=pcm, sample_rate=RATE, num_channels=1))

    def out(self, kind: type[F]) -> list[tuple[float, F]]:
        """Give the frames of a kind that left the pipeline, each with its time."""
        return [(at, frame) for at, frame in self._sink.frames if isinstance(frame, kind)]

    def errors(self) -> list[ErrorFrame]:
        """Give the errors that came out at the pipeline's beginning."""
        return [frame for _, frame in self._source.frames if isinstance(frame, ErrorFrame)]

    def held(self, sent: list[float]) -> list[float]:
        """Give how long each audio frame was on its way through the pipeline, in ms; ``sent`` is when each went in."""
        return [1000 * (at - start) for (at, _), start in zip(self.out(InputAudioRawFrame), sent, strict=False)]

    async def until(self, condition: Callable[[], object], timeout: float = WAIT) -> None:
        """Wait until the condition holds; it is looked at after each frame."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def transcribed(self) -> list[str]:
        """Give the words of the finals."""
        return " ".join(frame.text for _, frame in self.out(TranscriptionFrame)).split()


@contextlib.asynccontextmanager
async def running_bot(*services: FrameProcessor) -> AsyncIterator[Bot]:
    """Run a pipeline around services while the block runs."""
    changed = asyncio.Event()
    source, sink = _Ear(FrameDirection.UPSTREAM, changed), _Ear(FrameDirection.DOWNSTREAM, changed)
    params = PipelineParams(audio_in_sample_rate=RATE, audio_out_sample_rate=RATE)
    pipeline = Pipeline([source, *services, sink])
    worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False, enable_rtvi=False, params=params)
    started = asyncio.Event()

    @worker.event_handler("on_pipeline_started")  # type: ignore[untyped-decorator] # Pipecat leaves it untyped
    async def _started(_worker: PipelineWorker, _frame: Frame) -> None:
        started.set()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    begun = time.monotonic()
    running = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(WAIT):
            await started.wait()
        yield Bot(worker, source, sink, changed, 1000 * (time.monotonic() - begun))
        await worker.queue_frame(CancelFrame())
        await asyncio.wait([running], timeout=_STOP)
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=_STOP)


async def ready() -> None:
    """Wait until a bot's connections are open on either side; the official services say it to nobody."""
    await asyncio.sleep(1)


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: for the models of its runs.
        stt, tts: make a service for a model; ``tts`` speaks in voice ``one``.
        stt_settings, tts_settings: their settings.
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
    """Give our side, with a sidecar's address."""
    return Side(
        "ours",
        lambda model: pipecat_slng_sidecar.SlngSTTService(sidecar_url=sidecar, model=model),
        lambda model: pipecat_slng_sidecar.SlngTTSService(sidecar_url=sidecar, model=model, voice="one"),
        pipecat_slng_sidecar.SlngSTTSettings,
        pipecat_slng_sidecar.SlngTTSSettings,
    )


async def runs_of(
    world: World,
    name: str,
    run: Callable[[World, Side, str, int], Awaitable[R]],
    *,
    at_once: bool = True,
    **manners: Any,
) -> list[list[R]]:
    """Run something ``world.runs`` times on each side, one side after the other; ours first.

    Each run has a model of its own, with these manners.

    Args:
        at_once: all runs of a side together, which takes less time; not where a millisecond counts.
    """
    found = []
    for side in (ours(world.sidecar), OFFICIAL):
        models = [await world.model(f"{name}-{side.name}-{i}", **manners) for i in range(world.runs)]
        runs = [run(world, side, model, i) for i, model in enumerate(models)]
        found.append(await asyncio.gather(*runs) if at_once else [await each for each in runs])
    return found


def point_at(url: str) -> None:
    """Let the official plugin dial this address, and say nothing on standard error."""
    address = url.replace("http:", "ws:")

    def bridge_url(_self: WorldPart, kind: str, model: str) -> str:
        return f"{address}/v1/bridges/unmute/{kind}/{model}"

    WorldPart.bridge_url = bridge_url  # type: ignore[method-assign, assignment] # the one seam
    logger.remove()
