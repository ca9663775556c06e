"""Deliveries of which nothing became are handed over again: the queue may have lost them."""

from __future__ import annotations

import pytest

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import OVERDUE_US, Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.store.contract.devices import Registration
from gregor_scheduler.handlers.redelivery import GRACE_US
from tests.support.builders import DAY_US, HOUR_US, NOW_US, SECOND_US
from tests.unit.scheduler.conftest import House, build

MINUTE_S = 60.0
LOOK_S = OVERDUE_US / SECOND_US
BORN_S = 10


@pytest.fixture
async def house() -> House:
    """A phone, and an item whose push is handed over ten seconds after it was made."""
    made = await build({"news": {"title": "News", "push": {"after": f"{BORN_S}s"}}})
    await made.store.devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "1"}), NOW_US)
    return made


async def handed(house: House) -> Intent:
    """What is in the queue after ten seconds."""
    await house.create("a")
    await house.pass_time(BORN_S)
    [intent] = house.deliveries.intents
    house.handed()
    return intent


async def becomes(house: House, intent: Intent, state: DeliveryState, after_us: int | None = None) -> None:
    """What a worker makes of it."""
    now_us = house.clock.now_us()
    claim = await house.store.ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    if state is not DeliveryState.CLAIMED:
        next_us = None if after_us is None else now_us + after_us
        history = DeliveryHistory(intent.at_us, intent.seq, next_us=next_us, attempts=(DeliveryAttempt(now_us, "200"),))
        await house.store.ledger.record_outcome(claim.delivery, "", state, history)


async def test_what_the_queue_lost_is_handed_over_again_as_it_was(house: House) -> None:
    intent = await handed(house)

    await house.pass_time(LOOK_S - 1, MINUTE_S)
    assert house.handed() == []
    await house.pass_time(2)

    assert house.deliveries.intents == [intent]


async def test_it_is_asked_the_less_often_the_longer_nothing_becomes_of_it(house: House) -> None:
    """A provider may be away for a day, and all that time the queue has it."""
    await handed(house)
    hours = []
    for hour in range(1, 25):
        await house.pass_time(HOUR_US / SECOND_US, MINUTE_S)
        hours += [hour] * len(house.handed())

    assert hours == [1, 1, 1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    "state", [DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.UNKNOWN]
)
async def test_of_what_is_over_nothing_is_asked(house: House, state: DeliveryState) -> None:
    await becomes(house, await handed(house), state)

    await house.pass_time(LOOK_S + 1, MINUTE_S)

    assert house.handed() == []
    assert await house.store.agenda.due_work("alice", house.clock.now_us() + DAY_US, 9) == []


@pytest.mark.parametrize("state", [DeliveryState.WAITING, DeliveryState.RETRY, DeliveryState.UNKNOWN])
async def test_what_waits_for_its_time_is_late_only_after_it(house: House, state: DeliveryState) -> None:
    intent = await handed(house)
    await becomes(house, intent, state, HOUR_US)

    await house.pass_time((HOUR_US + GRACE_US) / SECOND_US - MINUTE_S, MINUTE_S)
    assert house.handed() == []
    await house.pass_time(2 * MINUTE_S, MINUTE_S)

    assert [each.key for each in house.deliveries.intents] == [intent.key]


async def test_what_somebody_died_over_is_late_after_its_lease(house: House) -> None:
    """The queue gives it to another; where the queue lost it, this does."""
    intent = await handed(house)
    await becomes(house, intent, DeliveryState.CLAIMED)

    await house.pass_time(LOOK_S + 1, MINUTE_S)

    assert [each.key for each in house.deliveries.intents] == [intent.key]
    assert house.figures.handed_over_again.labels("apns")._value.get() == 1


async def test_of_a_user_that_is_forgotten_nothing_is_asked(house: House) -> None:
    await handed(house)

    await house.store.users.delete_user("alice", house.clock.now_us())
    await house.pass_time(2 * LOOK_S, MINUTE_S)

    assert house.handed() == []


PUSH = "item a apns phone"


async def dead(house: House) -> Intent:
    """Handed over, and given up."""
    intent = await handed(house)
    await becomes(house, intent, DeliveryState.DEAD)
    return intent


async def test_a_replay_is_handed_over_within_a_second_and_not_again_before_it_is_late(house: House) -> None:
    intent = await dead(house)
    await house.pass_time(DAY_US / SECOND_US, MINUTE_S)

    assert await house.store.dead_letters.replay(intent, house.clock.now_us())
    await house.pass_time(1)

    assert house.handed() == [PUSH]
    await house.pass_time(LOOK_S - 2, MINUTE_S)
    assert house.handed() == []
    await house.pass_time(MINUTE_S)
    assert house.handed() == [PUSH]


async def test_a_replay_that_found_the_queue_full_is_handed_over_when_there_is_room(house: House) -> None:
    intent = await dead(house)
    house.deliveries.most = 0

    assert await house.store.dead_letters.replay(intent, house.clock.now_us())
    await house.pass_time(MINUTE_S, 1)
    house.deliveries.most = None
    await house.pass_time(LOOK_S, MINUTE_S)

    assert house.handed() == [PUSH]


async def test_a_replay_that_waits_for_its_next_attempt_is_not_hurried(house: House) -> None:
    intent = await dead(house)
    assert await house.store.dead_letters.replay(intent, house.clock.now_us())
    await house.pass_time(1)
    house.handed()

    await becomes(house, intent, DeliveryState.RETRY, HOUR_US)
    await house.pass_time(LOOK_S + MINUTE_S, MINUTE_S)

    assert house.handed() == []


async def test_what_is_to_wait_no_longer_is_handed_over_within_a_second_and_not_again_before_it_is_late(
    house: House,
) -> None:
    intent = await handed(house)
    now_us = house.clock.now_us()
    claim = await house.store.ledger.claim(intent, "", now_us, now_us + 30 * SECOND_US)
    assert isinstance(claim, Claim)
    history = claim.delivery.history.waiting("quiet_hours", now_us, now_us + 6 * HOUR_US)
    await house.store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)
    await house.pass_time(HOUR_US / SECOND_US, MINUTE_S)
    assert house.handed() == []

    now_us = house.clock.now_us()
    assert await house.store.ledger.expedite("alice", "quiet_hours", now_us, now_us) == 1
    await house.pass_time(1)

    assert house.handed() == [PUSH]
    await house.pass_time(LOOK_S - 2, MINUTE_S)
    assert house.handed() == []
    await house.pass_time(MINUTE_S)
    assert house.handed() == [PUSH]
