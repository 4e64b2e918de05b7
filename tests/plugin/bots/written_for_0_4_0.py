"""A typical bot for ``pipecat-slng`` 0.4.0 that uses everything on its page, with Pipecat's names of then and now.

It repeats what the user says. From the word n20 on it answers in another voice. With ``SLNG_TTS=http`` it speaks over
HTTP.
"""
# mypy: ignore-errors
# The tests' environment has a later version installed.

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
from pipecat_slng import SlngHttpTTSService, SlngSTTService, SlngSTTSettings, SlngTTSService, SlngTTSSettings

TRANSCRIPT: list[str] = []


def new_stt() -> SlngSTTService:
    return SlngSTTService(
        api_key=os.environ["SLNG_API_KEY"],
        model=os.getenv("SLNG_STT_MODEL", "slng/deepgram/nova:3-en"),
        base_url="api.slng.ai",
        encoding="linear16",
        sample_rate=16_000,
        region_override="eu-north-1",
        world_part_override="eu",
        provider_key=os.getenv("SLNG_PROVIDER_KEY") or None,
        enable_vad=True,
        enable_partials=True,
    )


def new_tts() -> SlngTTSService | SlngHttpTTSService:
    voice = os.getenv("SLNG_TTS_VOICE", "aura-2-thalia-en")
    model = os.getenv("SLNG_TTS_MODEL", "slng/deepgram/aura:2-en")
    provider_key = os.getenv("SLNG_PROVIDER_KEY") or None
    if os.getenv("SLNG_TTS") == "http":
        return SlngHttpTTSService(
            api_key=os.environ["SLNG_API_KEY"],
            model=model,
            voice=voice,
            base_url="https://api.slng.ai",
            region_override="us-east-1",
            world_part_override="na",
            provider_key=provider_key,
        )
    return SlngTTSService(
        api_key=os.environ["SLNG_API_KEY"],
        model=model,
        voice=voice,
        base_url="api.slng.ai",
        encoding="linear16",
        sample_rate=24_000,
        region_override="us-east-1",
        world_part_override="na",
        provider_key=provider_key,
        language=Language.EN,
        speed=1.0,
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
            update = STTUpdateSettingsFrame(delta=SlngSTTSettings(language=Language.DE, enable_vad=True))
            await self.push_frame(update, FrameDirection.UPSTREAM)
            await self.push_frame(TTSUpdateSettingsFrame(delta=SlngTTSSettings(voice="aura-2-apollo-en", speed=0.9)))
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(frame.text))
        await self.push_frame(LLMFullResponseEndFrame())


async def run_bot(transport: BaseTransport) -> None:
    pipeline = Pipeline([transport.input(), new_stt(), Parrot(), new_tts(), transport.output()])
    worker = PipelineWorker(pipeline, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
