"""Bots with the plugin's services, and the sidecar and the simulator as separate processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import InputAudioRawFrame

from support.pipelines import RunningPipeline
from support.processes import Running, started

SIGNAL = "slng/simulator/signal:1"
FRAME = 0.02


@dataclass(slots=True)
class SimulatorProcess:
    """A simulator in a separate process."""

    running: Running
    url: str

    async def inject(self, **fault: Any) -> None:
        """Inject a fault."""
        await asyncio.to_thread(self._ask, "POST", "/_sim/faults", json.dumps(fault).encode())

    async def remove_faults(self) -> None:
        """Remove all faults."""
        await asyncio.to_thread(self._ask, "DELETE", "/_sim/faults", None)

    async def log(self) -> list[dict[str, Any]]:
        """Return the records of its log."""
        answer = await asyncio.to_thread(self._ask, "GET", "/_sim/log", None)
        records: list[dict[str, Any]] = json.loads(answer)["records"]
        return records

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(self.url.replace("ws:", "http:") + path, data=body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


@contextlib.asynccontextmanager
async def simulator_process(**profile: Any) -> AsyncIterator[SimulatorProcess]:
    """Run ``slng-sidecar simulate`` with the numbered signal. ``profile`` has the fields of ``--set``."""
    sets = [part for name, value in profile.items() for part in ("--set", f"{name}={value}")]
    async with started("simulate", "--port", "0", "--speech", "signal", *sets) as running:
        yield SimulatorProcess(running, (await running.says(r"at (ws://\S+)")).group(1))


@contextlib.asynccontextmanager
async def sidecar_process(upstream: str, port: int, **settings: str) -> AsyncIterator[Running]:
    """Run ``slng-sidecar serve`` with an upstream on a port."""
    env = {"SLNG_API_KEY": "a-key-of-slng", "SLNG_BASE_URL": upstream, **settings}
    async with started("serve", "--port", str(port), cwd=None, **env) as running:
        running.url = (await running.says(r"slng-sidecar \S+ at (http://\S+?),?\s")).group(1)
        yield running


def free_port() -> int:
    """Return a port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def speak_at_pace(pipeline: RunningPipeline, frames: Sequence[InputAudioRawFrame]) -> None:
    """Send audio at the pace of a microphone, one frame every 20 ms."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number, frame in enumerate(frames):
        await asyncio.sleep(start + number * FRAME - loop.time())
        await pipeline.send(frame)
