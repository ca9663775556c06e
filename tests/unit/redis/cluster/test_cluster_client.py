"""The cluster client on a fake cluster: redirects, failovers, hung nodes, lost replies, backpressure, order.

There is a test for each row of the table in ``gregor.redis.cluster.answers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from gregor.cooperative import CALLERS_A_TURN
from gregor.redis.errors import RedisConnectionLost, RedisUnavailable
from tests.support.cluster_world import KEYS, ClusterWorld
from tests.support.fake_cluster import ADD, PUSH

SLOT, SAME_NODE, OTHER = 5, 17, 6_000
ONE, TWO, THREE = ("n", 1), ("n", 2), ("n", 3)


@pytest.fixture
def world() -> Iterator[ClusterWorld]:
    world = ClusterWorld()
    yield world
    world.check_safety()
    world.close()


def outcomes(world: ClusterWorld) -> list[str]:
    return [each.outcome for each in world.issued]


def executed_at(world: ClusterWorld) -> list[tuple[str, int]]:
    return [each.node for each in world.cluster.log]


def test_commands_go_to_owner_of_their_slot(world: ClusterWorld) -> None:
    for slot in KEYS:
        world.issue(slot, PUSH, 1)
    world.settle()

    assert [(each.slot, each.node) for each in world.cluster.log] == [
        (5, ONE),
        (17, ONE),
        (OTHER, TWO),
        (12_000, THREE),
    ]
    assert [node.name for node in world.client.nodes] == ["n:1", "n:2", "n:3"]


def test_keys_are_grouped_by_their_node(world: ClusterWorld) -> None:
    groups = world.client.group_by_node([KEYS[OTHER][0], KEYS[SLOT][0], KEYS[OTHER][1]])

    assert [(group.node.name if group.node else None, list(group.places)) for group in groups] == [
        ("n:2", [0, 2]),
        ("n:1", [1]),
    ]


def test_moved_is_followed_and_later_commands_go_there(world: ClusterWorld) -> None:
    world.cluster.move_atomically(SLOT, TWO)
    for _ in range(3):
        world.issue(SLOT, PUSH, 1)
    world.settle()
    world.issue(SLOT, PUSH, 1)
    world.settle()

    assert executed_at(world) == [TWO] * 4
    assert world.client.error_replies["MOVED"] == 3


def test_moved_asks_for_the_map_once(world: ClusterWorld) -> None:
    world.flow(1)
    reads = world.client.topology_reads
    for slot in (5, 17):
        world.cluster.move_atomically(slot, TWO)
        for _ in range(10):
            world.issue(slot, PUSH, 1)
    world.flow(1)

    assert outcomes(world) == ["ok"] * 20
    assert world.client.topology_reads - reads <= 2


def test_moved_to_same_address_opens_a_new_connection(world: ClusterWorld) -> None:
    node = world.cluster.nodes[ONE]
    [old] = [each for each in node.connections if each.close_reason is None]
    old.is_stale = True
    for _ in range(3):
        world.issue(SLOT, PUSH, 1)
    world.flow(0.5)

    assert outcomes(world) == ["ok"] * 3
    assert old.close_reason == "redirects to its own address"


def test_ask_sends_asking_and_command_together(world: ClusterWorld) -> None:
    world.cluster.open_slot(SLOT, TWO)
    world.issue(SLOT, PUSH, 1)  # its key does not exist yet: ASK
    world.settle()

    assert (outcomes(world), executed_at(world)) == (["ok"], [TWO])
    world.cluster.nodes[TWO].importing.clear()
    world.cluster.nodes[ONE].migrating.clear()
    world.issue(SLOT, PUSH, 1)
    world.settle()
    assert executed_at(world) == [TWO, ONE]  # the map has not changed: ASK is for one command


def test_tryagain_is_repeated_until_slot_is_whole(world: ClusterWorld) -> None:
    world.issue(SLOT, PUSH, 2)
    world.settle()
    world.cluster.open_slot(SLOT, TWO)
    world.cluster.move_some_keys(SLOT, 1)
    world.issue(SLOT, PUSH, 2)
    world.flow(0.1)
    assert outcomes(world) == ["ok", "open"]
    world.cluster.close_slot(SLOT)
    world.flow(0.1)

    assert outcomes(world) == ["ok", "ok"]


def test_tryagain_fails_soon_and_only_its_slot_waits(world: ClusterWorld) -> None:
    world.issue(SLOT, PUSH, 2)
    world.settle()
    world.cluster.open_slot(SLOT, TWO)
    world.cluster.move_some_keys(SLOT, 1)
    for slot in (SLOT, SLOT, 17, OTHER):
        world.issue(slot, PUSH, 2)
    world.settle()
    assert outcomes(world) == ["ok", "open", "open", "ok", "ok"]
    world.flow(0.6)

    assert outcomes(world) == ["ok", "refused", "refused", "ok", "ok"]
    assert "TRYAGAIN" in str(world.issued[1].future.exception())


@pytest.mark.parametrize("error", ["CLUSTERDOWN x", "LOADING x", "MASTERDOWN x", "READONLY x"])
def test_command_waits_for_a_node_that_cannot_serve_its_slot(world: ClusterWorld, error: str) -> None:
    world.cluster.nodes[ONE].error = error
    for slot in (SLOT, SLOT, OTHER):
        world.issue(slot, PUSH, 1)
    world.flow(1)
    assert outcomes(world) == ["open", "open", "ok"]
    world.cluster.nodes[ONE].error = None
    world.flow(0.3)

    assert outcomes(world) == ["ok"] * 3


@pytest.mark.parametrize("error", ["CLUSTERDOWN x", "LOADING x", "MASTERDOWN x", "READONLY x"])
def test_waiting_ends_as_not_executed(world: ClusterWorld, error: str) -> None:
    world.cluster.nodes[ONE].error = error
    world.issue(SLOT, PUSH, 1)
    world.flow(2.2)

    assert outcomes(world) == ["refused"]
    assert "slot 5 was not served in time: n:1 cannot serve it now" in str(world.issued[0].future.exception())


def test_missing_script_is_loaded_and_order_is_kept(world: ClusterWorld) -> None:
    world.cluster.nodes[ONE].scripts.clear()
    for _ in range(5):
        world.issue(SLOT, PUSH, 1)
    world.settle()
    world.issue(SLOT, PUSH, 1)
    world.settle()

    assert [each.token for each in world.cluster.log] == ["0", "1", "2", "3", "4", "5"]
    assert world.client.error_replies["NOSCRIPT"] == 5


@pytest.mark.parametrize("error", ["OOM command not allowed", "NOREPLICAS Not enough", "WRONGTYPE x"])
def test_other_errors_are_returned_at_once(world: ClusterWorld, error: str) -> None:
    world.cluster.nodes[ONE].error = error
    world.issue(SLOT, PUSH, 1)
    world.settle()

    assert outcomes(world) == ["error"]
    assert str(world.issued[0].future.exception()) == error


def test_lost_reply_of_repeatable_script_is_repeated_once(world: ClusterWorld) -> None:
    node = world.cluster.nodes[ONE]
    world.issue(SLOT, ADD, 1)
    world.loop.settle()
    node.process()
    world.loop.inside(lambda: node.cut(discard=False))
    assert outcomes(world) == ["open"]
    world.flow(0.5)
    assert outcomes(world) == ["ok"]

    world.issue(SLOT, ADD, 1)
    for _ in range(2):
        world.loop.advance(0.3)
        node.process()
        world.loop.inside(lambda: node.cut(discard=False))
    assert outcomes(world) == ["ok", "lost"]


def test_lost_reply_of_other_script_is_unknown(world: ClusterWorld) -> None:
    world.issue(SLOT, PUSH, 1)
    world.loop.settle()
    world.loop.inside(lambda: world.cluster.nodes[ONE].cut(discard=True))

    assert outcomes(world) == ["lost"]
    assert isinstance(world.issued[0].future.exception(), RedisConnectionLost)


def test_hung_node_is_dead_after_3_s_and_delays_no_other(world: ClusterWorld) -> None:
    world.flow(5)
    world.cluster.nodes[ONE].is_hung = True
    start = world.loop.now
    world.issue(SLOT, PUSH, 1)
    while outcomes(world)[0] == "open":
        world.flow(0.1)
        world.issue(OTHER, PUSH, 1)
        world.settle()
        assert outcomes(world)[-1] == "ok"

    assert outcomes(world)[0] == "lost"
    assert 2.9 <= world.loop.now - start <= 4.0


@pytest.mark.parametrize("tenth", range(40, 140, 2))
def test_hung_command_is_lost_after_3_s(world: ClusterWorld, tenth: int) -> None:
    """Whenever the last answer came and the command was sent, between two checks of the heartbeat."""
    world.flow(tenth / 10)
    world.issue(SLOT, PUSH, 1)
    world.flow(0.2)
    world.cluster.nodes[ONE].is_hung = True
    start = world.loop.now
    world.issue(SLOT, PUSH, 1)
    while outcomes(world)[1] == "open":
        world.flow(0.1)

    assert outcomes(world) == ["ok", "lost"]
    assert 2.9 <= world.loop.now - start <= 3.3


def test_idle_dead_link_is_noticed_within_8_s(world: ClusterWorld) -> None:
    world.flow(5)
    world.cluster.nodes[ONE].is_hung = True
    world.flow(8)

    assert [node.connected for node in world.client.nodes] == [False, True, True]
    assert world.client.covered_slots < 16_384


def test_redirects_in_a_circle_end(world: ClusterWorld) -> None:
    world.cluster.nodes[ONE].view[SLOT], world.cluster.nodes[TWO].view[SLOT] = TWO, ONE
    world.issue(SLOT, PUSH, 1)
    world.flow(2.2)

    assert outcomes(world) == ["refused"]
    assert "its nodes redirect in a circle" in str(world.issued[0].future.exception())
    assert world.client.error_replies["MOVED"] < 60


def test_failover_is_followed_without_losing_what_waits(world: ClusterWorld) -> None:
    world.flow(1)
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.issue(SLOT, PUSH, 1)
    world.issue(SLOT, PUSH, 1)
    world.flow(1)
    assert outcomes(world) == ["open", "open"]
    world.cluster.fail_over(0, 0)
    world.cluster.gossip()
    world.flow(0.9)

    assert outcomes(world) == ["ok", "ok"]
    assert executed_at(world) == [("n", 11)] * 2
    assert world.client.error_replies["NOSCRIPT"] == 0  # the scripts were loaded first on the new connection


def test_first_connection_of_a_promoted_replica_is_not_a_reconnection(world: ClusterWorld) -> None:
    world.flow(1)
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.cluster.fail_over(0, 0)
    world.cluster.gossip()
    world.flow(1)
    world.loop.inside(lambda: world.cluster.nodes[TWO].cut(discard=True))
    world.flow(1)

    assert {node.name: node.reconnections for node in world.client.nodes} == {"n:11": 0, "n:2": 1, "n:3": 0}


def test_waiting_commands_are_sent_a_few_at_a_time(world: ClusterWorld) -> None:
    """The callers of other shards would wait behind the work that follows from all their replies."""
    world.flow(1)
    world.loop.inside(world.cluster.nodes[ONE].kill)
    for slot in [SLOT] * 20 + [SAME_NODE] * 20:
        world.issue(slot, PUSH, 1)
    world.flow(1)
    world.cluster.fail_over(0, 0)
    world.cluster.gossip()
    world.flow(0.9)

    assert outcomes(world) == ["ok"] * 40
    [promoted] = world.cluster.nodes["n", 11].connections
    assert sum(promoted.calls) == 40
    assert max(promoted.calls) <= CALLERS_A_TURN


def test_callers_of_a_lost_node_continue_in_turns(world: ClusterWorld) -> None:
    for _ in range(40):
        world.issue(SLOT, PUSH, 1)
    seen: list[int] = []

    def watch() -> None:
        seen.append(sum(each.outcome == "lost" for each in world.issued))
        if len(seen) < 40:
            world.loop.call_soon(watch)

    world.loop.call_soon(watch)
    world.loop.inside(lambda: world.cluster.nodes[ONE].cut(discard=True))

    assert seen[-1] == 40
    assert max(later - earlier for earlier, later in pairwise(seen)) <= CALLERS_A_TURN


def test_overtaken_command_fails_instead_of_reordering(world: ClusterWorld) -> None:
    world.issue(SLOT, PUSH, 1)
    world.settle()
    world.cluster.open_slot(SLOT, TWO)
    world.issue(SLOT, PUSH, 2)  # one of its keys is missing: TRYAGAIN
    world.issue(SLOT, PUSH, 1)  # already sent behind it, and executed
    world.flow(0.1)

    assert outcomes(world) == ["ok", "refused", "ok"]
    assert "a later command was executed first" in str(world.issued[1].future.exception())


def test_slot_that_moves_has_one_command_in_flight(world: ClusterWorld) -> None:
    world.issue(SLOT, PUSH, 2)
    world.settle()
    world.cluster.open_slot(SLOT, TWO)
    world.cluster.move_some_keys(SLOT, 1)
    world.issue(SLOT, PUSH, 2)  # TRYAGAIN
    world.settle()
    for _ in range(3):
        world.issue(SLOT, PUSH, 3)  # other keys, which are not on two nodes
    world.flow(0.1)
    assert outcomes(world) == ["ok", "open", "open", "open", "open"]
    world.cluster.close_slot(SLOT)
    world.flow(0.1)

    assert outcomes(world) == ["ok"] * 5


def test_command_behind_a_hung_reply_fails_after_the_usual_wait(world: ClusterWorld) -> None:
    world.flow(5)
    world.cluster.move_atomically(SLOT, TWO)
    world.issue(SLOT, PUSH, 1)
    world.issue(SLOT, PUSH, 1)
    node = world.cluster.nodes[ONE]
    node.process()
    world.loop.inside(lambda: node.reply(1))
    node.is_hung = True
    world.issue(SLOT, PUSH, 1)
    world.flow(2.2)

    assert outcomes(world)[2] == "refused"


def test_later_command_waits_for_the_replies_of_a_renewed_connection(world: ClusterWorld) -> None:
    node = world.cluster.nodes[ONE]
    for connection in node.connections:
        connection.is_stale = True  # MOVED to its own address
    world.issue(SAME_NODE, PUSH, 1)
    world.issue(SLOT, PUSH, 1)
    node.process()
    world.loop.inside(lambda: node.reply(1))
    node.is_hung = True  # the reply of SLOT is late
    world.issue(SLOT, PUSH, 1)
    world.cluster.move_atomically(SLOT, TWO)
    world.cluster.gossip(TWO, THREE)
    world.flow(0.5)
    world.cluster.restart(ONE)
    world.flow(0.5)

    assert outcomes(world) == ["ok"] * 3
    assert [each.token for each in world.cluster.log if each.slot == SLOT] == ["1", "2"]


def test_unwritten_commands_survive_a_lost_connection(world: ClusterWorld) -> None:
    node = world.cluster.nodes[ONE]
    for connection in node.connections:
        connection.stall()
    for _ in range(4):
        world.issue(SLOT, PUSH, 1)
    world.loop.inside(lambda: node.cut(discard=True))
    world.flow(0.5)

    assert outcomes(world) == ["lost", "ok", "ok", "ok"]


def test_cancelled_unwritten_command_does_not_block_its_slot(world: ClusterWorld) -> None:
    node = world.cluster.nodes[ONE]
    node.error = "CLUSTERDOWN x"
    world.issue(SLOT, PUSH, 1)
    world.settle()
    for connection in node.connections:
        connection.stall()
    world.issue(SAME_NODE, PUSH, 1)  # the last write that the connection accepts
    world.advance(0.15)  # the probe of the slot waits in the client
    world.issued.pop(0).future.cancel()
    node.error = None
    world.loop.inside(lambda: node.cut(discard=True))
    world.flow(0.5)
    world.issue(SLOT, PUSH, 1)
    world.flow(0.5)

    assert outcomes(world) == ["lost", "ok"]


@pytest.mark.parametrize("elected_s", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
def test_elected_primary_is_used_at_once(elected_s: float, world: ClusterWorld) -> None:
    world.flow(1)
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.flow(elected_s)
    world.cluster.fail_over(0, 0)
    world.cluster.gossip()
    world.flow(0.25)
    world.issue(SLOT, PUSH, 1)
    world.settle()

    assert outcomes(world) == ["ok"]


def test_map_is_read_once_a_second_while_a_shard_stays_away(world: ClusterWorld) -> None:
    world.flow(1)
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.flow(20)
    reads = world.client.topology_reads
    world.flow(60)

    assert 60 <= world.client.topology_reads - reads <= 120


def test_map_of_a_node_that_was_cut_off_is_not_believed(world: ClusterWorld) -> None:
    world.flow(1)
    world.cluster.fail_over(0, 0)  # the old primary does not know
    world.cluster.gossip(TWO, THREE)
    world.flow(20)

    assert [node.name for node in world.client.nodes] == ["n:11", "n:2", "n:3"]
    for _ in range(10):
        world.loop.inside(world.client.refresh)
        world.flow(1)
        assert world.client.owner_address(SLOT) == ("n", 11)


def test_batch_has_outcomes_in_place_when_a_node_is_away(world: ClusterWorld) -> None:
    world.loop.inside(world.cluster.nodes[ONE].kill)
    world.issue_many([SLOT, OTHER, SLOT, 12_000], PUSH)
    world.flow(2.5)

    assert outcomes(world) == ["refused", "ok", "refused", "ok"]


def test_full_node_refuses_and_others_do_not() -> None:
    world = ClusterWorld(max_in_flight=10)
    for slot in [SLOT] * 12 + [OTHER] * 3:
        world.issue(slot, PUSH, 1)
    world.settle()

    assert outcomes(world) == ["ok"] * 10 + ["refused"] * 2 + ["ok"] * 3
    world.close()


def test_closed_client_refuses() -> None:
    world = ClusterWorld()
    world.issue(SLOT, PUSH, 1)
    world.loop.complete(world.client.close())
    world.issue(SLOT, PUSH, 1)

    assert [type(each.future.exception()) for each in world.issued] == [RedisConnectionLost, RedisUnavailable]
    world.close()
