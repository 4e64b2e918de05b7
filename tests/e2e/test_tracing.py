"""Traces as a collector gets them over OTLP from a sidecar process."""

from __future__ import annotations

import asyncio

from slng_sidecar.engines import signal
from support.bots import SIGNAL, simulator_process
from support.collector import attributes, collecting
from support.processes import serving
from support.running import STT_INIT, TTS_INIT, talking


async def test_sessions_contexts_and_finalizes_are_spans_and_no_word_is_in_them() -> None:
    with collecting() as (endpoint, collector):
        async with (
            simulator_process(first_audio_ms=50) as simulator,
            serving(
                SLNG_API_KEY="a-key-of-slng",
                SLNG_BASE_URL=simulator.url,
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_SERVICE_NAME="my-voice",
            ) as sidecar,
        ):
            headers = {"X-SLNG-Session-Id": "call-7", "X-SLNG-Agent-Id": "agent-1"}
            async with talking(sidecar.url, "tts", SIGNAL, headers=headers, subprotocol="slng-sidecar.v1") as talk:
                await talk.send(TTS_INIT, {"type": "text", "context_id": "a", "text": "n1 n2 n3"})
                await talk.send({"type": "flush", "context_id": "a"})
                await talk.until("audio_end")
            async with talking(sidecar.url, "stt", SIGNAL, subprotocol="slng-sidecar.v1") as talk:
                await talk.send(
                    STT_INIT, signal.encode([signal.SignalWord(1), signal.SignalWord(2)]), {"type": "finalize"}
                )
                await talk.until("finalized")
        [tts], [stt] = collector.named("tts session"), collector.named("stt session")
        [context], [finalize] = collector.named("context"), collector.named("finalize")
        assert context.parent_span_id == tts.span_id
        assert finalize.parent_span_id == stt.span_id
        assert attributes(tts)["slng.session_id"] == "call-7"
        assert attributes(tts)["slng.agent_id"] == "agent-1"
        assert attributes(context)["slng.outcome"] == "completed"
        assert attributes(context)["slng.characters"] == len("n1 n2 n3")
        assert [event.name for event in context.events] == ["first audio"]
        assert tts.start_time_unix_nano <= context.start_time_unix_nano < context.end_time_unix_nano
        assert 50e6 <= context.events[0].time_unix_nano - context.start_time_unix_nano < 1e9
        assert {"dial", "upstream ready"} <= {event.name for event in tts.events}
        assert attributes(finalize)["slng.outcome"] == "final"
        everything = b"".join(collector.requests)
        assert b"my-voice" in everything
        assert b"a-key-of-slng" not in everything
        assert b"n1 n2" not in everything


async def test_a_missing_collector_delays_nothing() -> None:
    async with (
        simulator_process() as simulator,
        serving(
            SLNG_API_KEY="k", SLNG_BASE_URL=simulator.url, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"
        ) as sidecar,
    ):
        async with talking(sidecar.url, "tts", SIGNAL) as talk:
            await talk.send(TTS_INIT, {"type": "text", "text": "n1"}, {"type": "flush"})
            await talk.until("audio_end")
        sidecar.process.terminate()
        async with asyncio.timeout(15):
            assert await sidecar.ends() == 0
