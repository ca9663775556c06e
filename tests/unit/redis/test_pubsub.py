"""Feeds: what is published reaches who subscribed. One test body for every feed that keeps the contract."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gregor.redis.errors import RedisUnavailable
from gregor.redis.pubsub import MemoryPubSub, PubSub
from tests.support.receivers import FailingReceiver, Publish, RecordingReceiver, open_pubsub, wait_for_payload
from tests.support.servers import BINARIES, running_server


@pytest.fixture(params=["memory", *BINARIES], ids=lambda binary: Path(binary).name)
async def twin(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[PubSub, Publish]]:
    """Each feed that keeps the contract, and a way to publish to it."""
    if request.param == "memory":
        feed = MemoryPubSub()

        async def publish(channel: str, payload: bytes, *, sharded: bool = True) -> None:
            feed.publish(channel, payload, sharded=sharded)

        yield feed, publish
        await feed.close()
        return
    with running_server(request.param, tmp_path) as server:
        async with open_pubsub(server) as pair:
            yield pair


Twin = tuple[PubSub, Publish]


async def test_messages_reach_all_receivers_in_order(twin: Twin) -> None:
    feed, publish = twin
    one, two, other = RecordingReceiver(), RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(feed.subscribe("a", one), feed.subscribe(b"a", two), feed.subscribe("b", other))

    await asyncio.gather(*(publish("a", b"%d" % n) for n in range(100)), publish("b", b"\xff"))

    assert await wait_for_payload(one, b"99") == [b"%d" % n for n in range(100)]
    assert await wait_for_payload(two, b"99") == one.heard
    assert await wait_for_payload(other, b"\xff") == [b"\xff"]


async def test_failing_receiver_does_not_affect_others(twin: Twin, caplog: pytest.LogCaptureFixture) -> None:
    feed, publish = twin
    before, after = RecordingReceiver(), RecordingReceiver()
    for receiver in before, FailingReceiver(), after:
        await feed.subscribe("a", receiver)

    await publish("a", b"1")

    assert await wait_for_payload(after, b"1") == await wait_for_payload(before, b"1") == [b"1"]
    assert [record.levelno for record in caplog.records if "receiver" in record.message] == [logging.ERROR]


async def test_unsubscribed_receiver_gets_nothing(twin: Twin) -> None:
    feed, publish = twin
    gone, stays = RecordingReceiver(), RecordingReceiver()
    await feed.subscribe("a", gone)
    await feed.subscribe("a", stays)
    feed.unsubscribe("a", gone)
    feed.unsubscribe("a", gone)
    feed.unsubscribe("never", gone)

    await publish("a", b"1")

    assert await wait_for_payload(stays, b"1") == [b"1"]
    assert gone.heard == []


async def test_unsubscribe_while_receiving_is_safe(twin: Twin) -> None:
    feed, publish = twin
    after = RecordingReceiver()

    class Once(RecordingReceiver):
        def receive(self, payload: bytes) -> None:
            super().receive(payload)
            feed.unsubscribe("a", self)

    once = Once()
    await feed.subscribe("a", once)
    await feed.subscribe("a", after)

    await publish("a", b"1")
    await publish("a", b"2")

    assert await wait_for_payload(after, b"2") == [b"1", b"2"]
    assert once.heard == [b"1"]


async def test_subscribing_twice_delivers_once(twin: Twin) -> None:
    feed, publish = twin
    ear = RecordingReceiver()
    await asyncio.gather(feed.subscribe("a", ear), feed.subscribe("a", ear))
    await feed.subscribe("a", ear)

    await publish("a", b"1")
    await publish("a", b"2")

    assert await wait_for_payload(ear, b"2") == [b"1", b"2"]


async def test_resubscribe_in_one_iteration_is_confirmed(twin: Twin) -> None:
    feed, publish = twin
    first, second = RecordingReceiver(), RecordingReceiver()
    given_up = feed.subscribe("a", first)
    feed.unsubscribe("a", first)
    await feed.subscribe("a", second)

    await publish("a", b"1")

    assert given_up.cancelled()
    assert await wait_for_payload(second, b"1") == [b"1"]
    assert first.heard == []


async def test_sharded_and_plain_channels_are_separate(twin: Twin) -> None:
    feed, publish = twin
    sharded, plain = RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(feed.subscribe("a", sharded), feed.subscribe("a", plain, sharded=False))

    await publish("a", b"s")
    await publish("a", b"p", sharded=False)

    assert await wait_for_payload(sharded, b"s") == [b"s"]
    assert await wait_for_payload(plain, b"p") == [b"p"]


async def test_closed_pubsub_refuses_subscriptions(twin: Twin) -> None:
    feed, _ = twin
    await feed.close()

    with pytest.raises(RedisUnavailable, match="closed"):
        await feed.subscribe("a", RecordingReceiver())


async def test_working_pubsub_is_healthy(twin: Twin) -> None:
    feed, _ = twin

    assert (feed.status, feed.healthy) == ("ok", True)


async def test_memory_pubsub_drops_on_request() -> None:
    feed, ear = MemoryPubSub(), RecordingReceiver()
    await feed.subscribe("a", ear)

    feed.drop_next(2)
    for n in range(3):
        feed.publish("a", b"%d" % n)
    feed.publish("a", b"last")

    assert await wait_for_payload(ear, b"last") == [b"2", b"last"]


async def test_memory_pubsub_cut_ends_with_a_gap() -> None:
    feed, cut, other = MemoryPubSub(), RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(feed.subscribe("a", cut), feed.subscribe("b", other))

    feed.cut("a")
    feed.publish("a", b"1")
    feed.publish("b", b"1")
    await wait_for_payload(other, b"1")
    assert cut.heard == []
    feed.heal()
    feed.publish("a", b"2")

    assert await wait_for_payload(cut, b"2") == ["gap", b"2"]
    assert other.heard == [b"1"]
