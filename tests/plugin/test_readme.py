"""The plugin's README agrees with the code."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pipecat.frames.frames import (
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat_slng_sidecar import SlngHttpTTSService, SlngSTTService, SlngTTSService, connection, http_tts, stt
from support.audio import at_speaking_level
from support.paths import ROOT
from support.processes import serving
from support.transports import RoomTransport

README = (ROOT / "plugin" / "README.md").read_text()
RATE = 16_000
WAIT = 30.0


class Repeater(FrameProcessor):
    """Answers an LLM context with the user's last message."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if not isinstance(frame, LLMContextFrame):
            await self.push_frame(frame, direction)
            return
        last: Any = frame.context.get_messages()[-1]
        await self.push_frame(LLMFullResponseStartFrame())
        await self.push_frame(LLMTextFrame(f"You said: {last['content']}."))
        await self.push_frame(LLMFullResponseEndFrame())


def ask(url: str, body: bytes, **headers: str) -> bytes:
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT) as reply:
        answer: bytes = reply.read()
    return answer


def speech_of(sidecar: str, text: str) -> bytes:
    """Return speech of the sidecar, as loud as somebody near the microphone, since a VAD ignores quiet speech."""
    body = json.dumps({"text": text, "config": {"sample_rate": RATE}}).encode()
    pcm = ask(f"{sidecar}/v1/bridges/unmute/tts/slng/deepgram/aura:2-en", body, Accept="audio/pcm")
    return at_speaking_level(pcm)


def recognized(sidecar: str, pcm: bytes, rate: int) -> str:
    header = f"audio/l16; rate={rate}; channels=1"
    reply = ask(f"{sidecar}/v1/bridges/unmute/stt/slng/deepgram/nova:3-en", pcm, **{"Content-Type": header})
    return str(json.loads(reply))


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_bot_in_the_readme_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "plugin/README.md", "exec"), names)
    async with serving("--simulate", cwd=tmp_path) as sidecar:
        monkeypatch.setenv("SLNG_SIDECAR_URL", sidecar.url)
        question = await asyncio.to_thread(
            speech_of, sidecar.url, "Please call the front desk and ask for a quiet room."
        )
        room = RoomTransport()
        running = asyncio.create_task(names["run_bot"](room, Repeater()))
        try:
            await room.ready()
            await room.enter()
            await room.speak(bytes(RATE) + question + bytes(RATE * 4), RATE)
            async with asyncio.timeout(WAIT):
                while not room.played() or asyncio.get_running_loop().time() - room.last_audio < 1:
                    await room.speak(bytes(640), RATE)
            answer = await asyncio.to_thread(recognized, sidecar.url, room.played(), room.out_rate)
            assert "call the front desk and ask for a quiet room" in answer.lower()
            await room.leave()
            await asyncio.wait_for(running, WAIT)
        finally:
            running.cancel()


def test_the_arguments_in_the_readme_are_those_of_the_services() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (x?) ?\| (x?) ?\| (x?) ?\|", README, re.MULTILINE)
    assert rows
    for column, service in enumerate((SlngSTTService, SlngTTSService, SlngHttpTTSService), start=1):
        listed = {name for row in rows if row[column] for name in re.findall(r"\w+", row[0])}
        taken = set(inspect.signature(service).parameters) - {"kwargs"}
        assert listed == taken, service.__name__


def test_the_numbers_in_the_readme_are_those_of_the_code() -> None:
    away = README.partition("## When the sidecar is away")[2].partition("\n## ")[0]
    first, longest = round(connection.FIRST_WAIT * 1000), round(connection.LONGEST_WAIT * 1000)
    assert f"after {first} ms, then twice as long each time up to {longest} ms" in away
    assert f"After {connection.GIVE_UP_AFTER:.0f} s, and at once" in away
    assert f"every {connection.WAIT_AFTER_GIVING_UP:.0f} s" in away
    assert f"the last {stt._REPLAY_SECONDS:.0f} s of audio" in away
    assert f"waited for up to {http_tts._WAIT_FOR_SIDECAR:.0f} s" in away
    assert f"up to {stt._FINISH_TIMEOUT:.0f} s for the last words" in away
