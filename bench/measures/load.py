"""Load: the CPU time of the sidecar for each message with many sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from bench.clients import STT_INIT, TTS_INIT, Client, open_session
from bench.report import Part, Row
from bench.speech import numbered_speech, send_in_real_time
from bench.world import World, cpu_seconds, running_sidecar


async def measure(world: World) -> list[Part]:
    """Run 20, then 50 sessions with 50 messages of 640 bytes a second each, first up, then down.

    The measurement has a sidecar of its own, without the observer. Audio up is numbered speech, so finals come back.
    For audio down, the simulator sends audio in real time, 20 ms a message.

    * CPU a message: user and kernel time of the sidecar's process (``/proc/PID/stat``) from the first message to the
      last, divided by the number of messages.
    * CPU in all: the same time as a share of one core.
    * rate: messages per second. If it is below 50 per session, the machine could not keep up.
    """
    seconds = 2.0 if world.quick else 6.0
    rows = []
    async with running_sidecar(world.simulator) as (url, pid):
        for sessions in (5,) if world.quick else (20, 50):
            for direction, run in (("up", _up), ("down", _down)):
                model = await world.model(f"load-{direction}-{sessions}", pace=1, chunk_ms=20)
                cpu, messages, took = await run(url, pid, model, sessions, seconds)
                name = f"{sessions} sessions, audio {direction}"
                rows += [
                    Row(f"{name}: CPU a message", "us", [1e6 * cpu / messages], digits=1),
                    Row(f"{name}: CPU in all", "% of a core", [100 * cpu / took], digits=1),
                    Row(f"{name}: rate", "1/s", [messages / took]),
                ]
    return [Part("Load on the sidecar's process", "", rows)]


async def _up(url: str, pid: int, model: str, sessions: int, seconds: float) -> tuple[float, int, float]:
    speech = numbered_speech(11, seconds)
    async with _clients(url, "stt", model, sessions) as clients:

        async def run(index: int, client: Client) -> None:
            await asyncio.sleep(0.02 * index / sessions)
            await send_in_real_time(speech, client.send)

        before, start = cpu_seconds(pid), asyncio.get_running_loop().time()
        await asyncio.gather(*(run(index, client) for index, client in enumerate(clients)))
        return cpu_seconds(pid) - before, sessions * len(speech.frames), asyncio.get_running_loop().time() - start


async def _down(url: str, pid: int, model: str, sessions: int, seconds: float) -> tuple[float, int, float]:
    text = " ".join(f"n{number}" for number in range(1, round(seconds / 0.3) + 1))
    async with _clients(url, "tts", model, sessions) as clients:

        async def run(index: int, client: Client) -> None:
            await asyncio.sleep(0.02 * index / sessions)
            await client.send({"type": "text", "context_id": "a", "text": text})
            await client.send({"type": "flush", "context_id": "a"})
            await client.until(lambda: client.arrival("audio_end"), 3 * seconds + 5)

        before, start = cpu_seconds(pid), asyncio.get_running_loop().time()
        await asyncio.gather(*(run(index, client) for index, client in enumerate(clients)))
        messages = sum(len(client.audio) for client in clients)
        return cpu_seconds(pid) - before, messages, asyncio.get_running_loop().time() - start


@contextlib.asynccontextmanager
async def _clients(url: str, kind: str, model: str, sessions: int) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        init = STT_INIT if kind == "stt" else TTS_INIT
        opening = (
            stack.enter_async_context(open_session(url, kind, model, init, extended=True)) for _ in range(sessions)
        )
        yield await asyncio.gather(*opening)
