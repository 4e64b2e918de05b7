from __future__ import annotations

import asyncio

import pytest
from slng_sidecar.net.tasks import SeparateTasks, Tasks


class Mishap(Exception):
    pass


async def forever() -> None:
    await asyncio.Event().wait()


async def test_leaving_the_block_ends_the_tasks_that_still_run() -> None:
    async with Tasks() as tasks:
        running = tasks.start(forever(), "runs")
        await asyncio.sleep(0)

    assert running.cancelled()
    assert running.get_name() == "runs"


async def test_leaving_the_block_waits_for_the_cleanup() -> None:
    cleaned = False

    async def careful() -> None:
        nonlocal cleaned
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            cleaned = True

    async with Tasks() as tasks:
        tasks.start(careful(), "careful")
        await asyncio.sleep(0)

    assert cleaned


async def test_the_result_of_a_task_can_be_awaited() -> None:
    async def answer() -> int:
        return 42

    async with Tasks() as tasks:
        assert await tasks.start(answer(), "answers") == 42


async def test_a_failed_task_ends_the_block_and_the_other_tasks() -> None:
    async def dies() -> None:
        raise Mishap("this one")

    siblings = []

    async def owner() -> None:
        async with Tasks() as tasks:
            siblings.append(tasks.start(forever(), "sibling"))
            tasks.start(dies(), "dies")
            await forever()

    with pytest.raises(Mishap, match="this one") as caught:
        await owner()

    assert siblings[0].cancelled()
    assert not isinstance(caught.value, BaseExceptionGroup)


async def test_a_task_that_raises_while_it_is_cancelled_is_reported() -> None:
    async def dies_at_the_end() -> None:
        try:
            await forever()
        finally:
            raise Mishap

    async def owner() -> None:
        async with Tasks() as tasks:
            tasks.start(dies_at_the_end(), "dies")
            await asyncio.sleep(0)

    with pytest.raises(Mishap):
        await owner()


async def test_the_blocks_own_exception_is_raised_unchanged() -> None:
    running = []

    async def owner() -> None:
        async with Tasks() as tasks:
            running.append(tasks.start(forever(), "runs"))
            await asyncio.sleep(0)
            raise Mishap

    with pytest.raises(Mishap):
        await owner()

    assert running[0].cancelled()


async def test_cancelling_the_owner_ends_its_tasks_and_is_not_swallowed() -> None:
    started = asyncio.Event()
    running: list[asyncio.Task[None]] = []

    async def owner() -> None:
        async with Tasks() as tasks:
            running.append(tasks.start(forever(), "runs"))
            started.set()
            await forever()

    owning = asyncio.create_task(owner())
    await started.wait()
    owning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owning

    assert running[0].cancelled()


async def test_tasks_that_ended_are_not_kept() -> None:
    async def nothing() -> None:
        pass

    async with Tasks() as tasks:
        for _ in range(100):
            await tasks.start(nothing(), "nothing")
        await asyncio.sleep(0)
        assert not tasks._running


@pytest.mark.logs_errors
async def test_a_failed_separate_task_ends_nothing_else_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def die() -> None:
        raise Mishap("why")

    async with SeparateTasks() as tasks:
        other = tasks.start(forever(), "other")
        dying = tasks.start(die(), "dying")
        await asyncio.wait((dying,))
        await asyncio.sleep(0)
        assert not other.done()
        assert (await tasks.start(asyncio.sleep(0, "later"), "later")) == "later"
    assert other.cancelled()
    [record] = caplog.records
    assert record.getMessage() == "dying failed by a fault of the sidecar"
    assert record.exc_info is not None
    assert "why" in str(record.exc_info[1])


async def test_leaving_the_block_waits_for_tasks_that_separate_tasks_start_in_their_cleanup() -> None:
    async with SeparateTasks() as tasks:

        async def careful() -> None:
            try:
                await forever()
            finally:
                tasks.start(forever(), "last")

        tasks.start(careful(), "careful")
        await asyncio.sleep(0)
    assert repr(tasks) == "SeparateTasks(0 running)"
