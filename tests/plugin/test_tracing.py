"""The spans of the services, with the OpenTelemetry SDK and a pipeline with tracing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.frames.frames import (
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    TextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat_slng_sidecar import SlngHttpTTSService, SlngSTTService, SlngTTSService
from support.official import audio_frames, have_ended, was_transcribed
from support.pipelines import running_pipeline
from support.running import gateway_and_simulator


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Collect the spans of the process. OpenTelemetry allows its provider to be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def named(spans: InMemorySpanExporter, name: str) -> list[dict[str, Any]]:
    """Return the attributes of each span with a name."""
    found: list[ReadableSpan] = [span for span in spans.get_finished_spans() if span.name == name]
    return [dict(span.attributes or {}) for span in found]


async def test_a_transcript_is_a_span_with_its_usage(spans: InMemorySpanExporter) -> None:
    async with gateway_and_simulator() as (url, _):
        stt = SlngSTTService(sidecar_url=url)
        async with running_pipeline(stt, metrics=True, tracing=True) as pipeline:
            frames = audio_frames(range(1, 5))
            seconds = sum(frame.num_frames for frame in frames) / 16_000
            await pipeline.send(VADUserStartedSpeakingFrame(), *frames, VADUserStoppedSpeakingFrame(stop_secs=0.2))
            await pipeline.until(partial(was_transcribed, pipeline, "n4"))
    [span] = named(spans, "stt")
    assert span["gen_ai.provider.name"] == "slng"
    assert span["gen_ai.request.model"] == "slng/deepgram/nova:3-en"
    assert span["transcript"] == "n1 n2 n3 n4"
    assert span["is_final"] is True
    assert span["metrics.audio_seconds"] == pytest.approx(seconds)
    assert span["metrics.ttfb"] > 0


@pytest.mark.parametrize("service", [SlngTTSService, SlngHttpTTSService])
async def test_an_utterance_is_a_span_with_its_usage(
    spans: InMemorySpanExporter, service: type[FrameProcessor]
) -> None:
    async with gateway_and_simulator() as (url, _):
        tts = service(sidecar_url=url, voice="one")
        async with running_pipeline(tts, metrics=True, tracing=True) as pipeline:
            await pipeline.send(
                LLMFullResponseStartFrame(), TextFrame("n1 n2. "), TextFrame("n3 n4."), LLMFullResponseEndFrame()
            )
            await pipeline.until(partial(have_ended, pipeline, 1))
    [span] = named(spans, "tts")
    assert span["gen_ai.request.model"] == "slng/deepgram/aura:2-en"
    assert span["voice_id"] == "one"
    assert span["text"] == "n1 n2. n3 n4."
    assert span["metrics.character_count"] == len("n1 n2.") + len("n3 n4.")
    assert span["metrics.ttfb"] > 0
