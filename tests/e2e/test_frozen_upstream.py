"""The upstream process is frozen for ten seconds under twenty sessions, killed, and replaced by another one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal as signals
from collections import Counter
from typing import Any

import pytest
from slng_sidecar.engines import signal
from support import stt_runs, tts_runs
from support.processes import serving, started
from support.running import Talk, talking
from websockets.exceptions import ConnectionClosed

SESSIONS = 10  # sessions of each kind
FROZEN_SECONDS = 10.0
MODEL = "slng/simulator/signal:1"
EXTENDED = "slng-sidecar.v1"
SETS = {"upgrade_ms": 50, "ready_ms": 20, "first_audio_ms": 50, "pace": 2, "final_ms": 100, "idle_s": 0}
SETTINGS: dict[str, Any] = {"SIDECAR_FIRST_AUDIO_TIMEOUT": "20", "SIDECAR_TERMINAL_TIMEOUT": "20"}

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(180)]


async def transcribe(talk: Talk, number: int, back: asyncio.Event) -> Counter[str]:
    """Send speech until upstream is back. Every word must be transcribed once and every finalize answered."""
    run = stt_runs.Troubled(talk, random.Random(number), pace=1, answer_within=4)
    words = [signal.SignalWord(each, frames=10, gap=20 if each % 4 == 0 else 3) for each in range(1, 121)]
    pcm = signal.encode(words, stt_runs.RATE)
    await talk.send(stt_runs.INIT)
    listening = asyncio.create_task(run.listen())
    await run.send_speech(pcm)
    assert back.is_set(), "the fault did not occur in the middle of the speech"
    await run.end(listening, within=30)
    assert run.fatal is None, run.fatal
    run.check([word.number for word in words], exact=True)
    return Counter(f"finalize {answer['outcome']}" for answer in run.of("finalized"))


async def speak(talk: Talk, number: int, back: asyncio.Event) -> Counter[str]:
    """Speak contexts one after the other. A context that had audio at the fault fails, and any other one is whole."""
    run = tts_runs.Troubled(talk, random.Random(number))
    await talk.send(tts_runs.INIT)
    listening = asyncio.create_task(run.listen())
    count = 0
    with contextlib.suppress(ConnectionClosed):
        while count < 200 and not (back.is_set() and count > 40):
            name = f"c{len(run.words)}"
            run.words[name] = list(range(count + 1, count + 6))
            count += 5
            text = " ".join(f"n{each}" for each in run.words[name])
            await talk.send({"type": "text", "context_id": name, "text": text}, {"type": "flush", "context_id": name})
            await asyncio.sleep(0.7)
    await run.finish(listening, within=90)
    assert run.fatal is None, run.fatal
    run.check()
    return Counter(f"context {context.reason}" for context in run.contexts.values())


async def test_no_promise_is_broken_if_a_frozen_upstream_is_replaced() -> None:
    sets = [part for name, value in SETS.items() for part in ("--set", f"{name}={value}")]
    back = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(started("simulate", "--port", "0", "--speech", "signal", *sets))
        upstream = (await first.says(r"at (ws://\S+)")).group(1)
        settings = {"SLNG_API_KEY": "a-key-of-slng", "SLNG_BASE_URL": upstream, **SETTINGS}
        sidecar = await stack.enter_async_context(serving(**settings))

        async def one(number: int) -> Counter[str]:
            kind, bot = ("stt", transcribe) if number % 2 else ("tts", speak)
            async with talking(sidecar.url, kind, MODEL, subprotocol=EXTENDED) as talk:
                return await bot(talk, number, back)

        sessions = [asyncio.create_task(one(number)) for number in range(2 * SESSIONS)]
        await asyncio.sleep(4)
        first.process.send_signal(signals.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        first.process.kill()
        await first.ends()
        first.code = 0  # the process was meant to end so
        port = upstream.rpartition(":")[2]
        await stack.enter_async_context(started("simulate", "--port", port, "--speech", "signal", *sets))
        back.set()
        results = await asyncio.gather(*sessions, return_exceptions=True)
    broken = [result for result in results if isinstance(result, BaseException)]
    assert not broken, "\n".join(repr(each)[:600] for each in broken)
    seen = sum((result for result in results if isinstance(result, Counter)), Counter[str]())
    print(dict(seen))
    assert seen["context completed"] > 5 * SESSIONS
