"""Overdue deliveries are published again, because the queue may have lost them."""

from __future__ import annotations

import pytest

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import OVERDUE_US, Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.store.contract.devices import Registration
from gregor_scheduler.handlers.publishing import SPREAD_US
from gregor_scheduler.handlers.redelivery import GRACE_US
from gregor_scheduler.user_shares import UserShares
from tests.support.builders import DAY_US, HOUR_US, NOW_US, SECOND_US
from tests.unit.scheduler.conftest import SchedulerHarness, build

MINUTE_S = 60.0
OVERDUE_S = OVERDUE_US / SECOND_US
PUSH_DELAY_S = 10


@pytest.fixture
async def harness() -> SchedulerHarness:
    """A phone, and items whose push is published ten seconds after their creation."""
    made = await build({"news": {"title": "News", "push": {"after": f"{PUSH_DELAY_S}s"}}})
    await made.store.devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US)
    return made


async def published_intent(harness: SchedulerHarness) -> Intent:
    """Create an item and return its published push."""
    await harness.create("a")
    await harness.advance(PUSH_DELAY_S)
    [intent] = harness.queue.intents
    harness.published()
    return intent


async def record_outcome(
    harness: SchedulerHarness, intent: Intent, state: DeliveryState, after_us: int | None = None
) -> None:
    """Claim a delivery and record an outcome, as a delivery worker does."""
    now_us = harness.clock.now_us()
    claim = await harness.store.ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    if state is not DeliveryState.CLAIMED:
        next_us = None if after_us is None else now_us + after_us
        history = DeliveryHistory(intent.at_us, intent.seq, next_us=next_us, attempts=(DeliveryAttempt(now_us, "200"),))
        await harness.store.ledger.record_outcome(claim.delivery, "", state, history)


async def test_lost_intent_is_published_again(harness: SchedulerHarness) -> None:
    intent = await published_intent(harness)

    await harness.advance(OVERDUE_S - 1, MINUTE_S)
    assert harness.published() == []
    await harness.advance(2)

    assert harness.queue.intents == [intent]


async def test_republishing_becomes_rare(harness: SchedulerHarness) -> None:
    """A provider may be unavailable for a day while the queue holds the intent."""
    await published_intent(harness)
    hours = []
    for hour in range(1, 25):
        await harness.advance(HOUR_US / SECOND_US, MINUTE_S)
        hours += [hour] * len(harness.published())

    assert hours == [1, 1, 1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    "state", [DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.UNKNOWN]
)
async def test_final_delivery_is_not_published_again(harness: SchedulerHarness, state: DeliveryState) -> None:
    await record_outcome(harness, await published_intent(harness), state)

    await harness.advance(OVERDUE_S + 1, MINUTE_S)

    assert harness.published() == []
    assert await harness.store.agenda.due_work("alice", harness.clock.now_us() + DAY_US, 9) == []


@pytest.mark.parametrize("state", [DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN])
async def test_waiting_delivery_is_overdue_after_its_time(harness: SchedulerHarness, state: DeliveryState) -> None:
    intent = await published_intent(harness)
    await record_outcome(harness, intent, state, HOUR_US)

    await harness.advance((HOUR_US + GRACE_US) / SECOND_US - MINUTE_S, MINUTE_S)
    assert harness.published() == []
    await harness.advance(2 * MINUTE_S, MINUTE_S)

    assert [each.key for each in harness.queue.intents] == [intent.key]


async def test_claimed_delivery_is_overdue_after_lease(harness: SchedulerHarness) -> None:
    """The queue gives the intent to another worker, unless the queue lost it."""
    intent = await published_intent(harness)
    await record_outcome(harness, intent, DeliveryState.CLAIMED)

    await harness.advance(OVERDUE_S + 1, MINUTE_S)

    assert [each.key for each in harness.queue.intents] == [intent.key]
    assert harness.metrics.republished.labels("apns")._value.get() == 1


async def test_deleted_user_has_no_redelivery(harness: SchedulerHarness) -> None:
    await published_intent(harness)

    await harness.store.users.delete_user("alice", harness.clock.now_us())
    await harness.advance(2 * OVERDUE_S, MINUTE_S)

    assert harness.published() == []


PUSH = "item a apns phone"


async def dead_intent(harness: SchedulerHarness) -> Intent:
    """Return a delivery that was published and is dead."""
    intent = await published_intent(harness)
    await record_outcome(harness, intent, DeliveryState.DEAD)
    return intent


async def test_replay_is_published_once_until_overdue(harness: SchedulerHarness) -> None:
    intent = await dead_intent(harness)
    await harness.advance(DAY_US / SECOND_US, MINUTE_S)

    assert await harness.store.dead_letters.replay(intent, harness.clock.now_us())
    await harness.advance(1)

    assert harness.published() == [PUSH]
    await harness.advance(OVERDUE_S - 2, MINUTE_S)
    assert harness.published() == []
    await harness.advance(MINUTE_S)
    assert harness.published() == [PUSH]


async def test_replay_waits_for_room_in_the_queue(harness: SchedulerHarness) -> None:
    intent = await dead_intent(harness)
    harness.queue.most = 0

    assert await harness.store.dead_letters.replay(intent, harness.clock.now_us())
    await harness.advance(MINUTE_S, 1)
    harness.queue.most = None
    await harness.advance(OVERDUE_S, MINUTE_S)

    assert harness.published() == [PUSH]


async def test_replay_needs_no_share(harness: SchedulerHarness) -> None:
    intent = await dead_intent(harness)
    harness.context.publisher._shares = shares = UserShares(1e-6)
    shares.take("alice", "apns", shares.burst, harness.clock.monotonic())

    assert await harness.store.dead_letters.replay(intent, harness.clock.now_us())
    await harness.advance(1)

    assert harness.published() == [PUSH]


async def test_overdue_delivery_above_the_share_is_published_soon(harness: SchedulerHarness) -> None:
    """Not only at the next check, whose pauses double."""
    await published_intent(harness)
    harness.context.publisher._shares = shares = UserShares(1e-6)
    shares.take("alice", "apns", shares.burst, harness.clock.monotonic())
    await harness.advance(OVERDUE_S, MINUTE_S)
    assert harness.published() == []

    harness.context.publisher._shares = UserShares(None)
    await harness.advance(SPREAD_US / SECOND_US, MINUTE_S)

    assert harness.published() == [PUSH]


async def test_replay_with_next_attempt_is_not_published(harness: SchedulerHarness) -> None:
    intent = await dead_intent(harness)
    assert await harness.store.dead_letters.replay(intent, harness.clock.now_us())
    await harness.advance(1)
    harness.published()

    await record_outcome(harness, intent, DeliveryState.RETRY, HOUR_US)
    await harness.advance(OVERDUE_S + MINUTE_S, MINUTE_S)

    assert harness.published() == []


async def test_expedited_delivery_published_once_until_overdue(
    harness: SchedulerHarness,
) -> None:
    intent = await published_intent(harness)
    now_us = harness.clock.now_us()
    claim = await harness.store.ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    history = claim.delivery.history.waiting("quiet_hours", now_us, now_us + 6 * HOUR_US)
    await harness.store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)
    await harness.advance(HOUR_US / SECOND_US, MINUTE_S)
    assert harness.published() == []

    now_us = harness.clock.now_us()
    assert await harness.store.ledger.expedite("alice", "quiet_hours", now_us, now_us) == 1
    await harness.advance(1)

    assert harness.published() == [PUSH]
    await harness.advance(OVERDUE_S - 2, MINUTE_S)
    assert harness.published() == []
    await harness.advance(MINUTE_S)
    assert harness.published() == [PUSH]
