"""Reminders wait after a reconnect to Redis: the gateways must have subscribed again."""

from __future__ import annotations

import asyncio

import pytest

from gregor.clock import ManualClock
from gregor.core.rate_limit import RateLimiter
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from gregor_scheduler.handlers.reminder_hold import HOLD_S, MAX_HOLD_S, ReminderHold
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness


class Node:
    """A server whose connection breaks on request, by a manual clock."""

    server_id = None
    connected = True

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.name = name
        self._clock = clock
        self.generation = 0
        self._opened_s = clock.monotonic()

    @property
    def connected_for_s(self) -> float:
        return self._clock.monotonic() - self._opened_s

    def reconnect(self) -> None:
        self.generation += 1
        self._opened_s = self._clock.monotonic()

    def call(self, *args: object) -> asyncio.Future[object]:
        raise NotImplementedError

    def call_on_connection(self, *args: object) -> asyncio.Future[object]:
        raise NotImplementedError


@pytest.fixture
def node(harness: SchedulerHarness) -> Node:
    """Let the scheduler hold reminders back. Its connection was opened long ago."""
    node = Node("redis:6379", harness.clock)
    handlers = DueHandlers(harness.context, RateLimiter(1e9, 1_000_000), ReminderHold(lambda uid: node, harness.clock))
    harness.due_loop = DueLoop(harness.store.agenda, handlers, harness.clock, harness.metrics, LEASE_US)
    harness.clock.advance(60)
    return node


async def test_reminder_of_an_old_connection_fires_at_once(harness: SchedulerHarness, node: Node) -> None:
    await harness.create("a", remind_at=["+5"])
    harness.announcements()

    await harness.advance(5)

    assert harness.announced() == ["remind a +65"]


async def test_reminders_wait_after_a_reconnect_and_other_work_does_not(harness: SchedulerHarness, node: Node) -> None:
    await harness.create("a", remind_at=["+5", "+6"])
    await harness.create("b", expires="+7")
    harness.announcements()
    harness.clock.advance(10)

    node.reconnect()
    await harness.due_loop.run_due()
    assert harness.announced() == ["expired b"]
    await harness.advance(HOLD_S - 1)
    assert harness.announced() == []

    await harness.advance(1)
    assert harness.announced() == ["remind a +65", "remind a +66"]


async def test_reminder_does_not_wait_beyond_the_expiry_of_its_item(harness: SchedulerHarness, node: Node) -> None:
    await harness.create("a", remind_at=["+5"], expires="+7")
    harness.announcements()
    harness.clock.advance(5)

    node.reconnect()
    await harness.due_loop.run_due()

    assert harness.announced() == ["remind a +65"]


async def test_connection_that_breaks_again_and_again_holds_reminders_for_a_limited_time(
    harness: SchedulerHarness, node: Node
) -> None:
    await harness.create("a", remind_at=["+1"])
    await harness.create("b", remind_at=[f"+{MAX_HOLD_S + 5}"])
    harness.announcements()
    harness.clock.advance(1)

    async def flap(seconds: float) -> None:
        for _ in range(round(seconds)):
            node.reconnect()
            await harness.advance(1)

    await flap(MAX_HOLD_S)
    assert harness.announced() == []
    await flap(2)
    assert harness.announced() == ["remind a +61"]
    # Later reminders do not wait either, until the connection was good.
    await flap(5)
    assert harness.announced() == [f"remind b +{65 + MAX_HOLD_S:g}"]


async def test_next_outage_holds_reminders_again(harness: SchedulerHarness, node: Node) -> None:
    await harness.create("a", remind_at=["+1", "+100"])
    harness.announcements()
    for _ in range(round(MAX_HOLD_S) + 2):
        node.reconnect()
        await harness.advance(1)
    assert harness.announced() == ["remind a +61"]
    harness.clock.advance(100)

    node.reconnect()
    await harness.due_loop.run_due()

    assert harness.announced() == []
    await harness.advance(HOLD_S)
    assert harness.announced() == ["remind a +160"]


def test_each_server_holds_the_reminders_of_its_users() -> None:
    clock = ManualClock(0)
    nodes = {"alice": Node("one:6379", clock), "bob": Node("two:6379", clock)}
    hold = ReminderHold(nodes.get, clock)
    clock.advance(HOLD_S)

    nodes["bob"].reconnect()

    assert hold.until_us("alice", None) == 0
    assert hold.until_us("bob", None) == clock.now_us() + HOLD_S * 1_000_000
    assert hold.until_us("carol", None) == 0
