"""The webhook events of one item are bounded in every store, and no other delivery of it is refused."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import (
    EVENT_BOUND_FROM,
    EVENT_BOUND_STEP,
    KEPT_EVENTS_OF_ITEM,
    MAX_EVENTS_OF_ITEM,
    OVERFLOW,
    Claim,
    DeliveryRecord,
    DeliveryState,
)
from gregor.store.contract.store import Store
from tests.support.builders import NOW_US, SECOND_US, creating

PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
EVENT = replace(PUSH, kind=IntentKind.EVENT, channel=WEBHOOK, event='{"type":"item.dismissed"}')
GIVEN_UP = EVENT_BOUND_FROM - KEPT_EVENTS_OF_ITEM


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """Return a store in which alice exists."""
    await store.users.commit("alice", creating("a", "b"))


def events(first: int, count: int, *, item: str = "a") -> list[Intent]:
    """Return the events of an item that a device hides and is then forgotten, again and again."""
    return [replace(EVENT, item=item, device=f"wh_a:{n:05}", seq=n) for n in range(first, first + count)]


async def plan(store: Store, intents: Sequence[Intent], state: DeliveryState = DeliveryState.PLANNED) -> list[Intent]:
    """Plan new deliveries, each at a later time. Return the events that were given up."""
    given_up: list[Intent] = []
    for start in range(0, len(intents), 64):
        part = intents[start : start + 64]
        planned = await store.ledger.plan(part, state, None, NOW_US + max(each.seq for each in part))
        assert planned.new == part
        given_up += planned.given_up
    return given_up


async def events_of(store: Store, item: str = "a") -> list[DeliveryRecord]:
    """Return the events of an item, the oldest first."""
    found = [each for each in await store.ledger.of_item("alice", item) if each.intent.kind is IntentKind.EVENT]
    return sorted(found, key=lambda each: each.intent.device)


async def letters(store: Store) -> list[str]:
    """Return the devices of all dead letters, in their order."""
    page = await store.dead_letters.page(None, 9_999, None, NOW_US + 10_000)
    return sorted(each.intent.device for each in page.letters)


def names(intents: Sequence[Intent]) -> list[str]:
    """Return the devices of intents."""
    return [each.device for each in intents]


async def test_events_of_an_item_are_bounded(store: Store) -> None:
    """Sent events are forgotten, the oldest first, and no event is given up."""
    assert await plan(store, events(0, EVENT_BOUND_FROM - 64), DeliveryState.SENT) == []
    assert len(await events_of(store)) == EVENT_BOUND_FROM - 64

    assert await plan(store, events(EVENT_BOUND_FROM - 64, 64)) == []

    kept = [each.intent.device for each in await events_of(store)]
    assert kept == names(events(GIVEN_UP, KEPT_EVENTS_OF_ITEM))
    for n in range(5):
        await plan(store, events(EVENT_BOUND_FROM + 1_000 * n, 1_000), DeliveryState.SENT)
        assert len(await events_of(store)) < EVENT_BOUND_FROM
    assert await letters(store) == []


async def test_no_delivery_is_refused_for_its_item(store: Store) -> None:
    """With many devices and reminders, an item has thousands of notifications. All stay."""
    devices = [f"d{n:03}" for n in range(164)]
    pushes = [replace(PUSH, kind=IntentKind.REMIND, n=n, device=device) for n in range(32) for device in devices]
    await plan(store, pushes, DeliveryState.SENT)
    assert await plan(store, events(0, MAX_EVENTS_OF_ITEM)) == []
    await plan(store, [PUSH])

    assert len(await store.ledger.of_item("alice", "a")) == len(pushes) + MAX_EVENTS_OF_ITEM + 1
    await plan(store, events(MAX_EVENTS_OF_ITEM, EVENT_BOUND_STEP))
    assert len([each for each in await events_of(store) if not each.is_over]) <= MAX_EVENTS_OF_ITEM


async def test_events_that_wait_become_dead_letters(store: Store) -> None:
    """If the receiver is down, the oldest events are given up. They are forgotten when the bound is applied again."""
    given_up = await plan(store, events(0, EVENT_BOUND_FROM))

    assert names(given_up) == await letters(store) == names(events(0, GIVEN_UP))
    assert {each.event for each in given_up} == {EVENT.event}
    assert {each.history.reason for each in (await events_of(store))[:GIVEN_UP]} == {OVERFLOW}
    assert [each.is_over for each in await events_of(store)] == [True] * GIVEN_UP + [False] * KEPT_EVENTS_OF_ITEM

    again = await plan(store, events(EVENT_BOUND_FROM, EVENT_BOUND_STEP))

    assert names(again) == await letters(store) == names(events(GIVEN_UP, EVENT_BOUND_STEP))
    assert len(await events_of(store)) == KEPT_EVENTS_OF_ITEM + EVENT_BOUND_STEP


async def test_sent_events_are_forgotten_before_dead_letters(store: Store) -> None:
    refused = events(0, 40)
    await plan(store, refused)
    for each in refused:
        claim = await store.ledger.claim(each, "", NOW_US, NOW_US + SECOND_US)
        assert isinstance(claim, Claim)
        dead = claim.delivery.history.ended("too_old", NOW_US)
        assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, dead)
    await plan(store, events(40, GIVEN_UP + 10), DeliveryState.SENT)
    await plan(store, events(50 + GIVEN_UP, KEPT_EVENTS_OF_ITEM - 50))

    assert await letters(store) == names(refused)
    assert [each.intent.device for each in await events_of(store)] == [
        *names(refused),
        *names(events(40 + GIVEN_UP, KEPT_EVENTS_OF_ITEM - 40)),
    ]


async def test_event_in_flight_stays(store: Store) -> None:
    """A worker has claimed the event. Its outcome is recorded."""
    [first, *others] = events(0, EVENT_BOUND_FROM)
    await plan(store, [first])
    claim = await store.ledger.claim(first, "", NOW_US, NOW_US + 60 * SECOND_US)
    assert isinstance(claim, Claim)

    given_up = await plan(store, others)

    assert names(given_up) == names(others[:GIVEN_UP])
    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)


async def test_events_of_other_items_stay(store: Store) -> None:
    await plan(store, events(0, 70, item="b"))
    await plan(store, events(0, EVENT_BOUND_FROM))

    assert [each.is_over for each in await events_of(store, "b")] == [False] * 70
