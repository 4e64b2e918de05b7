"""Run one service of ``pipecat-slng`` 0.4.0 in a Pipecat pipeline. ``tests/support/drivers.py`` sends the commands."""
# mypy: ignore-errors
# ruff: noqa: E402

import asyncio
import base64
import json
import os
import sys
import tempfile
from pathlib import Path

# Before 1.12, Pipecat downloads NLTK's data at import if it finds none. An empty folder prevents that. It would fail to
# split a sentence, but only whole sentences are sent here.
os.environ["NLTK_DATA"] = tempfile.mkdtemp(prefix="no-nltk-data-")
(Path(os.environ["NLTK_DATA"]) / "tokenizers" / "punkt_tab").mkdir(parents=True)

from pipecat.frames.frames import (
    AggregatedTextFrame,
    AggregationType,
    ErrorFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSUpdateSettingsFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat_slng import SlngHttpTTSService, SlngSTTService, SlngTTSService
from support.pipelines import running_pipeline

KEPT = (ErrorFrame, InterruptionFrame, TranscriptionFrame, TTSAudioRawFrame, TTSStoppedFrame)
SERVICES = {"stt": SlngSTTService, "tts": SlngTTSService, "http": SlngHttpTTSService}


def emit(kind, **event):
    print(json.dumps({"is": kind, **event}), flush=True)


class Reporter(FrameProcessor):
    """Emits an event for each frame that passes."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        # The type must match exactly: an InterimTranscriptionFrame and the like are not reported.
        if type(frame) in KEPT:
            event = {}
            for name in ("text", "error", "finalized", "sample_rate"):
                if hasattr(frame, name):
                    event[name] = getattr(frame, name)
            if isinstance(frame, TTSAudioRawFrame):
                event["audio"] = base64.b64encode(frame.audio).decode()
            emit(type(frame).__name__, **event)
        await self.push_frame(frame, direction)


def frames_of(command, service):
    match command["do"]:
        case "transcribe":
            pcm = base64.b64decode(command["audio"])
            return [
                InputAudioRawFrame(audio=pcm[at : at + 640], sample_rate=16_000, num_channels=1)
                for at in range(0, len(pcm), 640)
            ]
        case "stop speaking":
            return [VADUserStoppedSpeakingFrame()]
        case "speak":
            return [TTSSpeakFrame(command["text"])]
        case "respond":
            # As Pipecat's LLMTextProcessor does before a TTS.
            texts = [AggregatedTextFrame(text, AggregationType.SENTENCE) for text in command["texts"]]
            return [LLMFullResponseStartFrame(), *texts, LLMFullResponseEndFrame()]
        case "interrupt":
            return [InterruptionFrame()]
        case "update":
            frame = STTUpdateSettingsFrame if isinstance(service, SlngSTTService) else TTSUpdateSettingsFrame
            return [frame(delta=service.Settings(**command["settings"]))]
    raise ValueError(command)


async def main():
    options = json.loads(sys.argv[1])
    kind = options.pop("service")
    service = SERVICES[kind](api_key="k", **options)
    if kind != "http":
        for event in ("on_connected", "on_disconnected", "on_connection_error"):
            service.add_event_handler(event, lambda _service, *_rest, event=event: emit(event))
    async with running_pipeline(Reporter(), service, Reporter()) as pipeline:
        emit("started")
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            for frame in frames_of(command, service):
                await pipeline.send(frame)
                if pace := command.get("pace"):
                    await asyncio.sleep(pace)
            emit("done")


asyncio.run(main())
