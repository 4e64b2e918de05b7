"""The official ``pipecat-slng`` 0.7.0 on the simulator, directly or through a sidecar, and its pipeline's output."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from pipecat.frames.frames import InputAudioRawFrame, TranscriptionFrame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat_slng import WorldPart
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator

from support.numbered_signal import speech, whole_words
from support.pipelines import RunningPipeline
from support.running import AURA, NOVA, running_gateway

__all__ = ["AURA", "NOVA", "audio_frames", "have_ended", "played", "transcribed", "upstream", "was_transcribed"]


@contextlib.asynccontextmanager
async def upstream(
    way: str, monkeypatch: pytest.MonkeyPatch, options: SimulatorOptions | None = None
) -> AsyncIterator[Simulator]:
    """Run a simulator, and direct the plugin to it or to a sidecar in front of it whose filter is set like the
    plugin's.
    """
    async with contextlib.AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator(options or SimulatorOptions.fast()))
        url = simulator.url
        if way != "directly":
            gateway = await stack.enter_async_context(
                running_gateway(simulator.url, sidecar_confidence_scope="partials")
            )
            url = gateway.replace("http:", "ws:")
        monkeypatch.setattr(
            WorldPart, "bridge_url", lambda _self, kind, model: f"{url}/v1/bridges/unmute/{kind}/{model}"
        )
        yield simulator


def audio_frames(words: range, frame_bytes: int = 640) -> list[InputAudioRawFrame]:
    pcm = speech(words)
    return [
        InputAudioRawFrame(audio=pcm[start : start + frame_bytes], sample_rate=16_000, num_channels=1)
        for start in range(0, len(pcm), frame_bytes)
    ]


def transcribed(pipeline: RunningPipeline) -> list[str]:
    return " ".join(frame.text for frame in pipeline.down(TranscriptionFrame)).split()


def was_transcribed(pipeline: RunningPipeline, word: str) -> bool:
    return word in transcribed(pipeline)


def have_ended(pipeline: RunningPipeline, turns: int) -> bool:
    return len(pipeline.down(TTSStoppedFrame)) == turns


def played(pipeline: RunningPipeline) -> list[int]:
    return whole_words(b"".join(frame.audio for frame in pipeline.down(TTSAudioRawFrame)))
