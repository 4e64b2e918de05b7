"""A user talks to the example bot in a browser: a real Chromium whose microphone plays a file, offline."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bots import free_port
from support.browsers import ADDRESSES, WAIT, ask_question, browser_page, write_question
from support.paths import ROOT
from support.processes import environment, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

BOT = ROOT / "plugin" / "examples" / "bot.py"


@contextlib.asynccontextmanager
async def bot_process(*arguments: str, until: str, **env: str) -> AsyncIterator[str]:
    """Run the example bot while the block runs, and yield its output up to ``until``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, BOT, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**environment(**env), "OPENAI_API_KEY": "", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    output = ""
    reading: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(WAIT):
            while until not in output:
                line = await process.stdout.readline()
                assert line, output
                output += line.decode()
        # The bot continues to log, and a full pipe would stop it.
        reading = asyncio.create_task(process.stdout.read())
        yield output
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


async def test_a_question_into_the_microphone_is_answered_by_the_loudspeaker(tmp_path: Path) -> None:
    await asyncio.to_thread(write_question, tmp_path / "question.wav")
    port = free_port()
    async with (
        serving("--simulate", cwd=tmp_path) as sidecar,
        bot_process("--port", str(port), until="Uvicorn running", SLNG_SIDECAR_URL=sidecar.url),
        browser_page(tmp_path / "question.wav") as page,
    ):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        words = await ask_question(page, f"http://localhost:{port}")
        assert "call the front desk and ask for a quiet room" in words
        await page.screenshot(path=tmp_path / "talk.png")

        addresses = await page.evaluate(ADDRESSES)
        assert addresses
        assert {kind for kind, _ in addresses} <= {"host", "prflx"}, "an outside server was asked for an address"
        assert all(url.startswith(f"http://localhost:{port}/") for url in asked), asked
        await page.get_by_role("button", name="Hang up").click()
        await page.get_by_text("not connected").wait_for()


async def test_daily_without_its_package_names_what_to_install() -> None:
    async with bot_process("-t", "daily", "--port", str(free_port()), until="Daily disabled") as output:
        assert re.search(r"install pipecat-ai\[daily\]", output)
