"""The official ``pipecat-slng`` 0.7.0 in a real Pipecat pipeline gets the same through the sidecar as directly.

It only dials ``wss://{world_part}.api.slng.ai``; ``WorldPart.bridge_url`` is the one place that builds this address.
"""

from __future__ import annotations

from functools import partial

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat_slng import SlngSTTService, SlngTTSService
from slng_sidecar.engines import signal
from slng_sidecar.simulator import SimulatorOptions
from support.numbered_signal import words
from support.official import AURA, NOVA, audio_frames, have_ended, played, transcribed, upstream, was_transcribed
from support.pipelines import running_pipeline

pytestmark = pytest.mark.parametrize("way", ["directly", "through the sidecar"])


async def test_stt_delivers_every_word_and_finalizes_each_turn(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch) as simulator:
        stt = SlngSTTService(api_key="k", world_part="us-east", model=NOVA)
        async with running_pipeline(stt) as pipeline:
            for turn in (range(1, 11), range(11, 23)):
                await pipeline.send(*audio_frames(turn))
                # Partials come while the user speaks. After a finalize the sidecar holds them.
                await pipeline.until(lambda: pipeline.down(InterimTranscriptionFrame))
                await pipeline.send(VADUserStoppedSpeakingFrame())
                await pipeline.until(partial(was_transcribed, pipeline, f"n{turn[-1]}"))
            assert transcribed(pipeline) == words(1, 22)
            # The plugin takes the first final after a finalize for its answer, whichever final that is.
            assert sum(frame.finalized for frame in pipeline.down(TranscriptionFrame)) == 2
            assert not pipeline.up(ErrorFrame)
        assert simulator.log.dials == 1


async def test_stt_filters_partials_and_passes_finals(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(confidence=0.3)):
        stt = SlngSTTService(api_key="k", world_part="us-east", model=NOVA)
        async with running_pipeline(stt) as pipeline:
            await pipeline.send(*audio_frames(range(1, 9)), VADUserStoppedSpeakingFrame())
            await pipeline.until(lambda: "n8" in transcribed(pipeline))
            assert transcribed(pipeline) == words(1, 8)
            assert not pipeline.down(InterimTranscriptionFrame)


async def test_tts_speaks_each_turn_whole_and_ends_it_once(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch) as simulator:
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA, voice="aura-2-thalia-en")
        async with running_pipeline(tts) as pipeline:
            for number in (1, 2, 3):
                await pipeline.send(
                    LLMFullResponseStartFrame(),
                    TextFrame(f"n{number}0 n{number}1. "),
                    TextFrame(f"n{number}2 n{number}3."),
                    LLMFullResponseEndFrame(),
                )
                await pipeline.until(partial(have_ended, pipeline, number))
            assert played(pipeline) == [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33]
            assert not pipeline.up(ErrorFrame)
        assert simulator.log.dials == 1


async def test_tts_is_interrupted_and_nothing_stale_follows(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(pace=4, clear_ms=50)):
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA)
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame(" ".join(f"n{number}" for number in range(1, 40))))
            await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
            await pipeline.send(InterruptionFrame())
            await pipeline.until(lambda: pipeline.down(InterruptionFrame))
            await pipeline.send(TTSSpeakFrame("n100 n101"))
            await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
            after = pipeline.after(InterruptionFrame, TTSAudioRawFrame)
            found = signal.decode(b"".join(frame.audio for frame in after))
            assert [(word.number, word.whole) for word in found] == [(100, True), (101, True)]


async def test_the_plugin_s_settings_arrive_upstream_unchanged(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch) as simulator:
        tts = SlngTTSService(
            api_key="k", world_part="us-east", model="deepgram/aura:2", voice="v", speed=1.2, sample_rate=24_000,
            provider_key="p", external_agent_id="a", external_session_id="s",
        )  # fmt: skip
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1"))
            await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
        record = simulator.log.of("tts")[0]
        assert record.received[0][1] == {
            "type": "init",
            "voice": "v",
            "config": {"encoding": "linear16", "sample_rate": 24_000, "language": "en", "speed": 1.2},
        }
        names = ("x-slng-provider-key", "x-slng-agent-id", "x-slng-session-id")
        assert [record.headers[name] for name in names] == ["p", "a", "s"]


async def test_a_refused_key_is_an_error_frame_that_says_so(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(keys=("another",))):
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA)
        async with running_pipeline(tts) as pipeline:
            await pipeline.until(lambda: pipeline.up(ErrorFrame))
            assert "401" in pipeline.up(ErrorFrame)[0].error
