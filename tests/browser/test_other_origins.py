"""A web page of another origin, in a real Chromium, tries to use a sidecar on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from support.processes import need
from support.running import AURA, NOVA, gateway_and_simulator

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.browser

STT = f"/v1/bridges/unmute/stt/{NOVA}"
TTS = f"/v1/bridges/unmute/tts/{AURA}"

# Reports whether a WebSocket opened.
CONNECT = """([url, protocols]) => new Promise((done) => {
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => { socket.close(); done(true); };
  socket.onerror = () => done(false);
})"""
# Reports the text that a fetch returned if the page may read it, or the error otherwise.
FETCH = """([url, options]) => fetch(url, options).then(
  (reply) => reply.type === "opaque" ? "opaque" : reply.text().then((text) => reply.status + " " + text),
  (error) => String(error))"""
# A form needs no permission to be sent. The reply goes into a frame.
SUBMIT = """(url) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.name = "there";
  document.body.append(frame);
  const form = document.createElement("form");
  Object.assign(form, { action: url, method: "post", enctype: "text/plain", target: "there" });
  const field = document.createElement("input");
  Object.assign(field, { name: '{"text": "n1", "x": "', value: '"}' });
  form.append(field);
  document.body.append(form);
  frame.onload = () => done(true);
  form.submit();
})"""


@contextlib.asynccontextmanager
async def page_of_another_site() -> AsyncIterator[str]:
    """Serve an empty page and yield its origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            body = b"<!doctype html><title>elsewhere</title><body></body>"
            lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}", "Connection: close"]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://localhost:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """Open a page in a Chromium that resolves ``rebound.example`` to this machine, as after DNS rebinding."""
    from playwright.async_api import async_playwright

    need("chromium")
    rules = "MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[f"--host-resolver-rules={rules}", "--no-sandbox"]
        )
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


async def connects(page: Page, url: str, *protocols: str) -> bool:
    opened: bool = await page.evaluate(CONNECT, [url.replace("http", "ws") + STT, list(protocols)])
    return opened


async def fetched(page: Page, url: str, **options: Any) -> str:
    text: str = await page.evaluate(FETCH, [url, options])
    return text


async def test_a_page_of_another_origin_reads_nothing_and_triggers_nothing() -> None:
    async with gateway_and_simulator() as (url, simulator), page_of_another_site() as elsewhere, chromium() as page:
        await page.goto(elsewhere)
        assert not await connects(page, url)
        assert not await connects(page, url, "slng-sidecar.v1")
        output = '{"text": "n1"}'
        assert "Failed to fetch" in await fetched(page, f"{url}/v1/status")
        assert "Failed to fetch" in await fetched(page, f"{url}{TTS}", method="POST", body=output)
        assert await fetched(page, f"{url}{TTS}", method="POST", body=output, mode="no-cors") == "opaque"
        assert await page.evaluate(SUBMIT, url + TTS)
        assert simulator.log.dials == 0
        assert not simulator.log.of("http")


async def test_a_name_that_was_rebound_to_this_machine_gets_nothing() -> None:
    async with gateway_and_simulator() as (url, simulator), chromium() as page:
        there = f"http://rebound.example:{urlsplit(url).port}"
        reply = await page.goto(f"{there}/")
        assert reply is not None
        assert reply.status == 403
        assert (await fetched(page, "/v1/status")).startswith("403 ")
        assert (await fetched(page, TTS, method="POST", body='{"text": "n1"}')).startswith("403 ")
        assert not await connects(page, there)
        assert simulator.log.dials == 0
        assert not simulator.log.of("http")


async def test_the_sidecars_own_page_and_an_allowed_origin_have_access() -> None:
    async with page_of_another_site() as elsewhere, chromium() as page:
        async with gateway_and_simulator(sidecar_allowed_origins=elsewhere) as (url, _):
            await page.goto(elsewhere)
            assert await connects(page, url)
        async with gateway_and_simulator() as (url, simulator):
            await page.goto(url)
            assert await connects(page, url)
            assert (await fetched(page, TTS, method="POST", body='{"text": "n1"}')).startswith("200 ")
            assert simulator.log.of("http")
