"""A client that runs under the Python of another environment, driven over its stdin and stdout.

``make interop-envs`` creates the environments. A driver (``tests/interop/drivers``) reads one JSON object per line as a
command and writes one JSON object per line for each event. It ends when its stdin ends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Simulator, SimulatorOptions, running_simulator

from support.paths import ROOT
from support.processes import environment
from support.running import running_gateway

DRIVERS = ROOT / "tests" / "interop" / "drivers"
WAIT = 30.0
LINE = 64 << 20
DIRECTLY, SIDECAR = "directly", "through the sidecar"


def python_of(name: str) -> Path:
    """Return the Python of an environment. Skip the test if the environment is missing; CI must have it."""
    made = ROOT / ".interop" / name
    if not (made / ".made").exists():
        assert not os.environ.get("CI"), f"CI must have the environment {name}: make interop-envs makes it"
        pytest.skip("make interop-envs makes it")
    return made / "bin" / "python"


class Driver:
    """A running driver. ``events`` are all its events so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._changed = asyncio.Event()
        self._ended = False
        self._abandoned = False
        self.events: list[dict[str, Any]] = []
        self.log = ""

    async def listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.events.append(json.loads(line))
            self._changed.set()
        self._ended = True
        self._changed.set()

    async def keep_log(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self.log += line.decode(errors="replace")

    async def send(self, do: str, **command: Any) -> None:
        """Send a command. Bytes are sent as base64."""
        assert self._process.stdin is not None
        for name, value in command.items():
            if isinstance(value, bytes):
                command[name] = base64.b64encode(value).decode()
        self._process.stdin.write(json.dumps({"do": do, **command}).encode() + b"\n")
        await self._process.stdin.drain()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds. It is checked after each event."""
        try:
            async with asyncio.timeout(WAIT):
                while not condition():
                    assert not self._ended, f"the driver ended:\n{self.log[-4000:]}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            kinds = [(event["is"], event.get("text") or event.get("error")) for event in self.events[-40:]]
            pytest.fail(f"the condition never held; the last events: {kinds}\n{self.log[-4000:]}")

    def abandon(self) -> None:
        """Kill the driver at once: a client that lost its connection may take long to end."""
        self._abandoned = True
        self._process.kill()

    async def end(self) -> None:
        """Close the driver's stdin, and check that it exits without an error."""
        assert self._process.stdin is not None
        if not self._abandoned:
            self._process.stdin.close()
            async with asyncio.timeout(WAIT):
                assert await self._process.wait() == 0, self.log[-4000:]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [event for event in self.events if event["is"] == kind]

    def words(self, kind: str) -> list[str]:
        """Return the words of all texts of a kind."""
        return " ".join(event["text"] for event in self.of(kind)).split()

    def audio(self, kind: str, after: str = "") -> bytes:
        """Return the audio of all events of a kind, or only of those after the first event of kind ``after``."""
        events = self.events
        if after:
            events = events[next(index for index, event in enumerate(events) if event["is"] == after) :]
        return b"".join(base64.b64decode(event["audio"]) for event in events if event["is"] == kind)


@contextlib.asynccontextmanager
async def driving(name: str, script: str, **options: Any) -> AsyncIterator[Driver]:
    """Run a driver while the block runs, and check that it exits without an error.

    Args:
        name: the environment.
        script: the driver's file.
        options: the driver's options.
    """
    process = await asyncio.create_subprocess_exec(
        python_of(name), DRIVERS / script, json.dumps(options),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment(PYTHONPATH=str(ROOT / "tests")), limit=LINE,
    )  # fmt: skip
    driver = Driver(process)
    readers = [asyncio.create_task(driver.listen()), asyncio.create_task(driver.keep_log())]
    try:
        await driver.until(lambda: driver.of("started"))
        yield driver
        await driver.end()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await asyncio.gather(*readers)


def numbers(audio: bytes, rate: int = 16_000) -> list[int]:
    """Return the numbers of the whole words in audio."""
    return [word.number for word in signal.decode(audio, rate) if word.whole]


@contextlib.asynccontextmanager
async def upstream_at(
    way: str, options: SimulatorOptions | None = None, **settings: Any
) -> AsyncIterator[tuple[str, Simulator]]:
    """Run a simulator, with a sidecar in front of it unless ``way`` is ``DIRECTLY``, and yield its host and port.

    Args:
        settings: the settings of the sidecar.
    """
    async with contextlib.AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator(options or SimulatorOptions.fast()))
        url = simulator.url
        if way == SIDECAR:
            url = await stack.enter_async_context(running_gateway(url, **settings))
        yield url.partition("://")[2], simulator
