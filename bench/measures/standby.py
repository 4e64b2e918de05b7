"""Standby connections and the drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal as signals
import time
import urllib.request
from functools import partial
from typing import Any

from slng_sidecar.engines import signal

from bench.clients import RATE, STT_INIT, TTS_INIT, Client, open_session
from bench.measures.tts_update import SPEAKING, UTTERANCE
from bench.report import Part, Row
from bench.world import World, running_sidecar

_OPEN: dict[str, Any] = {"upgrade_ms": 300, "ready_ms": 300}
_CLEAR_MS = 400
_SESSIONS = 50
_NEXT = "n100 n101"
_TIMEOUT = 20.0


async def measure(world: World) -> list[Part]:
    """Measure how much time a standby connection saves if opening takes 600 ms, and what a drain loses.

    One session runs at a time, except for the drain. The right column is the same sidecar without standby connections,
    which the report calls spares.

    * client's dial to ready: from opening the client's connection until its ``ready``.
    * next text to its first audio, after an interruption: from sending the text until its first audio. Of that time,
      upstream takes 150 ms. Upstream also takes 400 ms to acknowledge the clear.

    For the drain, 50 sessions are speaking when the process receives SIGTERM.

    * utterances cut: how many texts were not received whole.
    * until the process had ended: counted from SIGTERM until every client's connection has closed.
    """
    ready_ms: list[list[float]] = []
    first_audio_ms: list[list[float]] = []
    for count in (1, 0):
        async with running_sidecar(world.observed, SIDECAR_STANDBY=str(count)) as (url, _):
            names = [f"standby-{count}-{index}" for index in range(world.runs)]
            ready_ms.append([await _time_to_ready(world, url, name, count) for name in names])
            first_audio_ms.append([await _time_after_interruption(world, url, name, count) for name in names])
    saved = [
        Row("client's dial to ready", "ms", ready_ms[0], ready_ms[1], digits=1),
        Row(
            "next text to its first audio, after an interruption", "ms", first_audio_ms[0], first_audio_ms[1], digits=1
        ),
    ]
    cut, seconds = await _drained(world)
    drain = [
        Row("sessions speaking at SIGTERM", "", [_SESSIONS]),
        Row("utterances cut", "", [cut]),
        Row("until the process had ended", "s", [seconds], digits=1),
    ]
    return [Part("Standby: 600 ms to open", "without spares", saved), Part("Drain", "", drain)]


async def _time_to_ready(world: World, url: str, name: str, count: int) -> float:
    model = await world.model(f"{name}-stt", **_OPEN)
    async with open_session(url, "stt", model, STT_INIT, extended=True):
        await _wait_for_standby(url, count)
        start = time.monotonic()
        async with open_session(url, "stt", model, STT_INIT, extended=True):
            return 1000 * (time.monotonic() - start)


async def _time_after_interruption(world: World, url: str, name: str, count: int) -> float:
    model = await world.model(f"{name}-tts", clear_ms=_CLEAR_MS, **_OPEN, **SPEAKING)
    async with open_session(url, "tts", model, TTS_INIT, extended=True) as client:
        await _wait_for_standby(url, count)
        await _send_context(client, "a", UTTERANCE)
        await client.until(lambda: client.audio_by_context.get("a"))
        await client.send({"type": "clear", "context_id": "a"})
        sent = await _send_context(client, "b", _NEXT)
        await client.until(lambda: client.audio_by_context.get("b"))
        return 1000 * (client.audio_by_context["b"][0][0] - sent)


async def _send_context(client: Client, context_id: str, text: str) -> float:
    sent = await client.send({"type": "text", "context_id": context_id, "text": text})
    await client.send({"type": "flush", "context_id": context_id})
    return sent


async def _wait_for_standby(url: str, count: int) -> None:
    """Wait until all standby connections are ready. Return at once if there are none."""
    while count:
        status = json.loads(await asyncio.to_thread(_get, f"{url}/v1/status"))["standby"]
        if status["ready"] and not status["opening"]:
            return
        await asyncio.sleep(0.02)


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_TIMEOUT) as reply:
        body: bytes = reply.read()
        return body


async def _drained(world: World) -> tuple[float, float]:
    model = await world.model("drain", **{**SPEAKING, "pace": 1})
    async with running_sidecar(world.simulator) as (url, pid), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_session(url, "tts", model, TTS_INIT, extended=True))
            for _ in range(_SESSIONS)
        ]
        for client in clients:
            await _send_context(client, "a", UTTERANCE)
        for client in clients:
            await client.until(partial(client.audio_by_context.get, "a"))
        start = time.monotonic()
        os.kill(pid, signals.SIGTERM)
        for client in clients:
            await client.until(partial(getattr, client, "closed"), _TIMEOUT)
        seconds = time.monotonic() - start
        expected = [word.number for word in signal.words_of_text(UTTERANCE)]
        return float(sum(_whole_words(client) != expected for client in clients)), seconds


def _whole_words(client: Client) -> list[int]:
    words = signal.decode(b"".join(data for _, data in client.audio_by_context["a"]), RATE)
    return [word.number for word in words if word.whole]
