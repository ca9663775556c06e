"""Histories that fork: a failover lost the last messages, and the same seqs belong to other messages now.

A device that computes no digest applies whatever it gets. It must end with the items of the server.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.items.sync import Full, View
from gregor.redis.pubsub.memory import FIRST_SERVER
from tests.support.blind_copy import BlindCopy
from tests.unit.gateway.conftest import Gateway, LocalDevice, open_gateway, settle

DEVICES = ("phone", "laptop")
NOT_REPLICATED_S = 25
"""Longest time before an interruption in which messages are lost: a little less than an interval of comparisons."""
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from([None, "phone", "laptop", "*"])),
        st.tuples(st.just("dismiss"), st.integers(0, 5), st.sampled_from(["", *DEVICES])),
        st.tuples(st.just("external")),
        st.tuples(st.just("lose_next")),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 8.0])),
    ),
    max_size=6,
)
SEEN_BY_ALL = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.none()),
        st.tuples(st.just("dismiss"), st.integers(0, 5), st.just("")),
        st.tuples(st.just("lose_next")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 40.0])),
    ),
    max_size=6,
)
"""Operations that change the views of all devices."""


@dataclass
class Failover:
    """A gateway with two blind devices, and a store whose history can fork."""

    gateway: Gateway
    devices: dict[str, LocalDevice] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        for name in DEVICES:
            self.devices[name] = self.gateway.dial(name)
        await settle(40)

    async def run(self, operations: list[tuple[Any, ...]], most_s: float = 1e9) -> None:
        """Execute operations, in at most so many seconds."""
        for operation in operations:
            match operation:
                case ("create", for_device):
                    name = f"n{self.gateway.seeds}"
                    self.created.append(name)
                    await self.gateway.create(name, for_device=for_device)
                case ("dismiss", back, device) if self.created:
                    await self.gateway.dismiss(self.created[-1 - back % len(self.created)], device=device)
                case ("external",):
                    await self.gateway.send({"text": "hello"}, system="chat")
                case ("lose_next",):
                    self.gateway.feed.drop_next()
                case ("wait", seconds) if seconds <= most_s:
                    most_s -= seconds
                    await self.wait(seconds)
            await settle(5)

    async def wait(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds))):
            self.gateway.pass_time(min(seconds, 1.0))
            await settle(10)

    def replicate(self) -> Any:
        """Return a copy of the user's state, as a replica has it."""
        return copy.deepcopy(self.gateway.store._data.users.get("alice"))

    def promote(self, state: Any) -> None:
        """Continue with the state of a replica."""
        users = self.gateway.store._data.users
        if state is None:
            users.pop("alice", None)
        else:
            users["alice"] = state

    async def assert_equal(self) -> None:
        """Compare each device with the server, when all comparisons are over."""
        await self.wait(75)
        await settle(40)
        for name, device in self.devices.items():
            blind = BlindCopy()
            blind.apply(device.frames)
            answer = await self.gateway.store.users.sync(
                "alice", View(name), None, b"?" * 32, self.gateway.clock.now_us(), (), b"xyz"
            )
            assert isinstance(answer, Full)
            assert set(blind.items) == {each.id for each in answer.items}, (name, device.kinds)


@settings(deadline=None)
@given(before=OPERATIONS, lost=OPERATIONS, away=OPERATIONS, after=OPERATIONS, is_moved_late=st.booleans())
async def test_blind_device_ends_equal_after_a_failover(
    before: list[Any], lost: list[Any], away: list[Any], after: list[Any], is_moved_late: bool
) -> None:
    """``away``: what the new primary gets while the gateway has no subscription."""

    async with open_gateway() as gateway:
        failover = Failover(gateway)
        await failover.begin()
        await failover.run(before)
        replica = failover.replicate()
        await failover.run(lost, NOT_REPLICATED_S)
        if is_moved_late:
            gateway.feed.interrupt()
        failover.promote(replica)
        gateway.feed.interrupt()
        await failover.run(away)
        gateway.feed.reconnect("other")
        await failover.run(after)
        await failover.assert_equal()


@settings(deadline=None)
@given(before=SEEN_BY_ALL, lost=SEEN_BY_ALL, away=SEEN_BY_ALL, after=SEEN_BY_ALL)
async def test_long_fork_is_found_by_the_links(
    before: list[Any], lost: list[Any], away: list[Any], after: list[Any]
) -> None:
    """A primary that was cut off for minutes: its announcements were compared with itself meanwhile."""
    async with open_gateway() as gateway:
        failover = Failover(gateway)
        await failover.begin()
        await failover.run(before)
        replica = failover.replicate()
        await failover.run([*lost, ("wait", 70.0)])
        gateway.feed.interrupt()
        failover.promote(replica)
        await failover.run(away)
        gateway.feed.reconnect("other")
        await failover.run(after)
        await failover.assert_equal()


@settings(deadline=None)
@given(lost=OPERATIONS, away=OPERATIONS)
async def test_blind_device_ends_equal_after_an_interruption(lost: list[Any], away: list[Any]) -> None:
    """The same server: no history forks."""
    async with open_gateway() as gateway:
        failover = Failover(gateway)
        await failover.begin()
        await failover.run(lost)
        gateway.feed.interrupt()
        await failover.run([step for step in away if step[0] != "wait"])
        gateway.feed.reconnect(FIRST_SERVER)
        await failover.assert_equal()


async def test_delta_is_not_sent_across_a_fork(gateway: Gateway) -> None:
    """An old primary that was hung announced a message that the new one does not have."""
    failover = Failover(gateway)
    await failover.begin()
    await failover.run([("create", None)])
    replica = failover.replicate()
    await failover.run([("create", None)])
    failover.promote(replica)
    gateway.feed.interrupt()
    await failover.run([("create", None), ("create", None)])

    gateway.feed.reconnect("other")

    await failover.assert_equal()
    assert [device.kinds[-1] for device in failover.devices.values()] == ["full", "full"]


async def test_copy_after_a_fork_says_that_externals_may_be_lost(gateway: Gateway) -> None:
    """L13: the external messages between the old position and the copy were not delivered."""
    failover = Failover(gateway)
    await failover.begin()
    await failover.run([("create", None)])
    gateway.feed.interrupt()
    await failover.run([("external",), ("create", None)])

    gateway.feed.reconnect("other")

    await failover.assert_equal()
    copies = [device.frames[-1] for device in failover.devices.values()]
    assert [(copy["sync"], copy.get("external_gap")) for copy in copies] == [("full", True), ("full", True)]


async def test_comparison_during_an_interruption_finds_the_fork(gateway: Gateway) -> None:
    """The store is the new primary already, and the subscription is not back yet."""
    failover = Failover(gateway)
    await failover.begin()
    await failover.run([("create", None)])
    replica = failover.replicate()
    await failover.run([("create", None), ("wait", 70.0)])
    gateway.feed.interrupt()
    failover.promote(replica)
    await failover.run([("create", None), ("create", None), ("wait", 40.0)])

    assert [device.kinds[-1] for device in failover.devices.values()] == ["full", "full"]


@pytest.mark.parametrize("idle_s", [0, 70])
async def test_only_recent_positions_are_copied(gateway: Gateway, idle_s: float) -> None:
    """A user without recent messages gets no copy after a failover: the position was replicated long ago."""
    failover = Failover(gateway)
    await failover.begin()
    await failover.run([("create", None)])
    await failover.wait(idle_s)
    kinds = [list(device.kinds) for device in failover.devices.values()]

    gateway.feed.interrupt()
    gateway.feed.reconnect("other")
    await failover.assert_equal()

    copies = [] if idle_s else ["full"]
    assert [device.kinds for device in failover.devices.values()] == [[*each, *copies] for each in kinds]
