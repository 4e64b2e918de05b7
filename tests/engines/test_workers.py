"""The processes that the engines run in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slng_sidecar.engines import espeak
from slng_sidecar.engines import workers as workers_module
from slng_sidecar.engines.workers import WorkerFailed, Workers
from support.engines import need_engine

LONG = "a much longer sentence than the next " * 8


@pytest.fixture(autouse=True)
def _installed() -> None:
    need_engine(espeak)


@contextlib.asynccontextmanager
async def running(count: int = 1) -> AsyncIterator[Workers]:
    workers = Workers(count)
    try:
        yield workers
    finally:
        await workers.close()


async def speak(workers: Workers, text: str = "hello") -> bytes:
    pcm: bytes = await workers.call("espeak", "speak", text, "en", "neutral", 8000)
    return pcm


async def test_a_failing_call_is_reported_and_the_worker_goes_on() -> None:
    async with running() as workers:
        with pytest.raises(WorkerFailed, match="no voice tlh"):
            await workers.call("espeak", "speak", "hello", "tlh", "neutral", 8000)
        assert len(await speak(workers)) > 1000


async def test_a_worker_that_dies_is_reported_and_replaced() -> None:
    async with running() as workers:
        await speak(workers)
        process = workers._workers[0]._process
        assert process is not None
        process.kill()
        with pytest.raises(WorkerFailed, match="espeak ended"):
            await speak(workers)
        assert len(await speak(workers)) > 1000


async def test_a_worker_that_dies_during_a_call_fails_that_call_only() -> None:
    async with running(2) as workers:
        await asyncio.gather(speak(workers), speak(workers))
        calls = [asyncio.create_task(speak(workers, LONG)) for _ in range(2)]
        await asyncio.sleep(0)
        process = workers._workers[0]._process
        assert process is not None
        process.kill()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(type(result).__name__ for result in done) == ["WorkerFailed", "bytes"]
        assert len(await speak(workers)) > 1000


async def test_a_cancelled_caller_leaves_at_once_and_its_answer_reaches_nobody_else() -> None:
    async with running() as workers, running() as reference:
        # The audio of eSpeak NG depends on what its process synthesized before.
        expected = [await speak(reference, text) for text in ("hello", LONG, "hello")]
        assert await speak(workers) == expected[0]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(speak(workers, LONG), 0.001)
        assert workers._free.empty()
        assert await speak(workers) == expected[2]
        assert expected[2] != expected[1]


async def test_calls_wait_for_a_load() -> None:
    async with running() as workers:
        loading = asyncio.create_task(workers.load(["espeak"]))
        await asyncio.sleep(0)
        assert workers._free.empty()
        assert len(await speak(workers)) > 1000
        assert loading.done()


async def test_one_worker_is_loaded_at_first_and_the_next_once_the_first_is_used() -> None:
    async with running(2) as workers:
        await workers.load(["espeak"])
        assert [worker.is_started for worker in workers._workers].count(True) == 1
        await speak(workers)
        async with asyncio.timeout(20):
            while not workers.has_spare:
                await asyncio.sleep(0.01)
        assert all(worker.is_started for worker in workers._workers)


async def test_a_load_that_fails_is_reported() -> None:
    async with running() as workers:
        with pytest.raises(WorkerFailed, match="ModuleNotFoundError"):
            await workers.load(["no_such_engine"])
        assert len(await speak(workers)) > 1000


async def test_too_many_waiting_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_MAX_WAITING", 2)
    async with running() as workers:
        calls = [asyncio.create_task(speak(workers)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(WorkerFailed, match="2 calls wait"):
            await speak(workers)
        assert all(len(pcm) > 1000 for pcm in await asyncio.gather(*calls))


async def test_the_memory_of_a_worker_is_limited() -> None:
    async with running() as workers:
        await speak(workers)
        process = workers._workers[0]._process
        assert process is not None
        limits = await asyncio.to_thread(Path(f"/proc/{process.pid}/limits").read_text)
        assert f"Max address space         {workers_module._MEMORY_LIMIT}" in limits


async def test_closing_ends_the_processes_and_the_calls() -> None:
    workers = Workers(2)
    await speak(workers)
    call = asyncio.create_task(speak(workers, LONG))
    await asyncio.sleep(0.001)
    processes = [worker._process for worker in workers._workers if worker._process]
    await workers.close()
    with contextlib.suppress(WorkerFailed):
        await call
    assert processes
    assert all(process.returncode is not None for process in processes)
