"""Publish/subscribe: one test body for every implementation of the contract."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gregor.redis.errors import RedisUnavailable
from gregor.redis.pubsub import MemoryPubSub, PubSub
from tests.support.receivers import FailingReceiver, Publish, RecordingReceiver, open_pubsub, wait_for_payload
from tests.support.servers import BINARIES, running_server

SERVERS = [pytest.param(binary, id=Path(binary).name, marks=pytest.mark.redis) for binary in BINARIES]


@pytest.fixture(params=["memory", *SERVERS])
async def pubsub_pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[PubSub, Publish]]:
    """Return each implementation, and a function that publishes to it."""
    if request.param == "memory":
        pubsub = MemoryPubSub()

        async def publish(channel: str, payload: bytes, *, sharded: bool = True) -> None:
            pubsub.publish(channel, payload, sharded=sharded)

        yield pubsub, publish
        await pubsub.close()
        return
    with running_server(request.param, tmp_path) as server:
        async with open_pubsub(server) as pair:
            yield pair


Twin = tuple[PubSub, Publish]


async def test_messages_reach_all_receivers_in_order(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    one, two, other = RecordingReceiver(), RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(pubsub.subscribe("a", one), pubsub.subscribe(b"a", two), pubsub.subscribe("b", other))

    await asyncio.gather(*(publish("a", b"%d" % n) for n in range(100)), publish("b", b"\xff"))

    assert await wait_for_payload(one, b"99") == [b"%d" % n for n in range(100)]
    assert await wait_for_payload(two, b"99") == one.heard
    assert await wait_for_payload(other, b"\xff") == [b"\xff"]


async def test_failing_receiver_does_not_affect_others(pubsub_pair: Twin, caplog: pytest.LogCaptureFixture) -> None:
    pubsub, publish = pubsub_pair
    before, after = RecordingReceiver(), RecordingReceiver()
    for receiver in before, FailingReceiver(), after:
        await pubsub.subscribe("a", receiver)

    await publish("a", b"1")

    assert await wait_for_payload(after, b"1") == await wait_for_payload(before, b"1") == [b"1"]
    assert [record.levelno for record in caplog.records if "receiver" in record.message] == [logging.ERROR]


async def test_unsubscribed_receiver_gets_nothing(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    gone, stays = RecordingReceiver(), RecordingReceiver()
    await pubsub.subscribe("a", gone)
    await pubsub.subscribe("a", stays)
    pubsub.unsubscribe("a", gone)
    pubsub.unsubscribe("a", gone)
    pubsub.unsubscribe("never", gone)

    await publish("a", b"1")

    assert await wait_for_payload(stays, b"1") == [b"1"]
    assert gone.heard == []


async def test_unsubscribe_while_receiving_is_safe(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    after = RecordingReceiver()

    class Once(RecordingReceiver):
        def receive(self, payload: bytes) -> None:
            super().receive(payload)
            pubsub.unsubscribe("a", self)

    once = Once()
    await pubsub.subscribe("a", once)
    await pubsub.subscribe("a", after)

    await publish("a", b"1")
    await publish("a", b"2")

    assert await wait_for_payload(after, b"2") == [b"1", b"2"]
    assert once.heard == [b"1"]


async def test_subscribing_twice_delivers_once(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    receiver = RecordingReceiver()
    await asyncio.gather(pubsub.subscribe("a", receiver), pubsub.subscribe("a", receiver))
    await pubsub.subscribe("a", receiver)

    await publish("a", b"1")
    await publish("a", b"2")

    assert await wait_for_payload(receiver, b"2") == [b"1", b"2"]


async def test_resubscribe_in_one_iteration_is_confirmed(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    first, second = RecordingReceiver(), RecordingReceiver()
    given_up = pubsub.subscribe("a", first)
    pubsub.unsubscribe("a", first)
    await pubsub.subscribe("a", second)

    await publish("a", b"1")

    assert given_up.cancelled()
    assert await wait_for_payload(second, b"1") == [b"1"]
    assert first.heard == []


async def test_sharded_and_plain_channels_are_separate(pubsub_pair: Twin) -> None:
    pubsub, publish = pubsub_pair
    sharded, plain = RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(pubsub.subscribe("a", sharded), pubsub.subscribe("a", plain, sharded=False))

    await publish("a", b"s")
    await publish("a", b"p", sharded=False)

    assert await wait_for_payload(sharded, b"s") == [b"s"]
    assert await wait_for_payload(plain, b"p") == [b"p"]


async def test_closed_pubsub_refuses_subscriptions(pubsub_pair: Twin) -> None:
    pubsub, _ = pubsub_pair
    await pubsub.close()

    with pytest.raises(RedisUnavailable, match="closed"):
        await pubsub.subscribe("a", RecordingReceiver())


async def test_working_pubsub_is_healthy(pubsub_pair: Twin) -> None:
    pubsub, _ = pubsub_pair

    assert (pubsub.status, pubsub.healthy) == ("ok", True)


async def test_memory_pubsub_drops_on_request() -> None:
    pubsub, receiver = MemoryPubSub(), RecordingReceiver()
    await pubsub.subscribe("a", receiver)

    pubsub.drop_next(2)
    for n in range(3):
        pubsub.publish("a", b"%d" % n)
    pubsub.publish("a", b"last")

    assert await wait_for_payload(receiver, b"last") == [b"2", b"last"]


async def test_memory_pubsub_unblock_causes_a_gap() -> None:
    pubsub, cut, other = MemoryPubSub(), RecordingReceiver(), RecordingReceiver()
    await asyncio.gather(pubsub.subscribe("a", cut), pubsub.subscribe("b", other))

    pubsub.block("a")
    pubsub.publish("a", b"1")
    pubsub.publish("b", b"1")
    await wait_for_payload(other, b"1")
    assert cut.heard == []
    pubsub.unblock()
    pubsub.publish("a", b"2")

    assert await wait_for_payload(cut, b"2") == ["gap", b"2"]
    assert other.heard == [b"1"]
