"""A typical bot for ``pipecat-slng`` 0.7.0 that uses everything in its README and its docstrings.

It repeats what the user says. From the word n20 on it answers in another voice.
"""

import os

from pipecat.frames.frames import (
    Frame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transcriptions.language import Language
from pipecat.transports.base_transport import BaseTransport
from pipecat.workers.runner import WorkerRunner
from pipecat_slng import SlngSTTService, SlngSTTSettings, SlngTTSService, SlngTTSSettings, WorldPart

TRANSCRIPT: list[str] = []


def new_stt() -> SlngSTTService:
    return SlngSTTService(
        api_key=os.environ["SLNG_API_KEY"],
        world_part=os.getenv("SLNG_WORLD_PART", "us-east"),
        model=os.getenv("SLNG_STT_MODEL", "slng/deepgram/nova:3-en"),
        encoding="linear16",
        sample_rate=16_000,
        provider_key=os.getenv("SLNG_PROVIDER_KEY") or None,
        external_agent_id="concierge",
        external_session_id="call-1",
        language=Language.EN,
        enable_partials=True,
        settings=SlngSTTSettings(language=Language.EN_US),
        ttfs_p99_latency=0.8,
    )


def new_tts() -> SlngTTSService:
    return SlngTTSService(
        api_key=os.environ["SLNG_API_KEY"],
        world_part=WorldPart.EU_WEST,
        model=os.getenv("SLNG_TTS_MODEL", "slng/deepgram/aura:2-en"),
        voice=os.getenv("SLNG_TTS_VOICE", "aura-2-thalia-en"),
        encoding="linear16",
        sample_rate=24_000,
        provider_key=os.getenv("SLNG_PROVIDER_KEY") or None,
        external_agent_id="concierge",
        external_session_id="call-1",
        language=Language.EN,
        speed=1.0,
        pronunciation={"mode": "rewrite", "name": "support-pronunciations"},
        warm_standby_enabled=True,
        settings=SlngTTSSettings(speed=1.1),
    )


class Parrot(FrameProcessor):
    """Answers in place of a language model."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, TranscriptionFrame):
            await self.push_frame(frame, direction)
            return
        TRANSCRIPT.append(frame.text)
        if "n20" in frame.text.split():
            update = STTUpdateSettingsFrame(delta=SlngSTTSettings(language=Language.DE, enable_partials=False))
            await self.push_frame(update, FrameDirection.UPSTREAM)
            await self.push_frame(TTSUpdateSettingsFrame(delta=SlngTTSSettings(voice="aura-2-apollo-en", speed=0.9)))
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(frame.text))
        await self.push_frame(LLMFullResponseEndFrame())


async def run_bot(transport: BaseTransport) -> None:
    pipeline = Pipeline([transport.input(), new_stt(), Parrot(), new_tts(), transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))

    @transport.event_handler("on_client_disconnected")  # type: ignore[untyped-decorator] # Pipecat leaves it untyped
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
