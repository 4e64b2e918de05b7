"""The sidecar starts later than the bot, is killed with SIGKILL in the middle of a conversation, or stays away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.services.ai_service import AIService
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService
from slng_sidecar.engines import signal
from support.bots import SIGNAL, SimulatorProcess, free_port, sidecar_process, simulator_process, speak_at_pace
from support.numbered_signal import words
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import RunningPipeline, running_pipeline
from support.processes import Running

pytestmark = pytest.mark.timeout(90)


def note_events(service: AIService) -> list[str]:
    """Return a list to which the name of each connection event of a service is added."""
    events: list[str] = []
    for name in ("on_connected", "on_disconnected", "on_connection_error"):

        async def handler(*_arguments: object, name: str = name) -> None:
            events.append(name)

        service.add_event_handler(name, handler)
    return events


async def kill(sidecar: Running) -> None:
    sidecar.process.kill()
    await sidecar.ends()
    sidecar.code = 0


@contextlib.asynccontextmanager
async def interrupted_service(
    service: AIService, simulator: SimulatorProcess, port: int
) -> AsyncIterator[tuple[RunningPipeline, Running]]:
    """Run a pipeline with a running sidecar. The block kills the sidecar."""
    async with sidecar_process(simulator.url, port) as sidecar, running_pipeline(service) as pipeline:
        await asyncio.wait_for(_connected(service), 10)
        yield pipeline, sidecar


async def _connected(service: AIService) -> None:
    connected = asyncio.Event()

    async def handler(*_arguments: object) -> None:
        connected.set()

    service.add_event_handler("on_connected", handler)
    await connected.wait()


@pytest.mark.parametrize(
    "times",
    [
        pytest.param("false", id="without word times", marks=pytest.mark.slow),
        pytest.param("true", id="with word times"),
    ],
)
async def test_speech_just_before_a_kill_and_meanwhile_is_transcribed_once(times: str) -> None:
    port = free_port()
    stt = SlngSTTService(sidecar_url=f"http://127.0.0.1:{port}", model=SIGNAL)
    events = note_events(stt)
    async with (
        simulator_process(words=times, upgrade_ms=100, ready_ms=50) as simulator,
        interrupted_service(stt, simulator, port) as (pipeline, first),
    ):
        await speak_at_pace(pipeline, audio_frames(range(1, 15)))
        await kill(first)
        await speak_at_pace(pipeline, audio_frames(range(15, 20)))
        async with sidecar_process(simulator.url, port):
            await speak_at_pace(pipeline, audio_frames(range(20, 28)))
            await pipeline.send(VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n27"))
            # Without word times the replay may begin within a word, and the fragment looks like another word.
            found = [word for word in transcribed(pipeline) if times == "true" or not word.startswith("frag:")]
            assert found == words(1, 27)
            assert len(found) >= len(transcribed(pipeline)) - 1
            assert len(pipeline.up(ErrorFrame)) == 1
            passed = sum(len(frame.audio) for frame in pipeline.down(InputAudioRawFrame))
            assert passed == sum(len(frame.audio) for frame in audio_frames(range(1, 28)))
            assert stt.is_usable
            assert events == ["on_connected", "on_disconnected", "on_connection_error", "on_connected"]


async def test_a_context_without_audio_yet_is_spoken_once_after_a_kill() -> None:
    port = free_port()
    tts = SlngTTSService(sidecar_url=f"http://127.0.0.1:{port}", model=SIGNAL)
    async with (
        simulator_process(first_audio_ms=1000, pace=0) as simulator,
        interrupted_service(tts, simulator, port) as (pipeline, first),
    ):
        await pipeline.send(TTSSpeakFrame("n1 n2 n3"), TTSSpeakFrame("n4 n5"))
        async with asyncio.timeout(10):
            while not any(message["type"] == "flush" for each in await simulator.log() for message in each["received"]):
                await asyncio.sleep(0.02)
        await kill(first)
        async with sidecar_process(simulator.url, port):
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert played(pipeline) == [1, 2, 3, 4, 5]
            assert len(pipeline.up(ErrorFrame)) == 1


async def test_a_context_that_was_played_in_part_ends_with_the_kill_and_the_turn_continues() -> None:
    port = free_port()
    tts = SlngTTSService(sidecar_url=f"http://127.0.0.1:{port}", model=SIGNAL)
    async with (
        simulator_process(first_audio_ms=0, pace=2) as simulator,
        interrupted_service(tts, simulator, port) as (pipeline, first),
    ):
        long = " ".join(words(1, 60))
        await pipeline.send(LLMFullResponseStartFrame(), TextFrame(f"{long}. "), TextFrame("n70 "))
        await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 3)
        await kill(first)
        await pipeline.send(TextFrame("n71 n72."), LLMFullResponseEndFrame())
        async with sidecar_process(simulator.url, port):
            await pipeline.until(partial(have_ended, pipeline, 1))
            await pipeline.send(TTSSpeakFrame("n80 n81"))
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert len(pipeline.up(ErrorFrame)) == 1
            last = pipeline.down(TTSAudioRawFrame)[-1].context_id
            after = b"".join(frame.audio for frame in pipeline.down(TTSAudioRawFrame) if frame.context_id == last)
            assert [(word.number, word.whole) for word in signal.decode(after)] == [(80, True), (81, True)]
            turn = b"".join(frame.audio for frame in pipeline.down(TTSAudioRawFrame) if frame.context_id != last)
            assert [(word.number, word.whole) for word in signal.decode(turn)][-3:] == [
                (70, True), (71, True), (72, True),
            ]  # fmt: skip


async def test_a_sidecar_that_starts_later_than_the_bot_causes_one_error_and_loses_no_word() -> None:
    port = free_port()
    stt = SlngSTTService(sidecar_url=f"http://127.0.0.1:{port}", model=SIGNAL)
    tts = SlngTTSService(sidecar_url=f"http://127.0.0.1:{port}", model=SIGNAL)
    async with simulator_process() as simulator, running_pipeline(stt, tts) as pipeline:
        await pipeline.send(TTSSpeakFrame("n1 n2 n3"))
        await speak_at_pace(pipeline, audio_frames(range(1, 6)))
        await pipeline.until(lambda: len(pipeline.up(ErrorFrame)) == 2)
        async with sidecar_process(simulator.url, port):
            await pipeline.send(VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n5"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert transcribed(pipeline) == words(1, 5)
            assert played(pipeline) == [1, 2, 3]
            assert {frame.processor for frame in pipeline.up(ErrorFrame)} == {stt, tts}
            assert all("slng-sidecar serve" in frame.error for frame in pipeline.up(ErrorFrame))
