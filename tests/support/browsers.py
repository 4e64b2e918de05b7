"""A real Chromium whose microphone plays a file, with the page of the example bot."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from slng_sidecar.simulator import recognize, speak

from support.audio import at_speaking_level
from support.processes import need
from support.sentences import words_of

if TYPE_CHECKING:
    from playwright.async_api import Page

QUESTION = "Please call the front desk and ask for a quiet room."
RATE = 16_000
WAIT = 60.0

# Keeps the bot's audio as it is played, at 16 kHz, in ``played``.
LISTEN = """async () => {
  const voice = document.getElementById("voice");
  while (!voice.srcObject) await new Promise((done) => setTimeout(done, 20));
  const context = new AudioContext({ sampleRate: 16000 });
  const tap = context.createScriptProcessor(4096, 1, 1);
  window.played = [];
  tap.onaudioprocess = ({ inputBuffer }) => played.push(inputBuffer.getChannelData(0).slice());
  context.createMediaStreamSource(voice.srcObject).connect(tap);
  tap.connect(context.destination);
}"""
# Reports whether audio came after the first pieces and was followed by 2 s of silence.
HAS_SPOKEN = """(first) => {
  const isLoud = (piece) => piece.some((sample) => Math.abs(sample) > 0.005);
  const since = played.slice(first);
  return since.some(isLoud) && !since.slice(-8).some(isLoud);
}"""
PLAYED = """(first) => {
  const all = new Int16Array(played.slice(first).flatMap((piece) => Array.from(piece, (sample) => sample * 32767)));
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
async def browser_page(microphone: Path) -> AsyncIterator[Page]:
    """Open a page in a Chromium that plays a file as its microphone and resolves no host except this machine."""
    from playwright.async_api import async_playwright

    need("chromium")
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
        # Otherwise the machine's own addresses are names, which are resolved by multicast.
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
    """Write the microphone's audio: time for the greeting, a question, and time for its answer. It plays in a loop."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(bytes(2 * RATE * 8) + at_speaking_level(speak(QUESTION)) + bytes(2 * RATE * 20))


async def ask_question(page: Page, address: str) -> str:
    """Open the bot's page, connect, and return the recognized words of its answer to the microphone's question."""
    await page.goto(f"{address}/talk")
    await page.get_by_role("button", name="Talk").click()
    await page.evaluate(LISTEN)
    await page.get_by_text("Ask me something").wait_for(timeout=WAIT * 1000)
    await page.locator(".you").first.wait_for(timeout=WAIT * 1000)
    asked_at = await page.evaluate("played.length")
    answer = page.locator(".bot", has_text="You said: please call the front desk and ask for a quiet room")
    await answer.wait_for(timeout=WAIT * 1000)
    assert "Please call the front desk" in await page.locator(".you").first.inner_text()
    await page.wait_for_function(HAS_SPOKEN, arg=asked_at, timeout=WAIT * 1000)
    audio = base64.b64decode(await page.evaluate(PLAYED, asked_at))
    return " ".join(words_of(await asyncio.to_thread(recognize, audio)))
