"""The plugin's streaming TTS service in a real Pipecat pipeline, with a gateway and a simulator on real sockets."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
from pipecat.frames.frames import (
    AggregatedTextFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    MetricsFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.metrics.metrics import TTFBMetricsData, TTSUsageMetricsData
from pipecat.services.tts_service import TextAggregationMode
from pipecat_slng_sidecar import SlngTTSService, SlngTTSSettings
from slng_sidecar.engines import signal
from slng_sidecar.simulator import SimulatorOptions
from slng_sidecar.simulator.records import Record
from support.official import have_ended, played
from support.pipelines import RunningPipeline, running_pipeline
from support.running import gateway_and_simulator


def sentence(first: int, last: int) -> str:
    return " ".join(f"n{number}" for number in range(first, last + 1))


def turn(*sentences: str) -> list[Frame]:
    return [LLMFullResponseStartFrame(), *(TextFrame(f"{each}. ") for each in sentences), LLMFullResponseEndFrame()]


def words_in(frames: list[TTSAudioRawFrame]) -> list[tuple[int, bool]]:
    return [(word.number, word.whole) for word in signal.decode(b"".join(frame.audio for frame in frames))]


def whole(first: int, last: int) -> list[tuple[int, bool]]:
    return [(number, True) for number in range(first, last + 1)]


def texts(pipeline: RunningPipeline) -> list[str]:
    return [frame.text for frame in pipeline.down(TTSTextFrame)]


def init_of(record: Record) -> dict[str, Any]:
    message: dict[str, Any] = record.received[0][1]
    return message


async def test_each_turn_is_one_context_with_all_its_sentences() -> None:
    async with gateway_and_simulator() as (url, simulator):
        async with running_pipeline(SlngTTSService(sidecar_url=url, voice="one")) as pipeline:
            for number in (1, 2, 3):
                await pipeline.send(
                    *turn(sentence(number * 10, number * 10 + 1), sentence(number * 10 + 2, number * 10 + 3))
                )
                await pipeline.until(partial(have_ended, pipeline, number))
            assert played(pipeline) == [10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33]
            assert len({frame.context_id for frame in pipeline.down(TTSAudioRawFrame)}) == 3
            assert len(pipeline.down(TTSStartedFrame)) == len(pipeline.down(TTSStoppedFrame)) == 3
            assert not pipeline.up(ErrorFrame)
        assert simulator.log.dials == 1
        assert simulator.log.of("tts")[0].types.count("flush") == 3


async def test_every_setting_arrives_upstream() -> None:
    async with gateway_and_simulator() as (url, simulator):
        tts = SlngTTSService(
            sidecar_url=url, model="deepgram/aura:2", voice="v", speed=1.2, sample_rate=24_000, language="de",
            provider_key="p", external_agent_id="a", external_session_id="s", warm_standby_enabled=True,
            pronunciation={"mode": "rewrite", "name": "support"},
        )  # fmt: skip
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert {frame.sample_rate for frame in pipeline.down(TTSAudioRawFrame)} == {24_000}
        record = simulator.log.of("tts")[0]
        assert init_of(record) == {
            "type": "init",
            "voice": "v",
            "config": {
                "encoding": "linear16",
                "sample_rate": 24_000,
                "language": "de",
                "speed": 1.2,
                "pronunciation": {"mode": "rewrite", "name": "support"},
            },
        }
        names = ("x-slng-provider-key", "x-slng-agent-id", "x-slng-session-id")
        assert [record.headers[name] for name in names] == ["p", "a", "s"]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
async def test_companded_audio_comes_out_as_pcm(encoding: str) -> None:
    async with gateway_and_simulator() as (url, simulator):
        async with running_pipeline(SlngTTSService(sidecar_url=url, encoding=encoding)) as pipeline:
            await pipeline.send(TTSSpeakFrame(sentence(1, 5)))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == [1, 2, 3, 4, 5]
        assert init_of(simulator.log.of("tts")[0])["config"]["encoding"] == encoding


async def test_after_an_interruption_nothing_stale_follows_and_the_next_turn_is_whole() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(pace=4, clear_ms=50)) as (url, simulator):
        async with running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline:
            await pipeline.send(*turn(sentence(1, 40)))
            await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
            await pipeline.send(InterruptionFrame())
            await pipeline.until(lambda: pipeline.down(InterruptionFrame))
            await pipeline.send(*turn(sentence(100, 101)))
            await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
            assert words_in(pipeline.after(InterruptionFrame, TTSAudioRawFrame)) == whole(100, 101)
            assert not pipeline.up(ErrorFrame)
        assert "clear" in simulator.log.of("tts")[0].types


@pytest.mark.skipif(
    tuple(int(part) for part in version("pipecat-ai").split(".")[:2]) < (1, 13),
    reason="Pipecat before 1.13 itself drops every context at an interruption",
)
async def test_uninterruptible_speech_behind_interrupted_speech_is_played_whole() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=4, clear_ms=50)) as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(*turn(sentence(1, 40)))
        await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
        important = TTSSpeakFrame(sentence(200, 205))
        important.interruptible = False
        await pipeline.send(important)
        await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 7)
        await pipeline.send(InterruptionFrame())
        await pipeline.until(lambda: pipeline.down(TTSStoppedFrame))
        assert words_in(pipeline.after(InterruptionFrame, TTSAudioRawFrame)) == whole(200, 205)


async def test_a_voice_changes_with_the_next_sentence_of_the_same_turn() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(pace=8)) as (url, simulator):
        async with running_pipeline(SlngTTSService(sidecar_url=url, voice="one")) as pipeline:
            # Pipecat passes a sentence on when the next one begins.
            await pipeline.send(LLMFullResponseStartFrame(), TextFrame(f"{sentence(1, 9)}. "), TextFrame("n10 "))
            await pipeline.until(lambda: pipeline.down(TTSAudioRawFrame))
            await pipeline.send(
                TTSUpdateSettingsFrame(delta=SlngTTSSettings(voice="two", speed=1.5, language="de")),
                TextFrame(f"{sentence(11, 19)}. "),
                LLMFullResponseEndFrame(),
            )
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == list(range(1, 20))
            assert len({frame.context_id for frame in pipeline.down(TTSAudioRawFrame)}) == 1
            assert not pipeline.up(ErrorFrame)
        first, second = (init_of(record) for record in simulator.log.of("tts"))
        assert (first["voice"], second["voice"]) == ("one", "two")
        assert (second["config"]["speed"], second["config"]["language"]) == (1.5, "de")


async def test_a_refused_update_keeps_the_old_voice_and_is_reported() -> None:
    async with gateway_and_simulator() as (url, _):
        tts = SlngTTSService(sidecar_url=url)
        async with running_pipeline(tts) as pipeline:
            await pipeline.send(TTSUpdateSettingsFrame(delta=SlngTTSSettings(model="nonsense")), *turn(sentence(1, 3)))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == [1, 2, 3]
            assert any("nonsense" in frame.error for frame in pipeline.up(ErrorFrame))
            assert tts._settings.model == "slng/deepgram/aura:2-en"
            assert tts.is_usable


async def test_text_without_audio_is_not_reported_as_spoken() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(first_audio_ms=60_000)) as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(*turn(sentence(1, 5)))
        await pipeline.until(lambda: pipeline.down(TTSStartedFrame))
        await pipeline.send(InterruptionFrame())
        await pipeline.until(lambda: pipeline.down(InterruptionFrame))
        assert texts(pipeline) == []


async def test_text_is_reported_with_its_audio_and_in_order() -> None:
    async with (
        gateway_and_simulator() as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(*turn(sentence(1, 3), sentence(4, 6)))
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert texts(pipeline) == ["n1 n2 n3.", "n4 n5 n6."]
        kinds = [type(frame) for frame in pipeline.all_down((TTSTextFrame, TTSAudioRawFrame, TTSStoppedFrame))]
        assert kinds[0] is TTSTextFrame
        assert kinds[-1] is TTSStoppedFrame


async def test_an_upstream_that_dies_in_mid_sentence_is_one_error_and_ends_the_context() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=4)) as (url, simulator),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(*turn(sentence(1, 40)))
        await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
        simulator.inject(do="drop", when="now")
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert len(pipeline.up(ErrorFrame)) == 1
        await pipeline.send(*turn(sentence(50, 52)))
        await pipeline.until(partial(have_ended, pipeline, 2))
        assert words_in(pipeline.after(TTSStoppedFrame, TTSAudioRawFrame)) == whole(50, 52)


async def test_the_rest_of_a_turn_that_broke_off_is_spoken() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=4)) as (url, simulator),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(LLMFullResponseStartFrame(), TextFrame(f"{sentence(1, 40)}. "), TextFrame("n60 "))
        await pipeline.until(lambda: len(pipeline.down(TTSAudioRawFrame)) > 5)
        simulator.inject(do="drop", when="now")
        await pipeline.until(lambda: pipeline.up(ErrorFrame))
        await pipeline.send(TextFrame(f"{sentence(61, 63)}. "), LLMFullResponseEndFrame())
        await pipeline.until(partial(have_ended, pipeline, 1))
        found = words_in(pipeline.down(TTSAudioRawFrame))
        assert found[-4:] == whole(60, 63)
        assert len(pipeline.up(ErrorFrame)) == 1


async def test_text_outside_a_turn_is_spoken_and_ends() -> None:
    async with (
        gateway_and_simulator() as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(AggregatedTextFrame(sentence(1, 3), "sentence"), TTSSpeakFrame(sentence(4, 5)))
        await pipeline.until(partial(have_ended, pipeline, 2))
        assert played(pipeline) == [1, 2, 3, 4, 5]


async def test_each_sentence_can_be_a_context_of_its_own() -> None:
    async with (
        gateway_and_simulator() as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url, reuse_context_id_within_turn=False)) as pipeline,
    ):
        await pipeline.send(*turn(sentence(1, 3), sentence(4, 6)))
        await pipeline.until(partial(have_ended, pipeline, 2))
        assert played(pipeline) == [1, 2, 3, 4, 5, 6]
        assert len({frame.context_id for frame in pipeline.down(TTSAudioRawFrame)}) == 2


async def test_tokens_can_be_streamed() -> None:
    async with gateway_and_simulator() as (url, _):
        tts = SlngTTSService(sidecar_url=url, text_aggregation_mode=TextAggregationMode.TOKEN)
        async with running_pipeline(tts) as pipeline:
            tokens = [TextFrame(f"n{number} ") for number in range(1, 8)]
            await pipeline.send(LLMFullResponseStartFrame(), *tokens, LLMFullResponseEndFrame())
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_turn_without_text_opens_nothing() -> None:
    async with gateway_and_simulator() as (url, simulator):
        async with running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline:
            await pipeline.send(LLMFullResponseStartFrame(), LLMFullResponseEndFrame(), *turn(sentence(1, 2)))
            await pipeline.until(partial(have_ended, pipeline, 1))
            assert played(pipeline) == [1, 2]
        assert simulator.log.of("tts")[0].types.count("flush") == 1


async def test_a_slow_first_byte_is_waited_for() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(first_audio_ms=3500)) as (url, _),
        running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline,
    ):
        await pipeline.send(TTSSpeakFrame(sentence(1, 5)))
        await pipeline.until(partial(have_ended, pipeline, 1))
        assert played(pipeline) == [1, 2, 3, 4, 5]
        assert not pipeline.up(ErrorFrame)


async def test_an_end_frame_waits_until_the_sent_text_is_spoken() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(upgrade_ms=100, ready_ms=100)) as (url, _):
        async with running_pipeline(SlngTTSService(sidecar_url=url)) as pipeline:
            await pipeline.send(TTSSpeakFrame(sentence(1, 5)))
        assert played(pipeline) == [1, 2, 3, 4, 5]


async def test_metrics_are_those_of_a_streaming_service() -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(first_audio_ms=50)) as (url, _):
        async with running_pipeline(SlngTTSService(sidecar_url=url), metrics=True) as pipeline:
            await pipeline.send(*turn(sentence(1, 3)))
            await pipeline.until(partial(have_ended, pipeline, 1))
        data = [each for frame in pipeline.down(MetricsFrame) for each in frame.data if "Slng" in each.processor]
        [ttfb] = [each.value for each in data if isinstance(each, TTFBMetricsData) and each.value]
        assert 0.05 <= ttfb < 1
        assert [each.value for each in data if isinstance(each, TTSUsageMetricsData)] == [len("n1 n2 n3.")]
