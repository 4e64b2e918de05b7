from __future__ import annotations

import asyncio

import pytest
from slng_sidecar.net.channel import Channel


async def started(task: asyncio.Task[object]) -> bool:
    """Run a task as far as it can go, and return whether it still waits."""
    for _ in range(3):
        await asyncio.sleep(0)
    return not task.done()


async def test_messages_are_taken_in_the_order_in_which_they_were_put() -> None:
    channel: Channel[str | bytes] = Channel()
    for data in (b"one", "two", b""):
        channel.put(data)

    assert [await channel.take() for _ in range(3)] == [b"one", "two", b""]


async def test_taking_waits_for_the_next_message() -> None:
    channel: Channel[str | bytes] = Channel()
    taking = asyncio.create_task(channel.take())
    assert await started(taking)

    channel.put("late")

    assert await taking == "late"


async def test_the_size_and_its_maximum_are_counted() -> None:
    channel: Channel[str | bytes] = Channel()
    channel.put(b"12345")
    channel.put("678")
    assert (channel.size, channel.high_water) == (8, 8)

    await channel.take()
    channel.put(b"1")

    assert (channel.size, channel.high_water) == (4, 8)
    assert repr(channel) == "Channel(2 items, size 4, high water 8)"


async def test_after_finish_the_waiting_messages_are_taken_and_then_none() -> None:
    channel: Channel[str | bytes] = Channel()
    channel.put("one")
    channel.finish()
    channel.put("too late")

    assert await channel.take() == "one"
    assert await channel.take() is None
    assert await channel.take() is None
    assert "finished" in repr(channel)


async def test_finish_wakes_the_taker() -> None:
    channel: Channel[str | bytes] = Channel()
    taking = asyncio.create_task(channel.take())
    assert await started(taking)

    channel.finish()

    assert await taking is None


async def test_discard_drops_the_waiting_messages() -> None:
    channel: Channel[str | bytes] = Channel()
    channel.put(b"one")
    channel.discard()

    assert await channel.take() is None
    assert (channel.size, channel.high_water) == (0, 3)


async def test_there_is_room_below_the_limit() -> None:
    channel: Channel[str | bytes] = Channel()
    channel.put(bytes(9))

    await asyncio.wait_for(channel.room(10), 1)


async def test_room_is_waited_for_until_enough_was_taken() -> None:
    channel: Channel[str | bytes] = Channel()
    for _ in range(3):
        channel.put(bytes(5))
    waiting = asyncio.create_task(channel.room(10))
    assert await started(waiting)

    await channel.take()
    assert await started(waiting)  # 10 bytes wait, and the limit requires fewer
    await channel.take()

    await asyncio.wait_for(waiting, 1)


async def test_finish_and_discard_end_the_wait_for_room() -> None:
    for end in (Channel.finish, Channel.discard):
        channel: Channel[str | bytes] = Channel()
        channel.put(bytes(10))
        waiting = asyncio.create_task(channel.room(10))
        assert await started(waiting)

        end(channel)

        await asyncio.wait_for(waiting, 1)


async def test_a_taker_that_is_cancelled_loses_nothing() -> None:
    channel: Channel[str | bytes] = Channel()
    taking = asyncio.create_task(channel.take())
    assert await started(taking)
    channel.put("one")
    taking.cancel()
    await asyncio.wait([taking])

    assert await channel.take() == "one"


async def test_putting_never_waits_and_messages_pass_at_two_speeds() -> None:
    channel: Channel[str | bytes] = Channel()
    sent = [str(n) for n in range(1000)]

    async def put() -> None:
        for data in sent:
            channel.put(data)
            await channel.room(20)
        channel.finish()

    putting = asyncio.create_task(put())
    taken = []
    while (data := await channel.take()) is not None:
        taken.append(data)
    await putting

    assert taken == sent
    assert channel.high_water < 20 + 3


async def test_an_error_comes_after_the_last_item() -> None:
    channel: Channel[str | bytes] = Channel()
    channel.put("one")
    channel.finish(ValueError("broken"))
    channel.finish()

    assert await channel.take() == "one"
    with pytest.raises(ValueError, match="broken"):
        await channel.take()


async def test_all_waiting_messages_are_taken_at_once() -> None:
    channel: Channel[int] = Channel(lambda _: 1)
    for number in range(3):
        channel.put(number)
    waiting = asyncio.create_task(channel.room(3))
    assert await started(waiting)

    assert channel.take_waiting() == [0, 1, 2]
    await waiting
    assert (channel.size, channel.high_water) == (0, 3)
