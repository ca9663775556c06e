"""Laws of the pub/sub of a cluster, on a fake cluster with every kind of fault and every order of events.

No silent loss: a message that a receiver missed is followed by ``gap``. No repetition: each message comes at most once,
in order. After the faults, every channel gets messages again.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import rule

from tests.property.test_cluster_client import ClusterSchedule, _any, run_random_schedule
from tests.support.cluster_pubsub_world import PubSubWorld
from tests.support.cluster_world import SLOTS
from tests.support.redis_cluster import slot_of


class PubSubSchedule(ClusterSchedule):
    """The schedules of the client, with subscriptions and messages."""

    def __init__(self) -> None:
        super().__init__()
        # Channel, payload, and the number of gaps of its receiver before it was published.
        self.sent: list[tuple[str, bytes, int]] = []
        for slot in SLOTS:
            self.pubsub.subscribe(slot, 2)
        self.pubsub.settle()

    def make_world(self) -> PubSubWorld:
        self.pubsub = PubSubWorld()
        return self.pubsub

    @rule(place=_any["place"], n=_any["count"])
    def publish(self, place: int, n: int) -> None:
        name = list(self.pubsub.receivers)[place % len(self.pubsub.receivers)]
        for _ in range(n):
            payload = b"%d" % len(self.sent)
            before = self.pubsub.heard(name).count("gap")
            if self.pubsub.publish(name, payload):
                self.sent.append((name, payload, before))

    @rule(node=_any["node"])
    def deafen(self, node: int) -> None:
        for connection in self._node(node).connections:
            connection.is_deaf = True

    def teardown(self) -> None:
        world = self.pubsub
        world.check_liveness()
        world.flow(20.0)
        for name in world.receivers:
            assert world.publish(name, b"end")
        world.settle()
        for name, receiver in world.receivers.items():
            assert receiver.heard[-1] == b"end", f"{name} of slot {slot_of(name)} is deaf: {receiver.heard[-3:]}"
            numbers: list[Any] = [int(each) for each in receiver.heard if each not in ("gap", b"end")]
            assert numbers == sorted(set(numbers)), f"{name} heard {numbers}"
        for name, payload, gaps in self.sent:
            heard = world.heard(name)
            assert payload in heard or heard.count("gap") > gaps, f"{name} missed {payload!r} and was not notified"
        world.close()


PubSubSchedule.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestPubSubSchedule = PubSubSchedule.TestCase


def test_random_schedules() -> None:
    for seed in range(40):
        run_random_schedule(seed, PubSubSchedule)


@pytest.mark.slow
def test_hundreds_of_random_schedules() -> None:
    for seed in range(1_000, 1_200):
        run_random_schedule(seed, PubSubSchedule)


@pytest.mark.fuzz
@pytest.mark.timeout(1_200)
def test_thousands_of_random_schedules() -> None:
    for seed in range(1_200, 4_000):
        run_random_schedule(seed, PubSubSchedule)
