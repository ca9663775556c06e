"""The delayed messages of a user are committed at the pace of 5 % of a core of Redis, in order, without loss."""

from __future__ import annotations

import dataclasses

import pytest

from gregor.core.messages.cost import redis_units
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.rate_limit import DELAYED_BURST, DELAYED_RATE, RateLimiter
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import MAX_WORK, DueHandlers
from tests.support.builders import LIMITS, NOW, NOW_US, SECOND_US, Document, external, interval, item, message
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness

DUE_S = 10
PHONE = Sender("phone")


def costly(number: int) -> Document:
    """Return a message that scans all live items."""
    intervals = [interval(prefix=f"c{number}.p{n}", begin=1, end=NOW - n) for n in range(7)]
    return message(intervals=intervals, message_id=f"m{number:03}")


COST = redis_units(parse_message(costly(0), LIMITS))
AT_ONCE = DELAYED_BURST // COST


async def delay(harness: SchedulerHarness, *documents: Document, uid: str = "alice", due_s: float = DUE_S) -> None:
    """Store delayed messages of the phone, all for one moment."""
    at_us = NOW_US + round(due_s * SECOND_US)
    for document in documents:
        kept = DelayedMessage(document, PHONE, NOW_US).encode()
        await harness.store.agenda.delay(uid, document["id"], kept, at_us)


async def waiting(harness: SchedulerHarness, uid: str = "alice") -> int:
    """Return the number of messages that are not committed."""
    return len(await harness.store.agenda.list_delayed(uid))


def restarted(harness: SchedulerHarness) -> SchedulerHarness:
    """Return another scheduler process for the same store."""
    handlers = DueHandlers(harness.context, RateLimiter(1e9, 1))
    due_loop = DueLoop(harness.store.agenda, handlers, harness.clock, harness.metrics, LEASE_US)
    return dataclasses.replace(harness, due_loop=due_loop)


async def test_costly_messages_of_one_moment_are_committed_at_a_pace(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(100)))

    await harness.advance(DUE_S)
    assert await waiting(harness) == 100 - AT_ONCE
    await harness.advance(4)
    assert await waiting(harness) == pytest.approx(100 - AT_ONCE - 4 * DELAYED_RATE / COST, abs=1)
    await harness.advance(20)

    assert await waiting(harness) == 0
    assert harness.metrics.timers.labels("delayed", "done")._value.get() == 100
    assert harness.metrics.timers.labels("delayed", "paced")._value.get() > 0


async def test_thousand_small_messages_of_one_moment_are_committed_at_once(harness: SchedulerHarness) -> None:
    await delay(harness, *(message({f"i{n}": item()}, message_id=f"m{n}") for n in range(500)))
    await delay(harness, *(message(ids=[f"i{n}"], message_id=f"d{n}") for n in range(500)))

    await harness.advance(DUE_S)

    assert await waiting(harness) == 0


async def test_pace_of_one_user_does_not_delay_others(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(100)))
    await delay(harness, message({"b": item()}, message_id="m"), uid="bob")

    await harness.advance(DUE_S)

    assert await waiting(harness, "bob") == 0 and await waiting(harness) > 0


async def test_pace_of_delayed_messages_does_not_delay_other_work_of_the_user(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(AT_ONCE + 2 * MAX_WORK)))
    await harness.create("a", remind_at=[NOW + DUE_S, NOW + DUE_S + 3])
    harness.announcements()

    await harness.advance(DUE_S)
    assert harness.announced() == [f"remind a +{DUE_S}"]
    await harness.advance(3)

    assert harness.announced() == [f"remind a +{DUE_S + 3}"] and await waiting(harness) > 0


async def test_small_message_does_not_overtake_the_costly_one_before_it(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(AT_ONCE + 2)))
    await delay(harness, external(1, message_id="z"))

    await harness.advance(DUE_S)
    assert await waiting(harness) == 3
    await harness.advance(2)

    assert await waiting(harness) == 0


async def test_restart_and_second_scheduler_share_the_pace(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(100)))
    await harness.advance(DUE_S)
    left = await waiting(harness)

    for _ in range(4):
        await restarted(harness).due_loop.run_due()
        await restarted(harness).advance(1)

    assert await waiting(harness) == pytest.approx(left - 4 * DELAYED_RATE / COST, abs=1)


async def test_message_that_waits_for_the_pace_can_be_cancelled(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(AT_ONCE + 5)))
    await harness.advance(DUE_S)

    assert await harness.store.agenda.cancel_delayed("alice", f"m{AT_ONCE:03}")
    await harness.advance(3)

    assert await waiting(harness) == 0
    assert harness.metrics.timers.labels("delayed", "done")._value.get() == AT_ONCE + 4


async def test_message_above_the_burst_is_committed_and_leaves_a_debt(harness: SchedulerHarness) -> None:
    reminders: list[float | str] = [f"+{n}" for n in range(100, 116)]
    huge = message({f"i{n}": item(remind_at=reminders) for n in range(100)}, message_id="a")
    debt_s = redis_units(parse_message(huge, LIMITS)) / DELAYED_RATE
    await delay(harness, huge, external(1, message_id="b"))

    await harness.advance(DUE_S)
    assert await waiting(harness) == 1 and len(await harness.live_ids()) == 100
    await harness.advance(debt_s - DELAYED_BURST / DELAYED_RATE - 1)
    assert await waiting(harness) == 1
    await harness.advance(2)

    assert await waiting(harness) == 0


async def test_messages_of_a_revoked_device_take_little_of_the_pace(harness: SchedulerHarness) -> None:
    await delay(harness, *(costly(n) for n in range(200)))
    await harness.store.devices.revoke("alice", "phone", NOW_US, NOW_US)

    await harness.advance(DUE_S)

    assert await waiting(harness) == 0
    assert harness.metrics.delayed_refused.labels("forbidden")._value.get() == 200
