"""What the official ``pipecat-slng`` 0.7.0 no longer notices through the sidecar: drops, a close per turn, idle expiry.

Some tests also go directly to the simulator, to show that the problem is real.
"""

from __future__ import annotations

from functools import partial

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat_slng import SlngSTTService, SlngTTSService
from slng_sidecar.simulator import SimulatorOptions
from support.numbered_signal import words
from support.official import AURA, NOVA, audio_frames, have_ended, played, transcribed, upstream, was_transcribed
from support.pipelines import running_pipeline

SIDECAR = "through the sidecar"


async def test_an_stt_drop_under_audio_is_not_seen_and_transcripts_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(SIDECAR, monkeypatch) as simulator:
        fault = simulator.inject(do="drop", kind="stt", when="audio", after_ms=800)
        stt = SlngSTTService(api_key="k", world_part="us-east", model=NOVA)
        lost: list[object] = []
        stt.add_event_handler("on_disconnected", lambda service: lost.append(service))
        async with running_pipeline(stt) as pipeline:
            for turn in (range(1, 11), range(11, 23)):
                await pipeline.send(*audio_frames(turn), VADUserStoppedSpeakingFrame())
                await pipeline.until(partial(was_transcribed, pipeline, f"n{turn[-1]}"))
            assert transcribed(pipeline) == words(1, 22)
            assert not pipeline.up(ErrorFrame)
            assert not lost
        assert len(fault.fired) == 1
        assert len(simulator.log.of("stt")) == 2


@pytest.mark.parametrize("model", ["slng/rime/arcana:3-en", "soniox/tts-rt:v1"])
async def test_a_route_that_closes_with_each_turn_looks_like_one_connection(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with upstream(SIDECAR, monkeypatch) as simulator:
        tts = SlngTTSService(api_key="k", world_part="us-east", model=model)
        lost: list[object] = []
        tts.add_event_handler("on_disconnected", lambda service: lost.append(service))
        async with running_pipeline(tts) as pipeline:
            for turn in range(1, 5):
                await pipeline.send(TTSSpeakFrame(f"n{turn}0 n{turn}1."))
                await pipeline.until(partial(have_ended, pipeline, turn))
            assert played(pipeline) == [10, 11, 20, 21, 30, 31, 40, 41]
            assert not pipeline.up(ErrorFrame)
            assert not lost
        assert len(simulator.log.of("tts")) >= 4


async def test_an_idle_expiry_between_turns_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(SIDECAR, monkeypatch, SimulatorOptions.fast()) as simulator:
        tts = SlngTTSService(api_key="k", world_part="us-east", model="gradium/tts:default")
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1 n2."))
            await pipeline.until(partial(have_ended, pipeline, 1))
            expiry = {"type": "error", "message": "Session expired: no output for 120 s"}
            simulator.inject(do="send", when="now", kind="tts", message=expiry)
            simulator.inject(do="close", when="now", kind="tts", code=1011, reason="idle timeout")
            await simulator.log.until(lambda log: not log.open)
            await pipeline.send(TTSSpeakFrame("n3 n4."))
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert played(pipeline) == [1, 2, 3, 4]
            assert not pipeline.up(ErrorFrame)


async def test_a_tts_drop_before_the_first_audio_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(SIDECAR, monkeypatch) as simulator:
        fault = simulator.inject(do="drop", kind="tts", when="flush")
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA)
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1 n2."))
            await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
            assert played(pipeline) == [1, 2]
            assert not pipeline.up(ErrorFrame)
        assert len(fault.fired) == 1
