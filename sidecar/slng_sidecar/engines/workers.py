"""Worker processes that synthesize and recognize speech, which would block the event loop for hundreds of milliseconds.

A worker runs ``main`` as a program. It reads pickled calls from its standard input and ends when that is closed, so it
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

from slng_sidecar.engines.pocketsphinx import SpeechSegment, prepare_recognizer, recognize_segment
from slng_sidecar.engines.voices import speak

_LENGTH = struct.Struct("!I")
_CALLS: dict[str, Callable[..., Any]] = {
    "speak": speak,
    "recognize": recognize_segment,
    "prepare_ear": prepare_recognizer,
}


class WorkerFailed(RuntimeError):
    """Raised when a call failed in a worker, or the worker ended. The text describes the cause."""


class Workers:
    """A fixed number of worker processes, each started when it is first needed."""

    def __init__(self, count: int = 2) -> None:
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._free.put_nowait(worker)

    @property
    def idle(self) -> bool:
        """Whether a call would start at once."""
        return not self._free.empty()

    async def speak(self, text: str, rate: int) -> bytes:
        """Return a text as PCM; see ``voices.speak``.

        Raises:
            WorkerFailed: it could not be synthesized.
        """
        pcm: bytes = await self._call("speak", text, rate)
        return pcm

    async def recognize(self, segment: SpeechSegment) -> list[Any]:
        """Return the words of a segment; see ``pocketsphinx.recognize_segment``.

        Raises:
            WorkerFailed: it could not be recognized.
        """
        words: list[Any] = await self._call("recognize", segment)
        return words

    async def prepare_recognizer(self) -> None:
        """Load the recognizer in every worker, so that the first final is not late."""
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
                start_new_session=True,  # Ctrl-C must reach only the simulator, which ends its workers itself
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
                # The caller of an earlier call may have gone before its answer was read.
                if answered == number:
                    break
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            raise WorkerFailed(f"the worker ended during the call {name}") from None
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
    """Run a worker: answer calls until standard input is closed."""
    calls = sys.stdin.buffer
    # Output that libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        _work(calls, answers)
