"""Somebody talks to the example bot in a browser: a real Chromium whose microphone plays a file, offline."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import shutil
import signal
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bots import free_port
from processes import environment, need, serving
from slng_sidecar.simulator import recognise, speak

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

BOT = Path(__file__).parents[2] / "plugin" / "examples" / "bot.py"
QUESTION = "Please call the front desk and ask for a quiet room."
RATE = 16_000
WAIT = 60.0

# Keeps the sound that comes from the bot as it is played, at 16 kHz, in ``heard``.
LISTEN = """async () => {
  const voice = document.getElementById("voice");
  while (!voice.srcObject) await new Promise((done) => setTimeout(done, 20));
  const context = new AudioContext({ sampleRate: 16000 });
  const tap = context.createScriptProcessor(4096, 1, 1);
  window.heard = [];
  tap.onaudioprocess = ({ inputBuffer }) => heard.push(inputBuffer.getChannelData(0).slice());
  context.createMediaStreamSource(voice.srcObject).connect(tap);
  tap.connect(context.destination);
}"""
# Whether sound has come after the first pieces, and silence of 2 s after that.
HAS_SPOKEN = """(first) => {
  const sounds = (piece) => piece.some((sample) => Math.abs(sample) > 0.005);
  const since = heard.slice(first);
  return since.some(sounds) && !since.slice(-8).some(sounds);
}"""
HEARD = """(first) => {
  const all = new Int16Array(heard.slice(first).flatMap((piece) => Array.from(piece, (sample) => sample * 32767)));
  let text = "";
  for (const byte of new Uint8Array(all.buffer)) text += String.fromCharCode(byte);
  return btoa(text);
}"""
ADDRESSES = """async () => {
  const found = [];
  for (const stat of (await peer.getStats()).values())
    if (stat.type.endsWith("-candidate")) found.push([stat.candidateType, stat.address]);
  return found;
}"""


@contextlib.asynccontextmanager
async def bot_process(*arguments: str, until: str, **env: str) -> AsyncIterator[str]:
    """Run the example bot while the block runs; give what it had said when ``until`` was among it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, BOT, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**environment(**env), "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    said = ""
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(WAIT):
            while until not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        # It goes on to log, and a full pipe would stop it.
        reading = asyncio.create_task(process.stdout.read())
        yield said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if reading is not None:
            await reading


@contextlib.asynccontextmanager
async def browser_page(microphone: Path) -> AsyncIterator[Page]:
    """Open a page in a Chromium that plays a file as its microphone, and that finds nothing but this machine."""
    from playwright.async_api import async_playwright

    need("chromium")
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
        # Else the machine's own addresses are names, which are looked up by multicast.
        "--disable-features=WebRtcHideLocalIpsWithMdns",
        "--no-sandbox",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


def write_question(path: Path) -> None:
    """Write a microphone's sound: time for the greeting, a question, and time for its answer; it plays in a loop."""
    samples = np.frombuffer(speak(QUESTION), np.int16).astype(np.float64)
    # As loud as somebody near the microphone: a VAD does not listen to whispers.
    loud = (samples * (25_000 / np.abs(samples).max())).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(2 * RATE * 8) + loud.tobytes() + bytes(2 * RATE * 20))


async def test_a_question_into_the_microphone_is_answered_by_the_loudspeaker(tmp_path: Path) -> None:
    write_question(tmp_path / "question.wav")
    port = free_port()
    async with (
        serving("--simulate", cwd=tmp_path) as sidecar,
        bot_process("--port", str(port), until="Uvicorn running", SLNG_SIDECAR_URL=sidecar.url),
        browser_page(tmp_path / "question.wav") as page,
    ):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"http://localhost:{port}/talk")
        await page.get_by_role("button", name="Talk").click()
        await page.evaluate(LISTEN)
        await page.get_by_text("Ask me something").wait_for(timeout=WAIT * 1000)
        await page.locator(".you").first.wait_for(timeout=WAIT * 1000)
        asked_at = await page.evaluate("heard.length")
        answer = page.locator(".bot", has_text="You said: please call the front desk and ask for a quiet room")
        await answer.wait_for(timeout=WAIT * 1000)
        assert "please call the front desk" in await page.locator(".you").first.inner_text()
        await page.wait_for_function(HAS_SPOKEN, arg=asked_at, timeout=WAIT * 1000)
        sound = base64.b64decode(await page.evaluate(HEARD, asked_at))
        words = await asyncio.to_thread(recognise, sound)
        assert "call the front desk and ask for a quiet room" in words
        await page.screenshot(path=tmp_path / "talk.png")

        addresses = await page.evaluate(ADDRESSES)
        assert addresses
        assert {kind for kind, _ in addresses} <= {"host", "prflx"}, "a server outside was asked for an address"
        assert all(url.startswith(f"http://localhost:{port}/") for url in asked), asked
        await page.get_by_role("button", name="Hang up").click()
        await page.get_by_text("not connected").wait_for()


async def test_daily_without_its_package_says_what_to_install() -> None:
    async with bot_process("-t", "daily", "--port", str(free_port()), until="Daily disabled") as said:
        assert re.search(r"install pipecat-ai\[daily\]", said)
