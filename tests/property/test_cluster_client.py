"""Laws of the cluster client, on a fake cluster with every kind of fault and every order of events.

Order: commands of one slot that succeed take effect in the order of their calls. Once: a command that is not repeatable
is executed at most once, and one that was reported as not executed never. Outcome: every command ends in bounded time.
No slot is stuck after the faults.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gregor.redis.commands import Script
from tests.support.cluster_world import SLOTS, ClusterWorld
from tests.support.fake_cluster import ADD, PUSH, SHARDS

DOMAINS: dict[str, list[Any]] = {
    "slot": list(SLOTS),
    "slots": [[SLOTS[0]] * 3, [*SLOTS], [SLOTS[0], SLOTS[2], SLOTS[0], SLOTS[3]]],
    "script": [PUSH, ADD],
    "keys": [1, 2, 3],
    "count": [1, 2, 3, 4],
    "place": list(range(20)),
    "node": list(range(2 * SHARDS)),
    "shard": list(range(SHARDS)),
    "seconds": [0.01, 0.1, 0.5, 1.1, 3.2],
    "discard": [False, True],
    "error": [None, "LOADING x", "CLUSTERDOWN Hash slot not served", "OOM x", "READONLY x"],
    "how": ["kill", "hang", "planned"],
    "lost": [0, 0, 1, 3],
}
"""The arguments of the rules, by name."""
_any = {name: st.sampled_from(values) for name, values in DOMAINS.items()}


class ClusterSchedule(RuleBasedStateMachine):
    """Random schedules of commands, faults and time."""

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make_world()
        self.cluster = self.world.cluster

    def make_world(self) -> ClusterWorld:
        return ClusterWorld()

    # ---- commands

    @rule(slot=_any["slot"], script=_any["script"], keys=_any["keys"], n=_any["count"])
    def issue(self, slot: int, script: Script, keys: int, n: int) -> None:
        for _ in range(n):
            self.world.issue(slot, script, keys)

    @rule(slots=_any["slots"], script=_any["script"])
    def issue_many(self, slots: list[int], script: Script) -> None:
        self.world.issue_many(slots, script)

    @rule(place=_any["place"])
    def cancel(self, place: int) -> None:
        waiting = [each for each in self.world.issued if not each.future.done()]
        if waiting:
            chosen = waiting[place % len(waiting)]
            self.world.issued.remove(chosen)
            chosen.future.cancel()

    # ---- the network

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(node=_any["node"], count=_any["count"])
    def process(self, node: int, count: int) -> None:
        self.world.loop.settle()
        self._node(node).process(count)

    @rule(node=_any["node"], count=_any["count"])
    def reply(self, node: int, count: int) -> None:
        self.world.loop.inside(lambda: self._node(node).reply(count))

    @rule(seconds=_any["seconds"])
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(seconds=_any["seconds"])
    def flow(self, seconds: float) -> None:
        self.world.flow(seconds)

    @rule(node=_any["node"], discard=_any["discard"])
    def cut(self, node: int, discard: bool) -> None:
        self.world.loop.inside(lambda: self._node(node).cut(discard=discard))

    @rule(shard=_any["shard"])
    def switch_proxy(self, shard: int) -> None:
        for connection in self.cluster.nodes[self.cluster.base[shard]].connections:
            connection.is_stale = True

    @rule(node=_any["node"], stall=_any["discard"])
    def stall(self, node: int, stall: bool) -> None:
        def change() -> None:
            for connection in list(self._node(node).connections):
                connection.stall() if stall else connection.resume()

        self.world.loop.inside(change)

    # ---- the cluster

    @rule(slot=_any["slot"], shard=_any["shard"])
    def move_atomically(self, slot: int, shard: int) -> None:
        if self._may_move(slot, shard):
            self.cluster.move_atomically(slot, self.cluster.base[shard])

    @rule(slot=_any["slot"], shard=_any["shard"])
    def open_slot(self, slot: int, shard: int) -> None:
        if self._may_move(slot, shard):
            self.cluster.open_slot(slot, self.cluster.base[shard])

    @precondition(lambda self: self.open_slots)
    @rule(place=_any["place"], count=_any["count"])
    def move_keys(self, place: int, count: int) -> None:
        self.cluster.move_some_keys(self.open_slots[place % len(self.open_slots)], count)

    @precondition(lambda self: self.open_slots)
    @rule(place=_any["place"])
    def close_slot(self, place: int) -> None:
        self.cluster.close_slot(self.open_slots[place % len(self.open_slots)])

    @rule(node=_any["node"])
    def gossip(self, node: int) -> None:
        self.cluster.gossip(self._node(node).address)

    @rule(slot=_any["slot"])
    def redirect_in_a_circle(self, slot: int) -> None:
        first, second = self.cluster.base[0], self.cluster.base[1]
        self.cluster.nodes[first].view[slot], self.cluster.nodes[second].view[slot] = second, first

    @rule(node=_any["node"], error=_any["error"])
    def refuse(self, node: int, error: str | None) -> None:
        self._node(node).error = error

    @rule(node=_any["node"])
    def flush_scripts(self, node: int) -> None:
        self._node(node).scripts.clear()

    @rule(shard=_any["shard"], how=_any["how"], lost=_any["lost"])
    def fail_over(self, shard: int, how: str, lost: int) -> None:
        old, new = (self.cluster.nodes[of[shard]] for of in (self.cluster.base, self.cluster.replicas))
        if not new.is_up or new.is_hung or old.migrating or old.importing:
            return
        if how == "kill":
            self.world.loop.inside(old.kill)
        elif how == "hang":
            old.is_hung = True
        self.cluster.fail_over(shard, 0 if how == "planned" else lost)
        if how == "planned":
            self.cluster.gossip(old.address)

    @rule(node=_any["node"])
    def hang(self, node: int) -> None:
        self._node(node).is_hung = self._node(node).is_up

    @rule(node=_any["node"])
    def restart(self, node: int) -> None:
        self.cluster.restart(self._node(node).address)

    # ---- the laws

    @invariant()
    def safety(self) -> None:
        self.world.check_safety()

    def teardown(self) -> None:
        self.world.check_liveness()
        self.world.close()

    # ---- helpers

    @property
    def open_slots(self) -> list[int]:
        cluster = self.cluster
        return [slot for slot in SLOTS if slot in cluster.nodes[cluster.truth[slot]].migrating]

    def _node(self, place: int) -> Any:
        return list(self.cluster.nodes.values())[place]

    def _may_move(self, slot: int, shard: int) -> bool:
        source, target = (
            self.cluster.nodes[address] for address in (self.cluster.truth[slot], self.cluster.base[shard])
        )
        is_moving = slot in source.migrating or any(slot in node.importing for node in self.cluster.nodes.values())
        return source is not target and not is_moving and all(n.is_up and not n.is_hung for n in (source, target))


ClusterSchedule.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestClusterSchedule = ClusterSchedule.TestCase


def run_random_schedule(seed: int, kind: type[ClusterSchedule] = ClusterSchedule, steps: int = 60) -> None:
    """Run one schedule of the same rules, chosen by a seed: without Hypothesis, thousands take seconds."""
    rng, machine = random.Random(seed), kind()
    try:
        for _ in range(steps):
            each = rng.choice(machine.rules)
            if all(check(machine) for check in each.preconditions):
                named = {"n": "count", "stall": "discard"}
                each.function(machine, **{arg: rng.choice(DOMAINS[named.get(arg, arg)]) for arg in each.arguments})
            machine.world.check_safety()
        machine.teardown()
    except Exception as error:
        error.add_note(f"seed {seed}")
        machine.world.loop.close()
        raise


def test_random_schedules() -> None:
    for seed in range(60):
        run_random_schedule(seed)


@pytest.mark.slow
def test_hundreds_of_random_schedules() -> None:
    for seed in range(1_000, 1_600):
        run_random_schedule(seed)


@pytest.mark.fuzz
@pytest.mark.timeout(1_200)
def test_thousands_of_random_schedules() -> None:
    for seed in range(1_600, 6_000):
        run_random_schedule(seed)
