"""The processes of a benchmark: a simulator, an observer in front of it, and a sidecar in front of that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.wire import Wire

COMMAND = Path(sys.executable).with_name("slng-sidecar")
_WAIT = 30.0
_STOP = 5.0


@dataclass
class World:
    """The addresses of the processes and the options of the benchmark.

    Attributes:
        simulator: the simulator's own address, for clients that the observer must not see.
        simulator_pid: the process id of the simulator.
        observed: the address of the simulator through the observer.
        sidecar: the address of the sidecar, whose upstream is ``observed``.
        wire: the observer's record.
        runs: how many times each measurement runs.
        quick: whether to make fewer and shorter runs.
    """

    simulator: str
    simulator_pid: int
    observed: str
    sidecar: str
    wire: Wire
    runs: int
    quick: bool
    _models: set[str] = field(default_factory=set)

    async def model(self, name: str, **profile: Any) -> str:
        """Return a model that no other measurement uses, so that its connections can be identified.

        Args:
            name: the last part of the model's name. It must not have been used before.
            **profile: fields of the model's route profile.
        """
        model = f"slng/simulator/signal:{name}"
        assert model not in self._models, model
        self._models.add(model)
        if profile:
            await self.inject(do="profile", when="upgrade", model=model, times=0, set=profile)
        return model

    async def inject(self, **fault: Any) -> None:
        """Add a fault to the simulator."""
        request = urllib.request.Request(f"{self.simulator}/_sim/faults", data=json.dumps(fault).encode())
        await asyncio.to_thread(_open, request)


def _open(request: urllib.request.Request) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_WAIT):
        pass


@contextlib.asynccontextmanager
async def running_world(*, runs: int, quick: bool) -> AsyncIterator[World]:
    """Run the processes while the block runs. All of them have ended when the block has."""
    async with contextlib.AsyncExitStack() as stack:
        simulator, pid = await stack.enter_async_context(running_simulator())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = directory / "observed"
        observer = await stack.enter_async_context(
            _running(sys.executable, "-m", "bench.observer", simulator.rpartition(":")[2], str(path), ended_by="stdin")
        )
        assert observer.stdout is not None
        observed = f"http://127.0.0.1:{int(await observer.stdout.readline())}"
        sidecar, _ = await stack.enter_async_context(running_sidecar(observed))
        yield World(simulator, pid, observed, sidecar, Wire(observer, path), runs, quick)


@contextlib.asynccontextmanager
async def running_simulator() -> AsyncIterator[tuple[str, int]]:
    """Run ``slng-sidecar simulate`` while the block runs, and yield its address and process id."""
    async with _running(
        str(COMMAND), "simulate", "--child", "--port", "0", "--speech", "signal",
        "--set", "upgrade_ms=300", "--set", "ready_ms=300", "--set", "max_s=0", "--set", "idle_s=0",
        ended_by="stdin",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        async with asyncio.timeout(_WAIT):
            line = await process.stdout.readline()
        yield json.loads(line)["url"].replace("ws:", "http:"), process.pid


@contextlib.asynccontextmanager
async def running_sidecar(upstream: str, **settings: str) -> AsyncIterator[tuple[str, int]]:
    """Run ``slng-sidecar serve`` with an upstream and settings, and yield its address and process id."""
    async with _running(
        str(COMMAND), "serve", "--port", "0",
        ended_by="SIGTERM", SLNG_BASE_URL=upstream.replace("http:", "ws:"), SLNG_API_KEY="key-of-the-bench", **settings,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        log = ""
        async with asyncio.timeout(_WAIT):
            while (found := re.search(r"slng-sidecar \S+ at (http://\S+?),?\s", log)) is None:
                line = await process.stderr.readline()
                assert line, f"the sidecar did not start:\n{log}"
                log += line.decode()
        # A full pipe would block the sidecar when it logs.
        reading = asyncio.create_task(process.stderr.read())
        try:
            yield found.group(1), process.pid
        finally:
            reading.cancel()


@contextlib.asynccontextmanager
async def _running(*command: str, ended_by: str, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLNG_", "SIDECAR_"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE if ended_by == "stdin" else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if ended_by == "stdin" else asyncio.subprocess.DEVNULL,
        stderr=None if ended_by == "stdin" else asyncio.subprocess.PIPE,
        env={**environment, **env},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            else:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP)
            except TimeoutError:
                process.kill()
                await process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used in user and kernel mode, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
