"""Checks around every test: no setting leaks in from the machine, no error is logged unnoticed, nothing stays behind.

Our code also must not block an event loop: blockbuster raises if it reads a file, sleeps or waits for a lock in one.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pipecat_slng_sidecar
import pytest
import slng_sidecar
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

# The seconds after which what a test has closed must be gone. This is far more than it takes.
SETTLING = 3.0
# The seconds that one step of a task may take in asyncio's debug mode (make debug). On a busy machine it can be one.
SLOW_STEP = 5.0
MAY_BLOCK = {
    # Once, when a server starts.
    "slng_sidecar/simulator/app.py": "create_simulator",
    "slng_sidecar/server/app.py": "create_app",
    "slng_sidecar/net/serving.py": "listen_unix",
    # It reads the time stamp of a secret's file at each use.
    "slng_sidecar/keys.py": "_read",
    # It joins a thread that has finished.
    "slng_sidecar/audio/decoding.py": "__aexit__",
    # /proc is not on a disk.
    "prometheus_client/process_collector.py": "collect",
}
# Files that libraries open at their first use and keep open: the recognizer its log, onnxruntime a database.
KEPT = ("/dev/null", ".onnxruntime/")

# Hypothesis does not judge the speed of this machine: tests run side by side, and the first text that it draws in a new
# checkout takes seconds, because it then builds its table of Unicode.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    # The sidecar does this too. Otherwise each full collection walks everything that was imported, and delays the loop.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    # A test waits half of its time, so two tests share a processor. The hook is optional, as the environments of the
    # clients have no pytest-xdist.
    return 2 * len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True, scope="session")
def _certificates_are_read_once() -> Iterator[None]:
    """Share one TLS context, as reading the certificates takes 20 ms and no test uses TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context))
        yield


class _HastyAsyncio:
    """asyncio for uvicorn, whose sleeps are ten times shorter."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 10)


@pytest.fixture(autouse=True, scope="session")
def _servers_stop_at_once() -> Iterator[None]:
    """Shorten the tenth of a second that uvicorn sleeps when it stops, as a test stops two servers on average."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.server.asyncio", _HastyAsyncio())
        yield


@pytest.fixture(autouse=True, scope="session")
def _nothing_of_ours_blocks() -> Iterator[None]:
    with blockbuster_ctx([slng_sidecar, pipecat_slng_sidecar]) as blockbuster:
        for call in blockbuster.functions.values():
            for file, function in MAY_BLOCK.items():
                call.can_block_in(file, function)
        yield


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> None:
    # It comes first in order of names, and so is the last to be torn down, after what the test used.
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_tasks_and_files")


@pytest.fixture
async def _tasks_and_files() -> AsyncIterator[None]:
    """Fail a test that leaves a task running or a file descriptor open."""
    before = open_files()
    asyncio.get_running_loop().slow_callback_duration = SLOW_STEP
    yield
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        _, tasks = await asyncio.wait(tasks, timeout=SETTLING)
    assert not tasks, f"still running: {tasks}"
    until = asyncio.get_running_loop().time() + SETTLING
    while (files := open_files() - before) and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.01)
    assert not files, f"still open: {files}"


def open_files() -> set[tuple[str, str]]:
    """Return each file descriptor of this process, and what it refers to."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # the one that lists them
            continue
        if not any(each in target for each in KEPT):
            found.add((link.name, target))
    return found


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("live"):
        return
    for name in tuple(os.environ):
        if name.startswith(("SLNG_", "SIDECAR_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_error_logged(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which something was logged as an error, unless it is marked ``logs_errors``."""
    yield
    if request.node.get_closest_marker("logs_errors"):
        return
    records = caplog.get_records("call")
    assert not [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    # "Executing … took 0.612 seconds", which is said in debug mode only.
    assert not [record.getMessage() for record in records if record.name == "asyncio" and "took" in record.msg]
