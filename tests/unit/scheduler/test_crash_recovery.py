"""A scheduler that crashes at any step: the next one reaches the same outcome, and announces nothing twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

import pytest

from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import Intent
from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueWriter
from gregor.reference.store.agenda import MemoryAgenda
from gregor.store.contract.devices import Registration
from gregor_scheduler.delivery_publisher import DeliveryPublisher
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.support.builders import BACKEND, DAY_US, NOW_US, SECOND_US, item, message
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness, build, queue_connector

TYPES = {
    "told": {"title": "A word", "push": {"after": "10s"}, "email": {"after": "20s"}},
    "fold": {"title": "A thing", "aggregate": {"window": "30s", "at_least": 3}},
}
STORE_PARTS = ("users", "agenda", "devices")


class Crashed(BaseException):
    """A crash: a ``BaseException`` that the scheduler does not catch."""


class CallBudget:
    """The calls of store and queue until the crash, which comes before the last call takes effect, or after."""

    def __init__(self, calls: int, *, is_done: bool) -> None:
        self.left = calls
        self._is_done = is_done

    def wrap(self, thing: Any) -> Any:
        """Return ``thing`` with counted calls."""
        return _Crashing(thing, self)

    async def spend(self, call: Callable[[], Any]) -> Any:
        self.left -= 1
        if self.left < 0 or (self.left == 0 and not self._is_done):
            raise Crashed
        result = await call()
        if self.left == 0:
            raise Crashed
        return result


class _Crashing:
    def __init__(self, thing: Any, budget: CallBudget) -> None:
        self._thing = thing
        self._budget = budget

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not iscoroutinefunction(found):
            if callable(found):
                return found
            return self._budget.wrap(found) if name in STORE_PARTS else found
        return lambda *args, **kwargs: self._budget.spend(lambda: found(*args, **kwargs))


def scheduler(harness: SchedulerHarness, budget: CallBudget) -> DueLoop:
    """Return another scheduler on the same store, which crashes when its calls are used up."""
    store = budget.wrap(harness.store)
    publisher = DeliveryPublisher(queue_connector(budget.wrap(harness.queue)), harness.clock.monotonic)
    context = replace(harness.context, store=store, publisher=publisher)
    return DueLoop(
        store.agenda, DueHandlers(context, RateLimiter(1e9, 1_000_000)), harness.clock, harness.metrics, LEASE_US
    )


async def much_to_do() -> SchedulerHarness:
    """Return a harness in which work of all kinds is due at the same moment."""
    harness = await build(TYPES)
    devices = harness.store.devices
    await devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "t"}), NOW_US)
    await harness.create("old")
    await harness.dismiss("old")
    harness.clock.advance(40 * DAY_US / SECOND_US)
    await devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "t"}), now_us(harness))
    await harness.create("a", category="told", remind_at=["+5", "+25"])
    await harness.create("b", category="told", remind_at=["+5"], expires="+15")
    await harness.create("c", "d", "e", category="fold")
    await harness.create("f", remind_at=["+1", "+2", "+3"])
    later = DelayedMessage(message({"late": item()}, message_id="m"), Sender())
    await harness.store.agenda.delay("alice", "m", later.encode(), now_us(harness) + SECOND_US)
    harness.announcements()
    harness.clock.advance(35)
    return harness


def now_us(harness: SchedulerHarness) -> int:
    return harness.clock.now_us()


async def outcome(harness: SchedulerHarness) -> dict[str, Any]:
    """Return everything that a user or an operator could observe, with the number of announcements."""
    entries = await harness.store.users.history("alice", BACKEND, None, 100, now_us(harness))
    return {
        "announced": Counter(
            (told.kind, told.reason, told.remind_at_us, entry.id)
            for told in harness.announcements()
            for entry in told.entries
        ),
        "published": set(harness.published()),
        "live": await harness.live_ids(),
        "gone": {entry.id: entry.gone and entry.gone.reason for entry in entries},
        "devices": set(await harness.store.devices.list_devices("alice", now_us(harness))),
        "agenda": [work.entry for work in await harness.store.agenda.due_work("alice", now_us(harness), 99)],
    }


async def steps() -> int:
    """Return how many calls a scheduler needs to execute all of the work."""
    harness, budget = await much_to_do(), CallBudget(1_000_000, is_done=True)
    await scheduler(harness, budget).run_due()
    return 1_000_000 - budget.left


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_crash_at_any_step_has_the_same_outcome(is_done: bool) -> None:
    harness = await much_to_do()
    await harness.due_loop.run_due()
    expected = await outcome(harness)
    assert max(expected["announced"].values()) == 1 and len(expected["announced"]) == 11
    assert len(expected["published"]) >= 3
    count = await steps()
    assert count > 20

    for number in range(1, count + 1):
        harness = await much_to_do()
        with pytest.raises(Crashed):
            await scheduler(harness, CallBudget(number, is_done=is_done)).run_due()
        harness.clock.advance(LEASE_US / SECOND_US)
        await harness.due_loop.run_due()

        assert await outcome(harness) == expected, f"crashed at step {number} of {count}"


class FailingOverQueue(MemoryQueueWriter):
    """A queue that gets its first intents just before another server replaces the state."""

    replace_server: Callable[[], None] | None = None

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        refused = await super().enqueue(intents, at_us)
        if self.replace_server is not None:
            self.replace_server()
            self.replace_server = None
        return refused


async def test_work_before_a_failover_is_executed_again() -> None:
    """The new server may have the agenda without the record of the delivery. The worker then drops the first intent."""
    queue = FailingOverQueue()
    harness = await build(TYPES, queue=queue)
    push = Registration(push={"provider": "apns", "token": "t"})
    await harness.store.devices.put_device("alice", "phone", push, NOW_US)
    await harness.create("a", category="told")
    agenda = harness.store.agenda
    assert isinstance(agenda, MemoryAgenda)
    queue.replace_server = lambda: setattr(agenda, "server", agenda.server + 1)

    await harness.advance(10)

    assert harness.published() == ["item a apns phone"] * 2, "due again at once"
    await harness.advance(60)
    assert harness.published() == ["item a email"]
