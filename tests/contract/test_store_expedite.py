"""Expediting deliveries that wait for their retry time, in every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import MAX_WAIT_US, Claim, DeliveryRecord, DeliveryState
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import entries
from tests.support.builders import HOUR_US, NOW_US, SECOND_US, creating

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
TABLET = replace(PHONE, device="tablet")
MAIL = replace(PHONE, item="b", channel="email", device="")
UNTIL_US = NOW_US + 6 * HOUR_US
LATER_US = NOW_US + HOUR_US


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """Return a store in which alice exists."""
    await store.users.commit("alice", creating("a", "b"))


async def wait(store: Store, *intents: Intent, reason: str = "quiet_hours", until_us: int = UNTIL_US) -> None:
    """Plan these deliveries and make them wait."""
    await store.ledger.plan(intents, DeliveryState.PLANNED, None, NOW_US)
    for intent in intents:
        claim = await store.ledger.claim(intent, "", NOW_US, NOW_US + SECOND_US)
        assert isinstance(claim, Claim)
        history = claim.delivery.history.waiting(reason, NOW_US, until_us)
        await store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)


async def all_of(store: Store) -> list[DeliveryRecord]:
    return await store.ledger.of_user("alice", 9)


async def test_expedite_makes_waiting_deliveries_due(store: Store) -> None:
    await wait(store, PHONE, TABLET, MAIL)

    assert await store.ledger.expedite("alice", "quiet_hours", LATER_US, LATER_US) == 3

    assert [(each.state, each.is_expedited, each.n) for each in await all_of(store)] == [
        (DeliveryState.WAITING, True, 0)
    ] * 3
    an_hour = HOUR_US // SECOND_US
    assert await entries(store) == [(WorkKind.OVERDUE, "a", an_hour), (WorkKind.OVERDUE, "b", an_hour)]
    for intent in (PHONE, TABLET, MAIL):
        claim = await store.ledger.claim(intent, "", LATER_US, LATER_US + SECOND_US)
        assert isinstance(claim, Claim) and not claim.delivery.is_expedited


async def test_expedited_delivery_can_wait_again(store: Store) -> None:
    await wait(store, PHONE)
    await store.ledger.expedite("alice", "quiet_hours", LATER_US, LATER_US)
    claim = await store.ledger.claim(PHONE, "", LATER_US, LATER_US + SECOND_US)
    assert isinstance(claim, Claim)

    history = claim.delivery.history.waiting("quiet_hours", LATER_US, LATER_US + HOUR_US)
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)

    [entry] = await all_of(store)
    assert (entry.is_expedited, entry.lease_until_us) == (False, LATER_US + HOUR_US)
    assert await store.ledger.expedite("alice", "quiet_hours", LATER_US + HOUR_US, LATER_US) == 0


async def test_expedite_ignores_other_reasons(store: Store) -> None:
    await wait(store, PHONE)
    await wait(store, TABLET, reason="budget")
    await store.ledger.plan([MAIL], DeliveryState.PLANNED, None, NOW_US)
    before = await all_of(store), await entries(store)

    assert await store.ledger.expedite("alice", "quiet_hours", UNTIL_US, LATER_US) == 0
    assert await store.ledger.expedite("bob", "quiet_hours", LATER_US, LATER_US) == 0

    assert (await all_of(store), await entries(store)) == before


async def test_expedite_ignores_claimed_deliveries(store: Store) -> None:
    await wait(store, PHONE)
    claim = await store.ledger.claim(PHONE, "", UNTIL_US, UNTIL_US + SECOND_US)
    assert isinstance(claim, Claim)

    assert await store.ledger.expedite("alice", "quiet_hours", NOW_US, UNTIL_US) == 0

    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)


@pytest.mark.parametrize("turns", range(12))
async def test_expedite_does_not_undo_a_claim(store: Store, turns: int) -> None:
    """The waiting deliveries are read first and changed later. A claim in between must stay."""
    await wait(store, PHONE)
    hastening = asyncio.create_task(store.ledger.expedite("alice", "quiet_hours", NOW_US, UNTIL_US))
    for _ in range(turns):
        await asyncio.sleep(0)

    claim = await store.ledger.claim(PHONE, "", UNTIL_US, UNTIL_US + SECOND_US)

    await hastening
    assert isinstance(claim, Claim)
    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)


async def test_expedite_finds_old_deliveries(store: Store) -> None:
    """A delivery may have been tried for a day before it waits for most of another."""
    await wait(store, PHONE, until_us=NOW_US + MAX_WAIT_US)
    now_us = NOW_US + MAX_WAIT_US - SECOND_US

    assert await store.ledger.expedite("alice", "quiet_hours", now_us, now_us) == 1


async def test_expedite_finds_few_waiting_deliveries_among_many(store: Store) -> None:
    """Deliveries are read in parts: an item with 600 is one part, and many items with few are another."""
    items = {f"i{n}": 600 if n == 7 else n for n in range(40)}
    waiting = [replace(PHONE, item=item, device=f"d{count - 1}") for item, count in items.items() if count]
    for item, count in items.items():
        others = [replace(PHONE, item=item, device=f"d{n}") for n in range(count - 1)]
        await store.ledger.plan(others, DeliveryState.CANCELLED, "seen", NOW_US)
    await wait(store, *waiting)

    assert await store.ledger.count_recent("alice", LATER_US) == sum(items.values())
    assert await store.ledger.expedite("alice", "quiet_hours", LATER_US, LATER_US) == len(waiting)
    for intent in waiting:
        assert isinstance(await store.ledger.claim(intent, "", LATER_US, LATER_US + SECOND_US), Claim)
