"""The command in a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Tests that run without an installed sidecar name its command. It is read here since no test sees SLNG_ variables.
COMMAND = Path(os.environ.get("SLNG_SIDECAR_COMMAND") or Path(sys.executable).with_name("slng-sidecar"))
WAIT = 30.0


@dataclass(slots=True)
class Finished:
    """A command that has exited."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Running:
    """A running command. ``err`` is its standard error so far."""

    process: asyncio.subprocess.Process
    err: str = ""
    url: str = ""
    code: int | None = None
    _said: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.err += line.decode()
            self._said.set()
        self.code = await self.process.wait()
        self._said.set()

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until standard error matches a pattern."""
        async with asyncio.timeout(WAIT):
            while (found := re.search(pattern, self.err)) is None:
                assert self.code is None, f"the command ended with {self.code}:\n{self.err}"
                self._said.clear()
                await self._said.wait()
            return found

    async def ends(self) -> int:
        """Wait until the command ends, and return its exit code."""
        async with asyncio.timeout(WAIT):
            while self.code is None:
                self._said.clear()
                await self._said.wait()
        return self.code


def need(tool: str) -> None:
    """Skip a test if the program that it needs is missing. CI must have the program."""
    if shutil.which(tool) is None:
        assert not os.environ.get("CI"), f"CI must have {tool}"
        pytest.skip(f"{tool} is not installed")


def environment(**changes: str) -> dict[str, str]:
    """Return the environment without the sidecar's settings, except those in ``changes``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLNG_", "SIDECAR_"))}
    return {**kept, **changes}


async def run(*arguments: str | Path, stdin: bytes | None = None, cwd: Path | None = None, **env: Any) -> Finished:
    """Run ``slng-sidecar`` until it ends."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment(**env), cwd=cwd,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT):
            out, err = await process.communicate(stdin)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(errors="replace"), err.decode())


@contextlib.asynccontextmanager
async def started(
    *arguments: str | Path, cwd: Path | None = None, command: Sequence[str | Path] = (COMMAND,), **env: str
) -> AsyncIterator[Running]:
    """Run ``slng-sidecar`` while the block runs. End it with SIGTERM, and check that it exits without an error.

    Args:
        command: the command to run instead.
    """
    process = await asyncio.create_subprocess_exec(
        *command, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environment(**env), cwd=cwd,
    )  # fmt: skip
    running = Running(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
        if running.code is None:
            process.send_signal(signal.SIGTERM)
            assert await running.ends() == 0, running.err
    finally:
        if process.returncode is None:
            process.kill()
        await reading
    assert "Traceback" not in running.err, running.err


@contextlib.asynccontextmanager
async def serving(
    *arguments: str | Path, cwd: Path | None = None, command: Sequence[str | Path] = (COMMAND,), **env: str
) -> AsyncIterator[Running]:
    """Run ``slng-sidecar serve`` on a free port. ``url`` is its address."""
    async with started("serve", "--port", "0", *arguments, cwd=cwd, command=command, **env) as running:
        running.url = (await running.says(r"slng-sidecar \S+ at (http://\S+?),?\s")).group(1)
        yield running
