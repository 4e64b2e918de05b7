"""A spoken question to the example bot gets a spoken answer, offline, with a real voice and a real recognizer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from types import ModuleType

import numpy as np
import pytest
import soxr
from slng_sidecar.simulator import recognize, speak
from support.audio import at_speaking_level
from support.paths import ROOT
from support.processes import serving
from support.sentences import words_of
from support.transports import RoomTransport

pytestmark = pytest.mark.slow

BOT = ROOT / "plugin" / "examples" / "bot.py"
RATE = 16_000
WAIT = 25.0


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_bot", BOT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Visitor:
    """A visitor in the room, with a microphone that is always on and a recognizer for the bot's speech."""

    def __init__(self, room: RoomTransport) -> None:
        self._room = room
        self._speech: asyncio.Queue[bytes] = asyncio.Queue()
        self._played = 0

    async def send_microphone(self) -> None:
        """Send the visitor's speech, and silence between the sentences."""
        while True:
            pcm = self._speech.get_nowait() if not self._speech.empty() else bytes(int(RATE * 0.02) * 2)
            await self._room.speak(pcm, RATE)
            await asyncio.sleep(0.02 if not any(pcm) else 0)

    async def speak(self, text: str) -> None:
        self._speech.put_nowait(at_speaking_level(await asyncio.to_thread(speak, text)))

    async def next_answer(self) -> str:
        """Wait until the bot has spoken and been silent for a second, and return its words."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT):
            while len(self._room.played()) == self._played or loop.time() - self._room.last_audio < 1:
                await asyncio.sleep(0.1)
        audio = self._room.played()[self._played :]
        self._played += len(audio)
        text = await asyncio.to_thread(lambda: recognize(_at_rate(audio, self._room.out_rate)))
        return " ".join(words_of(text))


def _at_rate(pcm: bytes, rate: int) -> bytes:
    return bytes(soxr.resample(np.frombuffer(pcm, np.int16), rate, RATE).tobytes())


@contextlib.asynccontextmanager
async def visited_bot(monkeypatch: pytest.MonkeyPatch, **settings: str) -> AsyncIterator[Visitor]:
    """Run a sidecar with a simulator and the example bot in a room, and enter the room."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with serving("--simulate", cwd=None, **settings) as sidecar:
        monkeypatch.setenv("SLNG_SIDECAR_URL", sidecar.url)
        room = RoomTransport()
        running = asyncio.create_task(example().run_bot(room))
        there: asyncio.Task[None] | None = None
        try:
            await room.ready()
            await room.enter()
            visitor = Visitor(room)
            there = asyncio.create_task(visitor.send_microphone())
            yield visitor
            await room.leave()
            await asyncio.wait_for(running, WAIT)
        finally:
            running.cancel()
            if there is not None:
                there.cancel()


@pytest.mark.timeout(120)
async def test_a_spoken_question_gets_a_spoken_answer_and_the_voice_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with visited_bot(monkeypatch) as visitor:
        assert "ask me something" in await visitor.next_answer()
        await visitor.speak("Please call the front desk and ask for a quiet room.")
        assert "call the front desk and ask for a quiet room" in await visitor.next_answer()
        await visitor.speak("Please change your voice.")
        assert "voice" in await visitor.next_answer()


@pytest.mark.timeout(120)
async def test_the_bot_asks_again_if_a_transcript_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with visited_bot(monkeypatch, SIDECAR_CONFIDENCE_THRESHOLD="1") as visitor:
        await visitor.next_answer()
        await visitor.speak("Please call the front desk and ask for a quiet room.")
        assert "again" in await visitor.next_answer()
