"""Pub/sub on a fake cluster: channels follow their slot. Known bugs of other clients are tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gregor.redis.errors import RedisUnavailable, ReplyError
from tests.support.cluster_pubsub_world import PubSubWorld
from tests.support.receivers import RecordingReceiver

SLOT, SAME_NODE, OTHER = 5, 17, 6_000
ONE, TWO, REPLICA = ("n", 1), ("n", 2), ("n", 11)


@pytest.fixture
def world() -> Iterator[PubSubWorld]:
    world = PubSubWorld()
    yield world
    world.close()


def test_message_reaches_its_channel_on_each_primary(world: PubSubWorld) -> None:
    names = [name for slot in (SLOT, SAME_NODE, OTHER, 12_000) for name in world.subscribe(slot)]
    world.settle()
    for name in names:
        world.publish(name, name.encode())
    world.settle()

    assert [world.heard(name) for name in names] == [[name.encode()] for name in names]
    assert world.pubsub.status == "ok"


def test_moved_slot_is_subscribed_at_its_new_owner(world: PubSubWorld) -> None:
    """node-redis #3311, ioredis #1987, jedis #3548, redisson #1280: the subscription stayed at the old node."""
    [name], [neighbour] = world.subscribe(SLOT), world.subscribe(SAME_NODE)
    world.settle()
    world.cluster.move_atomically(SLOT, TWO)
    world.cluster.gossip()
    world.flow(0.5)
    world.publish(name, b"after")
    world.publish(neighbour, b"here")
    world.settle()

    assert world.heard(name) == ["gap", b"after"]
    assert world.heard(neighbour) == [b"here"]  # its slot did not move: no gap
    assert world.receivers[name].losses == 1


def test_receivers_get_a_gap_within_a_second_after_a_move(world: PubSubWorld) -> None:
    names = world.subscribe(SLOT, 20)
    world.settle()
    world.cluster.move_atomically(SLOT, TWO)
    world.cluster.gossip()
    world.flow(1.0)

    assert all(world.heard(name) == ["gap"] for name in names)


def test_slot_that_comes_back_is_subscribed_again(world: PubSubWorld) -> None:
    [name] = world.subscribe(SLOT)
    world.settle()
    world.cluster.move_atomically(SLOT, TWO)
    world.cluster.move_atomically(SLOT, ONE)
    world.cluster.gossip()
    world.flow(2.0)
    world.publish(name, b"after")
    world.settle()

    assert world.heard(name) == ["gap", b"after"]


def test_command_never_names_two_slots_or_too_many_channels(world: PubSubWorld) -> None:
    """node-redis #2902 and #3098: CROSSSLOT, because one SSUBSCRIBE named channels of several slots."""
    node = world.cluster.nodes[ONE]
    node.subscriptions.clear()
    for slot, count in ((SLOT, 512 + 3), (SAME_NODE, 2)):
        world.subscribe(slot, count)
    world.settle()
    world.loop.inside(lambda: node.cut(discard=True))
    node.subscriptions.clear()
    world.flow(1.0)

    subscribed = [count for kind, count in node.subscriptions if kind == b"SSUBSCRIBE"]
    assert sorted(subscribed)[-4:] == [1, 2, 3, 512]  # one of them is the probe
    assert all(world.heard(name) == ["gap"] for name in world.receivers)


def test_failover_moves_all_channels_of_the_primary(world: PubSubWorld) -> None:
    [name], [neighbour], [other] = world.subscribe(SLOT), world.subscribe(SAME_NODE), world.subscribe(OTHER)
    world.settle()
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.flow(1.0)
    assert world.receivers[name].losses == 1
    world.cluster.fail_over(0, 0)
    world.cluster.gossip()
    world.flow(1.5)
    for each in (name, neighbour, other):
        world.publish(each, b"after")
    world.settle()

    assert world.heard(name) == world.heard(neighbour) == ["gap", b"after"]
    assert world.heard(other) == [b"after"]
    assert world.receivers[name].servers == [False]


def test_demoted_primary_that_keeps_its_connections_is_left(world: PubSubWorld) -> None:
    """centrifugo#1189: the subscriber stayed at a detached replica, without an error and without messages."""
    [name] = world.subscribe(SLOT)
    world.flow(1.0)
    world.cluster.fail_over(0, 0)  # the old primary does not know, and withdraws nothing
    world.cluster.gossip(TWO, ("n", 3))
    world.flow(12.0)
    world.publish(name, b"after")
    world.settle()

    assert world.heard(name) == ["gap", b"after"]


def test_deaf_subscriber_is_replaced(world: PubSubWorld) -> None:
    """centrifugo#1189, too: subscriptions are confirmed, but nothing is delivered."""
    [name], [other] = world.subscribe(SLOT), world.subscribe(OTHER)
    world.settle()
    node = world.cluster.nodes[ONE]
    node.is_deaf = True
    world.publish(name, b"lost")
    world.flow(8.0)
    assert world.pubsub.failing == ("n:1",)
    assert (world.pubsub.status, world.pubsub.healthy) == ("late", True)
    node.is_deaf = False
    world.flow(8.0)
    world.publish(name, b"after")
    world.settle()

    assert world.heard(name)[-2:] == ["gap", b"after"]
    assert world.heard(other) == []
    assert world.pubsub.status == "ok"


def test_hung_primary_is_left_after_failover(world: PubSubWorld) -> None:
    [name] = world.subscribe(SLOT)
    world.flow(1.0)
    world.cluster.nodes[ONE].is_hung = True
    world.flow(3.0)
    world.cluster.fail_over(0, 0)
    world.cluster.gossip(REPLICA, TWO, ("n", 3))
    world.flow(4.0)
    world.publish(name, b"after")
    world.settle()
    world.cluster.restart(ONE)
    world.flow(1.0)

    assert world.heard(name) == ["gap", b"after"]


def test_message_of_the_old_owner_is_ignored(world: PubSubWorld) -> None:
    [name] = world.subscribe(SLOT)
    world.flow(1.0)
    old = world.cluster.nodes[ONE]
    [connection] = [each for each in old.connections if (True, name.encode()) in each.subscribed]
    old.is_hung = True
    world.cluster.fail_over(0, 0)
    world.cluster.gossip(TWO, ("n", 3))
    world.loop.inside(world.client.refresh)
    world.flow(1.5)
    assert world.heard(name) == ["gap"]
    connection.replies.append([b"smessage", name.encode(), b"zombie"])
    old.is_hung = False
    world.settle()

    assert world.heard(name) == ["gap"]


def test_channel_of_the_whole_cluster_survives_its_node(world: PubSubWorld) -> None:
    [name] = world.subscribe(SLOT, sharded=False)
    world.settle()
    for address in (ONE, TWO):
        world.loop.inside(world.cluster.nodes[address].kill)
        world.flow(0.5)
        world.publish(name, b"%d" % address[1], sharded=False)
        world.settle()
        world.cluster.restart(address)
        world.flow(2.5)

    assert [each for each in world.heard(name) if each != "gap"] == [b"1", b"2"]


def test_subscription_waits_while_its_shard_is_away(world: PubSubWorld) -> None:
    world.loop.inside(world.cluster.nodes[ONE].kill)
    [name], [other] = world.subscribe(SLOT), world.subscribe(OTHER)
    world.flow(3.0)
    world.publish(other, b"fine")
    world.settle()
    assert world.heard(other) == [b"fine"]
    world.cluster.restart(ONE)
    world.flow(3.0)
    world.publish(name, b"back")
    world.settle()

    assert world.heard(name) == [b"back"]  # it was never confirmed before, so it has missed nothing


def test_unsubscribed_channel_gets_nothing_after_a_move(world: PubSubWorld) -> None:
    [name, stays] = world.subscribe(SLOT, 2)
    world.settle()
    world.cluster.move_atomically(SLOT, TWO)
    world.loop.inside(lambda: world.pubsub.unsubscribe(name, world.receivers[name]))
    world.cluster.gossip()
    world.flow(1.0)
    for each in (name, stays):
        world.publish(each, b"after")
    world.settle()

    assert (world.heard(name), world.heard(stays)) == ([], ["gap", b"after"])


def test_late_refusal_of_an_unsubscription_disturbs_no_slot(world: PubSubWorld) -> None:
    """The server had ended the subscription on its own, and refuses ours with MOVED."""
    [name] = world.subscribe(SLOT)
    world.settle()
    for connection in world.cluster.nodes[ONE].connections:
        if (True, name.encode()) in connection.subscribed:
            connection.replies.append(ReplyError("MOVED 17 n:2"))
    world.settle()
    world.publish(name, b"after")
    world.settle()

    assert world.heard(name) == [b"after"]


def test_closed_pubsub_fails_waiting_subscriptions() -> None:
    world = PubSubWorld()
    world.loop.inside(world.cluster.nodes[ONE].kill)
    futures = []
    world.loop.inside(lambda: futures.append(world.pubsub.subscribe(f"x{{{0}}}", RecordingReceiver())))
    world.loop.complete(world.pubsub.close())
    world.loop.inside(lambda: futures.append(world.pubsub.subscribe("y", RecordingReceiver())))

    assert isinstance(futures[1].exception(), RedisUnavailable)
    world.close()
