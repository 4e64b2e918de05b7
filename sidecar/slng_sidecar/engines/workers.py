"""Processes beside the event loop that speak and hear: both hold Python's lock for hundreds of milliseconds.

A worker is ``main`` run as a program. It takes pickled calls on its standard input and ends when that does, so it
cannot outlive the simulator, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from slng_sidecar.engines.speech import SpeechSegment, prepare_recognizer, recognize_segment, speak

_LENGTH = struct.Struct("!I")
_CALLS: dict[str, Callable[..., Any]] = {
    "speak": speak,
    "recognise": recognize_segment,
    "prepare_ear": prepare_recognizer,
}


class WorkerFailed(RuntimeError):
    """Raised where a call failed in a worker, or the worker itself; the text says how."""


class Workers:
    """A few worker processes, each started when it is first needed."""

    def __init__(self, count: int = 2) -> None:
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._free.put_nowait(worker)

    @property
    def idle(self) -> bool:
        """Whether a call would begin at once."""
        return not self._free.empty()

    async def speak(self, text: str, rate: int) -> bytes:
        """Say a text; see ``speech.speak``.

        Raises:
            WorkerFailed: it could not be said.
        """
        sound: bytes = await self._call("speak", text, rate)
        return sound

    async def recognize(self, segment: SpeechSegment) -> list[Any]:
        """Recognise a segment; see ``speech.recognize_segment``.

        Raises:
            WorkerFailed: it could not be decoded.
        """
        words: list[Any] = await self._call("recognise", segment)
        return words

    async def prepare_recognizer(self) -> None:
        """Load the recogniser in every worker, so that the first final is not late."""
        await asyncio.gather(*(self._call("prepare_ear") for _ in self._workers))

    async def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            await worker.close()

    async def _call(self, name: str, *arguments: Any) -> Any:
        worker = await self._free.get()
        try:
            return await worker.call(name, *arguments)
        finally:
            self._free.put_nowait(worker)


class _Worker:
    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._calls = 0

    async def call(self, name: str, *arguments: Any) -> Any:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                f"from {__name__} import main; main()",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the simulator, which ends its workers itself
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        self._calls += 1
        number = self._calls
        call = pickle.dumps((number, name, arguments))
        try:
            process.stdin.write(_LENGTH.pack(len(call)) + call)
            await process.stdin.drain()
            while True:
                (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                answered, failure, value = pickle.loads(await process.stdout.readexactly(length))
                # An earlier call may have been given up before its answer was read.
                if answered == number:
                    break
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise WorkerFailed(f"the worker ended while it was to {name.replace('_', ' ')}") from None
        if failure:
            raise WorkerFailed(failure)
        return value

    async def close(self) -> None:
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
        number, name, arguments = pickle.loads(calls.read(length))
        value, failure = None, None
        try:
            value = _CALLS[name](*arguments)
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        data = pickle.dumps((number, failure, value))
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()


def main() -> None:
    """Be a worker."""
    calls = sys.stdin.buffer
    # Libraries that print must not print into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _work(calls, answers)
