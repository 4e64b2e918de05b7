"""Spare connections, and the drain."""

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

from bench.clients import RATE, STT_INIT, TTS_INIT, Client, talking
from bench.measures.tts_update import SPEAKING, UTTERANCE
from bench.report import Part, Row
from bench.world import World, running_sidecar

_OPEN: dict[str, Any] = {"upgrade_ms": 300, "ready_ms": 300}
_CLEAR_MS = 400
_SESSIONS = 50
_NEXT = "n100 n101"
_WITHIN_SECONDS = 20.0


async def measure(world: World) -> list[Part]:
    """Measure what a spare connection saves, with 600 ms to open one, and what a drain costs.

    One session at a time, but for the drain; "other" is the same sidecar without spares.

    * ready: from the client's dial to its ``ready``.
    * first audio after an interruption: from the next text to its first sound; upstream's own takes 150 ms, and 400 ms
      to acknowledge the clear.
    * drain: 50 sessions are speaking when the process gets SIGTERM; utterances that were not heard whole, and how long
      it took until the process had ended.
    """
    readies: list[list[float]] = []
    firsts: list[list[float]] = []
    for spares in (1, 0):
        async with running_sidecar(world.observed, SIDECAR_STANDBY=str(spares)) as (url, _):
            names = [f"standby-{spares}-{index}" for index in range(world.runs)]
            readies.append([await _ready(world, url, name, spares) for name in names])
            firsts.append([await _interrupted(world, url, name, spares) for name in names])
    saved = [
        Row("client's dial to ready", "ms", readies[0], readies[1], digits=1),
        Row("next text to its first audio, after an interruption", "ms", firsts[0], firsts[1], digits=1),
    ]
    cut, seconds = await _drained(world)
    drain = [
        Row("sessions speaking at SIGTERM", "", [_SESSIONS]),
        Row("utterances cut", "", [cut]),
        Row("until the process had ended", "s", [seconds], digits=1),
    ]
    return [Part("Standby: 600 ms to open", "without spares", saved), Part("Drain", "", drain)]


async def _ready(world: World, url: str, name: str, spares: int) -> float:
    model = await world.model(f"{name}-stt", **_OPEN)
    async with talking(url, "stt", model, STT_INIT, extended=True):
        await _spare(url, spares)
        start = time.monotonic()
        async with talking(url, "stt", model, STT_INIT, extended=True):
            return 1000 * (time.monotonic() - start)


async def _interrupted(world: World, url: str, name: str, spares: int) -> float:
    model = await world.model(f"{name}-tts", clear_ms=_CLEAR_MS, **_OPEN, **SPEAKING)
    async with talking(url, "tts", model, TTS_INIT, extended=True) as client:
        await _spare(url, spares)
        await _say(client, "a", UTTERANCE)
        await client.until(lambda: client.labelled.get("a"))
        await client.send({"type": "clear", "context_id": "a"})
        sent = await _say(client, "b", _NEXT)
        await client.until(lambda: client.labelled.get("b"))
        return 1000 * (client.labelled["b"][0][0] - sent)


async def _say(client: Client, context_id: str, text: str) -> float:
    sent = await client.send({"type": "text", "context_id": context_id, "text": text})
    await client.send({"type": "flush", "context_id": context_id})
    return sent


async def _spare(url: str, spares: int) -> None:
    """Wait until all spares are ready."""
    while spares:
        status = json.loads(await asyncio.to_thread(_get, f"{url}/v1/status"))["standby"]
        if status["ready"] and not status["opening"]:
            return
        await asyncio.sleep(0.02)


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_WITHIN_SECONDS) as reply:
        body: bytes = reply.read()
        return body


async def _drained(world: World) -> tuple[float, float]:
    model = await world.model("drain", **{**SPEAKING, "pace": 1})
    async with running_sidecar(world.simulator) as (url, pid), contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(talking(url, "tts", model, TTS_INIT, extended=True))
            for _ in range(_SESSIONS)
        ]
        for client in clients:
            await _say(client, "a", UTTERANCE)
        for client in clients:
            await client.until(partial(client.labelled.get, "a"))
        start = time.monotonic()
        os.kill(pid, signals.SIGTERM)
        for client in clients:
            await client.until(partial(getattr, client, "closed"), _WITHIN_SECONDS)
        seconds = time.monotonic() - start
        whole = [word.number for word in signal.words_of_text(UTTERANCE)]
        return float(sum(_heard(client) != whole for client in clients)), seconds


def _heard(client: Client) -> list[int]:
    words = signal.decode(b"".join(data for _, data in client.labelled["a"]), RATE)
    return [word.number for word in words if word.whole]
