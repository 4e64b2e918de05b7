from __future__ import annotations

import asyncio

from slng_sidecar.net.channel import Channel


async def started(task: asyncio.Task[object]) -> bool:
    """Let a task run as far as it gets; tell whether it still waits."""
    for _ in range(3):
        await asyncio.sleep(0)
    return not task.done()


async def test_what_is_put_is_taken_in_order() -> None:
    outbox = Channel()
    for data in (b"one", "two", b""):
        outbox.put(data)

    assert [await outbox.take() for _ in range(3)] == [b"one", "two", b""]


async def test_taking_waits_for_the_next_message() -> None:
    outbox = Channel()
    taking = asyncio.create_task(outbox.take())
    assert await started(taking)

    outbox.put("late")

    assert await taking == "late"


async def test_size_and_high_water_are_kept() -> None:
    outbox = Channel()
    outbox.put(b"12345")
    outbox.put("678")
    assert (outbox.size, outbox.high_water) == (8, 8)

    await outbox.take()
    outbox.put(b"1")

    assert (outbox.size, outbox.high_water) == (4, 8)
    assert repr(outbox) == "Outbox(2 messages, 4 bytes, high water 8)"


async def test_after_the_finish_what_waits_is_taken_and_then_nothing() -> None:
    outbox = Channel()
    outbox.put("one")
    outbox.finish()
    outbox.put("too late")

    assert await outbox.take() == "one"
    assert await outbox.take() is None
    assert await outbox.take() is None
    assert "finished" in repr(outbox)


async def test_the_finish_wakes_who_takes() -> None:
    outbox = Channel()
    taking = asyncio.create_task(outbox.take())
    assert await started(taking)

    outbox.finish()

    assert await taking is None


async def test_a_discard_drops_what_waits() -> None:
    outbox = Channel()
    outbox.put(b"one")
    outbox.discard()

    assert await outbox.take() is None
    assert (outbox.size, outbox.high_water) == (0, 3)


async def test_there_is_room_below_the_bound() -> None:
    outbox = Channel()
    outbox.put(bytes(9))

    await asyncio.wait_for(outbox.room(10), 1)


async def test_room_is_waited_for_until_enough_was_taken() -> None:
    outbox = Channel()
    for _ in range(3):
        outbox.put(bytes(5))
    waiting = asyncio.create_task(outbox.room(10))
    assert await started(waiting)

    await outbox.take()
    assert await started(waiting)  # 10 wait, which is not less than 10
    await outbox.take()

    await asyncio.wait_for(waiting, 1)


async def test_a_finish_and_a_discard_end_the_wait_for_room() -> None:
    for end in (Channel.finish, Channel.discard):
        outbox = Channel()
        outbox.put(bytes(10))
        waiting = asyncio.create_task(outbox.room(10))
        assert await started(waiting)

        end(outbox)

        await asyncio.wait_for(waiting, 1)


async def test_a_taker_that_is_cancelled_loses_nothing() -> None:
    outbox = Channel()
    taking = asyncio.create_task(outbox.take())
    assert await started(taking)
    outbox.put("one")
    taking.cancel()
    await asyncio.wait([taking])

    assert await outbox.take() == "one"


async def test_putting_never_waits_and_messages_pass_at_two_speeds() -> None:
    outbox = Channel()
    sent = [str(n) for n in range(1000)]

    async def put() -> None:
        for data in sent:
            outbox.put(data)
            await outbox.room(20)
        outbox.finish()

    putting = asyncio.create_task(put())
    taken = []
    while (data := await outbox.take()) is not None:
        taken.append(data)
    await putting

    assert taken == sent
    assert outbox.high_water < 20 + 3
