"""What the official ``pipecat-slng`` 0.7.0 loses in its own process, through the sidecar too."""

from __future__ import annotations

from functools import partial

import pytest
from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    STTUpdateSettingsFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSUpdateSettingsFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.transcriptions.language import Language
from pipecat_slng import SlngSTTService, SlngTTSService
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Log, SimulatorOptions
from support.numbered_signal import speech, words
from support.official import AURA, NOVA, audio_frames, transcribed, upstream, was_transcribed
from support.pipelines import RunningPipeline, running_pipeline

pytestmark = pytest.mark.parametrize("way", ["directly", "through the sidecar"])

LONG = " ".join(f"n{number}" for number in range(1, 40))


def has_received(audio: bytes, log: Log) -> bool:
    return any(record.audio == audio for record in log.of("stt"))


def numbers(pipeline: RunningPipeline) -> list[int]:
    found = signal.decode(b"".join(frame.audio for frame in pipeline.down(TTSAudioRawFrame)))
    return [word.number for word in found]


async def test_an_stt_update_loses_the_speech_since_the_last_final(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(endpoint_ms=0)) as simulator:
        stt = SlngSTTService(api_key="k", world_part="us-east", model=NOVA)
        async with running_pipeline(stt) as pipeline:
            await pipeline.send(*audio_frames(range(1, 6)))
            await simulator.log.until(partial(has_received, speech(range(1, 6))))
            await pipeline.send(STTUpdateSettingsFrame(delta=stt.Settings(language=Language.DE)))
            await simulator.log.until(lambda log: len(log.of("stt")) == 2)
            await pipeline.send(*audio_frames(range(6, 11)))
            await simulator.log.until(partial(has_received, speech(range(6, 11))))
            await pipeline.send(VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n10"))
            assert transcribed(pipeline) == words(6, 10)


async def test_a_tts_update_cuts_the_speech_under_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(pace=4)):
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA)
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame(LONG))
            await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
            await pipeline.send(
                TTSUpdateSettingsFrame(delta=tts.Settings(voice="another")), TTSSpeakFrame("n100 n101.")
            )
            await pipeline.until(lambda: numbers(pipeline)[-1:] == [101])
            assert len(numbers(pipeline)) < 30
            assert not pipeline.up(ErrorFrame)


async def test_an_interruption_loses_uninterruptible_speech_behind_it(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with upstream(way, monkeypatch, SimulatorOptions.fast(pace=4)) as simulator:
        tts = SlngTTSService(api_key="k", world_part="us-east", model=AURA)
        async with running_pipeline(tts) as pipeline:
            kept = TTSSpeakFrame("n100 n101.")
            kept.interruptible = False
            await pipeline.send(TTSSpeakFrame(LONG), kept)
            await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
            await pipeline.send(InterruptionFrame())
            await pipeline.until(lambda: pipeline.down(InterruptionFrame))
            await pipeline.send(TTSSpeakFrame("n200 n201."))
            await pipeline.until(lambda: {200, 201} <= set(numbers(pipeline)))
            assert not {100, 101} & set(numbers(pipeline))
            # The plugin replaces its connection and reports that.
            assert simulator.log.dials == 2
            assert "abandoned: interrupted" in pipeline.up(ErrorFrame)[0].error
