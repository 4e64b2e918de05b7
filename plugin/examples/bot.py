"""A voice bot that uses a slng-sidecar: speech to text, a language model, text to speech.

It needs no key. Without ``OPENAI_API_KEY``, a small script answers instead of a language model. Without
``SLNG_API_KEY``, the sidecar uses a simulator. The example then runs offline:

    make run          # in one terminal: the sidecar
    make bot          # in another: this bot; then open http://localhost:7860/talk and talk

That page is ``talk.html``, which loads nothing from elsewhere. Pipecat's own client is at http://localhost:7860/client.
It loads a library from Daily's servers when it starts, so it needs the internet.

Things to try:

* Say "change your voice". The next sentence has another voice, and nothing is cut.
* Mumble. The bot asks again at once, because the sidecar reports that a transcript was dropped.
* Stop the sidecar and start it again while you talk. The bot answers what you said in the meantime.

``python bot.py -t daily`` uses Daily instead of the browser (install ``pipecat-ai[daily]``). The other settings come
from the environment or from a file ``.env``; ``.env.example`` lists them.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from dotenv import load_dotenv
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import (
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TTSSpeakFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecat_slng_sidecar import SlngSTTService, SlngTTSService, SlngTTSSettings

load_dotenv(override=False)

GREETING = "Hello. I hear you through the sidecar. Ask me something."
ASK_AGAIN = "Sorry, I did not get that. Could you say it again?"
# Voices of Deepgram's Aura 2. The simulator accepts these names, too.
VOICES = ("aura-2-thalia-en", "aura-2-apollo-en", "aura-2-helena-en")


class ScriptedLLM(FrameProcessor):
    """Answers instead of a language model, so that the bot needs no key."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer the last message of an LLM context. Pass every other frame on."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        text = last_user_text(frame.context)
        await self.push_frame(LLMFullResponseStartFrame())
        if "voice" in text.lower():
            await self.push_frame(LLMTextFrame("I change my voice. "))
            # Pipecat speaks a sentence once the next one begins. This word begins the next sentence before the voice
            # changes, so the first sentence keeps the old voice.
            await self.push_frame(LLMTextFrame("From "))
            await self.push_frame(next_voice())
            await self.push_frame(LLMTextFrame("now on I sound like this."))
        else:
            await self.push_frame(LLMTextFrame(f"You said: {text}. " if text else "I am here. "))
            await self.push_frame(LLMTextFrame("Is there anything else?"))
        await self.push_frame(LLMFullResponseEndFrame())


def last_user_text(context: LLMContext) -> str:
    """Return the text of the user's last message, or an empty string."""
    for message in reversed(context.get_messages()):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            return content.strip(" .?!") if isinstance(content, str) else ""
    return ""


_voices = itertools.cycle([*VOICES[1:], VOICES[0]])


def next_voice() -> TTSUpdateSettingsFrame:
    """Return a frame that changes the voice of the sentences after it."""
    return TTSUpdateSettingsFrame(delta=SlngTTSSettings(voice=next(_voices)))


def secret(name: str) -> str | None:
    """Return a secret from the environment, or from the file that the variable ``<NAME>_FILE`` names."""
    path = os.getenv(f"{name}_FILE")
    return Path(path).read_text().strip() if path else os.getenv(name) or None


def language_model() -> FrameProcessor:
    """Return OpenAI's model if there is a key for it. Otherwise, return the script."""
    key = secret("OPENAI_API_KEY")
    if not key:
        logger.info("OPENAI_API_KEY is not set; a script answers instead of a language model")
        return ScriptedLLM()
    from pipecat.services.openai.llm import OpenAILLMService

    settings = OpenAILLMService.Settings(
        model=os.getenv("OPENAI_MODEL") or "gpt-4.1-mini",
        system_instruction=(
            "You are a helpful assistant in a spoken conversation. Answer in one or two short sentences, without any "
            "formatting. When you are asked for another voice, call change_voice."
        ),
    )
    llm = OpenAILLMService(api_key=key, settings=settings)

    async def change_voice(call: Any) -> None:
        await call.llm.push_frame(next_voice())
        await call.result_callback({"changed": True})

    llm.register_function("change_voice", change_voice)
    return llm


def tools() -> Any:
    """Return the functions that the model may call."""
    from pipecat.adapters.schemas.function_schema import FunctionSchema
    from pipecat.adapters.schemas.tools_schema import ToolsSchema

    description = "Speak with another voice from the next sentence on."
    return ToolsSchema(standard_tools=[FunctionSchema("change_voice", description, properties={}, required=[])])


async def run_bot(transport: BaseTransport) -> None:
    """Run the bot on a transport until its client leaves."""
    # The sidecar has the keys for speech. It may require a token from its clients.
    token = secret("SLNG_SIDECAR_TOKEN") or secret("SIDECAR_TOKEN")
    stt = SlngSTTService(
        model=os.getenv("SLNG_STT_MODEL") or "slng/deepgram/nova:3-en",
        sidecar_token=token,
    )
    tts = SlngTTSService(
        model=os.getenv("SLNG_TTS_MODEL") or "slng/deepgram/aura:2-en",
        voice=os.getenv("SLNG_TTS_VOICE") or VOICES[0],
        sidecar_token=token,
    )
    llm = language_model()
    context = LLMContext(tools=tools()) if not isinstance(llm, ScriptedLLM) else LLMContext()
    user, assistant = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), stt, user, llm, tts, transport.output(), assistant]),
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: Any) -> None:
        await worker.queue_frame(TTSSpeakFrame(GREETING))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: Any) -> None:
        await worker.cancel()

    @stt.event_handler("on_transcript_dropped")
    async def on_transcript_dropped(_stt: SlngSTTService, _transcript: str, confidence: float) -> None:
        logger.info(f"A transcript was dropped (confidence {confidence}); asking again")
        await worker.queue_frame(TTSSpeakFrame(ASK_AGAIN))

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


async def bot(arguments: Any) -> None:
    """Start a bot for a client. Pipecat's runner calls this function."""
    from pipecat.runner.types import DailyRunnerArguments, SmallWebRTCRunnerArguments

    transport: BaseTransport
    match arguments:
        case SmallWebRTCRunnerArguments():
            from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

            transport = SmallWebRTCTransport(
                webrtc_connection=arguments.webrtc_connection,
                params=TransportParams(audio_in_enabled=True, audio_out_enabled=True),
            )
        case DailyRunnerArguments():
            from pipecat.transports.daily.transport import DailyParams, DailyTransport

            transport = DailyTransport(
                arguments.room_url,
                arguments.token,
                "slng-sidecar bot",
                params=DailyParams(audio_in_enabled=True, audio_out_enabled=True),
            )
        case _:
            raise SystemExit("This bot supports the browser (-t webrtc) and Daily (-t daily) only.")
    await run_bot(transport)


if __name__ == "__main__":
    from fastapi.responses import FileResponse
    from pipecat.runner.run import app, main

    @app.get("/talk")
    async def talk() -> FileResponse:
        """Return the page to talk on."""
        return FileResponse(Path(__file__).with_name("talk.html"))

    logger.info("To talk offline, open /talk at the address below; the address itself opens Pipecat's own client")
    main()
