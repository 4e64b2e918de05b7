"""Worker processes that run the engines, which would block the event loop for hundreds of milliseconds.

A worker runs ``main`` as a program. It reads pickled calls from its standard input and ends when that is closed, so it
cannot outlive the process that started it, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import pickle
import resource
import struct
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO

_LENGTH = struct.Struct("!I")
_ENGINES = __name__.rpartition(".")[0]
# Of virtual memory. A worker with a neural engine reserves about 1 GiB, of which it uses a quarter.
_MEMORY_LIMIT = 4 << 30
_MAX_WAITING = 64


class WorkerFailed(RuntimeError):
    """Raised when a call failed in a worker, or the worker ended. The text describes the cause."""


class Workers:
    """A fixed number of worker processes, each started when it is first needed.

    The calls that wait for a worker are bounded, and so is the memory of each worker.

    Mutable: ``_free``, the workers that run no call, the last used on top; ``_waiting``, the calls that wait for one;
    ``_running``, the calls and loads under way; ``_load``, the calls that load a worker.
    """

    def __init__(self, count: int) -> None:
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._free.put_nowait(worker)
        self._waiting = 0
        self._running: set[asyncio.Task[Any]] = set()
        self._load: tuple[tuple[Any, ...], ...] = ()

    @property
    def has_spare(self) -> bool:
        """Whether a call would leave another worker free."""
        return self._free.qsize() > 1

    async def call(self, engine: str, function: str, *arguments: Any) -> Any:
        """Call a function of an engine in a worker, once one is free.

        A caller that is cancelled leaves at once. The worker finishes the call and is then free again.

        Args:
            engine: the engine's module in this package.
            function: the function's name.
            arguments: its arguments.

        Raises:
            WorkerFailed: the call failed, its worker ended, or too many calls wait already.
        """
        if self._waiting >= _MAX_WAITING:
            raise WorkerFailed(f"{_MAX_WAITING} calls wait for the speech engines already")
        self._waiting += 1
        try:
            worker = await self._free.get()
        finally:
            self._waiting -= 1
        self._load_another()
        return await asyncio.shield(self._start(worker, (engine, function, *arguments)))

    async def load(self, engines: Iterable[str]) -> None:
        """Load engines in one worker, and in another one at each call until all are loaded.

        Raises:
            WorkerFailed: an engine could not be loaded.
        """
        self._load = tuple((engine, "load") for engine in engines)
        if self._load:
            await asyncio.shield(self._start(await self._free.get(), *self._load))

    def _load_another(self) -> None:
        """Load a worker that was not needed yet, because the next call may come while this one runs."""
        if self._load and not self._free.empty():
            worker = self._free.get_nowait()
            if worker.is_started:
                self._free.put_nowait(worker)
            else:
                self._start(worker, *self._load)

    async def close(self) -> None:
        """End the processes. Calls that still run fail."""
        for worker in self._workers:
            await worker.close()
        if self._running:
            await asyncio.wait(self._running)

    def _start(self, worker: _Worker, *calls: tuple[Any, ...]) -> asyncio.Task[Any]:
        """Run calls in a worker and free it, even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(worker.run(calls), name="engines: call")
        self._running.add(task)
        task.add_done_callback(lambda done: self._finished(done, worker))
        return task

    def _finished(self, task: asyncio.Task[Any], worker: _Worker) -> None:
        self._running.discard(task)
        self._free.put_nowait(worker)
        if not task.cancelled():
            task.exception()  # the caller may have left, and then nobody else retrieves it


class _Worker:
    """One process, which runs one call at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._closed = False

    @property
    def is_started(self) -> bool:
        """Whether its process was started and has not ended."""
        return self._process is not None

    async def run(self, calls: Iterable[tuple[Any, ...]]) -> Any:
        """Run calls one after the other, and return the last one's value."""
        value = None
        for call in calls:
            value = await self._call(call)
        return value

    async def close(self) -> None:
        """End the process for good."""
        self._closed = True
        await self._end()

    async def _call(self, call: tuple[Any, ...]) -> Any:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                f"from {__name__} import main; main()",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C must reach only the parent, which ends its workers itself
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        data = pickle.dumps(call)
        try:
            if self._closed:  # while the process started
                raise OSError
            process.stdin.write(_LENGTH.pack(len(data)) + data)
            await process.stdin.drain()
            (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
            failure, value = pickle.loads(await process.stdout.readexactly(length))
        except (OSError, asyncio.IncompleteReadError):
            await self._end()
            raise WorkerFailed(f"the worker of {call[0]} ended") from None
        if failure:
            raise WorkerFailed(failure)
        return value

    async def _end(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _work(calls: BinaryIO, answers: BinaryIO) -> None:
    while head := calls.read(_LENGTH.size):
        (length,) = _LENGTH.unpack(head)
        engine, function, *arguments = pickle.loads(calls.read(length))
        value, failure = None, None
        try:
            value = getattr(importlib.import_module(f"{_ENGINES}.{engine}"), function)(*arguments)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        data = pickle.dumps((failure, value))
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()


def main() -> None:
    """Run a worker: answer calls until standard input is closed."""
    with contextlib.suppress(OSError, ValueError):  # some systems have no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    calls = sys.stdin.buffer
    # Output that libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _work(calls, answers)
