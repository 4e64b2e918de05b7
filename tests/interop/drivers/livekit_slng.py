"""Run one service of ``livekit-plugins-slng``. ``tests/support/drivers.py`` describes the commands."""
# mypy: ignore-errors

import asyncio
import base64
import json
import sys

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import slng

RATE = 16_000
BLOCK = RATE // 50 * 2


def emit(kind, **event):
    print(json.dumps({"is": kind, **event}), flush=True)


async def commands():
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


async def run_stt(service):
    stream = service.stream()

    async def report():
        try:
            async for event in stream:
                if event.type is stt.SpeechEventType.FINAL_TRANSCRIPT:
                    emit("final", text=event.alternatives[0].text)
        except Exception as error:
            emit("error", error=repr(error))
        emit("ended")

    reporting = asyncio.create_task(report())
    emit("started")
    async for command in commands():
        match command["do"]:
            case "transcribe":
                audio = base64.b64decode(command["audio"])
                for at in range(0, len(audio), BLOCK):
                    block = audio[at : at + BLOCK]
                    stream.push_frame(rtc.AudioFrame(block, RATE, 1, len(block) // 2))
            case "flush":
                stream.flush()
            case "update":
                stream.update_options(**command["settings"])
            case "end":
                stream.end_input()
    await stream.aclose()
    await reporting


async def run_tts(service):
    emit("started")
    async for command in commands():
        match command["do"]:
            case "prewarm":
                service.prewarm()
            case "speak":
                stream = service.stream()
                for text in command["texts"]:
                    stream.push_text(text)
                stream.end_input()
                try:
                    async for event in stream:
                        emit("audio", audio=base64.b64encode(event.frame.data).decode())
                except Exception as error:
                    emit("error", error=repr(error))
                await stream.aclose()
                emit("spoken")
            case "synthesize":
                try:
                    async for event in service.synthesize(command["text"]):
                        emit("audio", audio=base64.b64encode(event.frame.data).decode())
                except Exception as error:
                    emit("error", error=repr(error))
                emit("spoken")


async def main():
    options = json.loads(sys.argv[1])
    kind = options.pop("service")
    async with aiohttp.ClientSession() as session:
        service = (slng.STT if kind == "stt" else slng.TTS)(
            api_key="k", sample_rate=RATE, http_session=session, **options
        )
        service.on("slng_event", lambda event: emit(event.name, level=event.level))
        await (run_stt if kind == "stt" else run_tts)(service)
        if kind == "tts":
            await service.aclose()


asyncio.run(main())
