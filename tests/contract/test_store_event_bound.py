"""Waiting webhook events are bounded in every store: events of the oldest items become dead letters."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gregor.core.limits import Limits
from gregor.core.notify.intents import EMAIL, WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import OVERFLOW, Claim, DeliveryRecord, DeliveryState, delivery_key
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import entries
from tests.support.builders import LIMITS, NOW_US, SECOND_US, creating

MakeStore = Callable[[Limits], Awaitable[Store]]
EVENT = Intent("alice", "", IntentKind.EVENT, WEBHOOK, "wh_a:b2c", seq=7, at_us=NOW_US, event='{"type":"item.expired"}')
PUSH = Intent("alice", "", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
MAIL = Intent("alice", "", IntentKind.ITEM, EMAIL, "", seq=7, at_us=NOW_US)


async def make_alice(make_store: MakeStore, delivered: int) -> Store:
    """Return a store with this bound in which alice exists."""
    store = await make_store(replace(LIMITS, delivered=delivered))
    await store.users.commit("alice", creating("live"))
    return store


async def plan(store: Store, intent: Intent, n: int) -> list[Intent]:
    """Plan a delivery of the n-th item. Return the events that were given up for it."""
    planned = await store.ledger.plan([replace(intent, item=f"x{n:02}")], DeliveryState.PLANNED, None, NOW_US + n)
    return planned.given_up


async def send(store: Store, intent: Intent, n: int) -> None:
    """Let a delivery of the n-th item succeed."""
    claim = await store.ledger.claim(replace(intent, item=f"x{n:02}"), "", NOW_US, NOW_US + SECOND_US)
    assert isinstance(claim, Claim)
    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)


async def wait(store: Store, n: int, claim_us: int = NOW_US) -> None:
    """Let the event of the n-th item wait for its receiver."""
    claim = await store.ledger.claim(replace(EVENT, item=f"x{n:02}"), "", claim_us, claim_us + SECOND_US)
    assert isinstance(claim, Claim)
    history = claim.delivery.history.waiting("receiver_down", claim_us, claim_us + 60 * SECOND_US)
    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)


async def records(store: Store) -> list[DeliveryRecord]:
    """Return the records of alice, those of the oldest item first."""
    return (await store.ledger.of_user("alice", 999))[::-1]


async def letters(store: Store) -> list[DeliveryRecord]:
    """Return the dead letters, the oldest first."""
    return list((await store.dead_letters.page(None, 999, None, NOW_US + 300)).letters)[::-1]


async def test_events_of_the_oldest_items_become_dead_letters(make_store: MakeStore) -> None:
    """Half of the bound is for items whose events wait, the other half for those that were given up."""
    store, given_up = await make_alice(make_store, 20), []
    for n in range(12):
        given_up += await plan(store, EVENT, n)
        await wait(store, n)

    assert [each.item for each in given_up] == ["x00", "x01"]
    states = [each.state for each in await records(store)]
    assert states == [DeliveryState.DEAD] * 2 + [DeliveryState.WAITING] * 10
    dead = await letters(store)
    assert [(each.intent.item, each.history.reason, each.history.since_us) for each in dead] == [
        ("x00", OVERFLOW, NOW_US + 10),
        ("x01", OVERFLOW, NOW_US + 11),
    ]
    assert {each.intent.event for each in dead} == {EVENT.event}, "a replay needs it"


async def test_items_with_waiting_events_are_bounded(make_store: MakeStore) -> None:
    """With an unreachable webhook, the items with waiting events and the dead letters are bounded."""
    store, given_up = await make_alice(make_store, 20), []
    for n in range(90):
        given_up += await plan(store, EVENT, n)
        if n % 3:
            await wait(store, n)

    found = await records(store)
    assert [each.intent.item for each in found] == [f"x{n}" for n in range(70, 90)]
    assert [each.intent.item for each in await letters(store)] == [f"x{n}" for n in range(70, 80)]
    assert [each.item for each in given_up] == [f"x{n:02}" for n in range(80)], "each is reported once"
    overdue = [name for kind, name, _ in await entries(store) if kind is WorkKind.OVERDUE]
    assert sorted(overdue) == [f"x{n}" for n in range(70, 90)], "nothing is left for items without records"


@pytest.mark.parametrize("first", [PUSH, MAIL], ids=["push", "mail"])
async def test_bound_holds_for_items_that_notified_first(make_store: MakeStore, first: Intent) -> None:
    """Usually an item is pushed or mailed when it is created, and its event is planned when it is removed."""
    store, given_up = await make_alice(make_store, 20), []
    for n in range(200):
        await plan(store, first, n)
        await send(store, first, n)
        given_up += await plan(store, EVENT, n)
        await wait(store, n)

    waiting = [each.intent.item for each in await records(store) if each.state is DeliveryState.WAITING]
    assert waiting == [f"x{n}" for n in range(190, 200)]
    assert [each.intent.item for each in await letters(store)] == [f"x{n}" for n in range(180, 190)]
    assert [each.item for each in given_up] == [f"x{n:02}" for n in range(190)], "each is reported once"
    assert len({each.intent.item for each in await records(store)}) == 20


async def test_bound_holds_for_events_between_other_items(make_store: MakeStore) -> None:
    """Only some categories have events: the newest wait, and the other items lose their deliveries first."""
    store, given_up = await make_alice(make_store, 20), []
    for n in range(200):
        given_up += await plan(store, PUSH, n)
        await send(store, PUSH, n)
        if n < 40 or n % 7 == 0:
            given_up += await plan(store, EVENT, n)

    found = await records(store)
    waiting = [each.intent.item for each in found if each.intent.kind is IntentKind.EVENT and not each.is_over]
    assert waiting == [f"x{n}" for n in range(133, 200, 7)]
    assert len({each.intent.item for each in found}) == 20
    assert len(given_up) == len({each.key for each in given_up}) == 40 + 23 - 10


async def test_replayed_events_are_bounded(make_store: MakeStore) -> None:
    store = await make_alice(make_store, 20)
    for n in range(20):
        await plan(store, EVENT, n)
    for letter in await letters(store):
        assert await store.dead_letters.replay(letter.intent, NOW_US + 50)
    await plan(store, PUSH, 60)
    await send(store, PUSH, 60)
    await plan(store, EVENT, 60)

    waiting = [each.intent.item for each in await records(store) if not each.is_over]
    assert waiting == [*(f"x{n:02}" for n in range(1, 10)), "x60"]


async def test_call_in_flight_is_not_given_up(make_store: MakeStore) -> None:
    """The outcome of a call in flight is unknown. If its process dies, it is given up when the next item is planned."""
    store = await make_alice(make_store, 20)
    await plan(store, EVENT, 0)
    claim = await store.ledger.claim(replace(EVENT, item="x00"), "", NOW_US, NOW_US + 11)
    assert isinstance(claim, Claim)
    for n in range(1, 11):
        assert await plan(store, EVENT, n) == []
    given_up = await plan(store, EVENT, 11)

    assert [each.item for each in given_up] == ["x00", "x01"]
    assert not await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)


async def test_pushes_and_finished_events_stay(make_store: MakeStore) -> None:
    store = await make_alice(make_store, 20)
    await plan(store, PUSH, 0)
    await plan(store, EVENT, 1)
    claim = await store.ledger.claim(replace(EVENT, item="x01"), "", NOW_US, NOW_US + 1)
    assert isinstance(claim, Claim)
    await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, claim.delivery.history)
    for n in range(2, 12):
        assert await plan(store, EVENT, n) == []
    for n in range(12, 30):
        assert await plan(store, PUSH, n) == [], "pushes give up no events"

    found = {each.intent.item: each.state for each in await records(store)}
    assert "x01" not in found, "it is the oldest that is settled"
    assert found["x00"] is found["x02"] is DeliveryState.PLANNED


async def test_all_events_of_an_item_are_given_up(make_store: MakeStore) -> None:
    store, other = await make_alice(make_store, 20), replace(EVENT, item="x00", device="wh_b:b2c")
    await plan(store, EVENT, 0)
    await plan(store, replace(PUSH, item="x00"), 0)
    await store.ledger.plan([other], DeliveryState.PLANNED, None, NOW_US)
    for n in range(1, 11):
        given_up = await plan(store, EVENT, n)

    assert {each.key for each in given_up} == {replace(EVENT, item="x00").key, other.key}
    assert {each.event for each in given_up} == {EVENT.event}
    states = {delivery_key(each.intent): each.state for each in await store.ledger.of_item("alice", "x00")}
    assert states[delivery_key(PUSH)] is DeliveryState.PLANNED


async def test_event_that_was_given_up_can_be_replayed(make_store: MakeStore) -> None:
    store = await make_alice(make_store, 20)
    for n in range(11):
        given_up = await plan(store, EVENT, n)
    later_us = NOW_US + 100

    assert await store.dead_letters.replay(given_up[0], later_us)

    assert await letters(store) == []
    claim = await store.ledger.claim(given_up[0], "", later_us, later_us + 1)
    assert isinstance(claim, Claim) and claim.delivery.history.replays[0].why == OVERFLOW
