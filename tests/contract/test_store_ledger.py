"""The delivery ledger, in every store."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
from msgspec.structs import replace as replace_story

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
    OVERDUE_US,
    Claim,
    DeliveryAttempt,
    DeliveryHistory,
    DeliveryState,
    NotClaimed,
    NotYet,
)
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import entries
from tests.support.builders import DAY_US, LIMITS, NOW_US, SECOND_US, creating, dismissing

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
TABLET = replace(PHONE, device="tablet")
PLACE = "phone/a"
MakeStore = Callable[[Limits], Awaitable[Store]]


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """Return a store in which alice exists."""
    await store.users.commit("alice", creating("a", "b"))


async def planned(store: Store, *intents: Intent) -> None:
    """Enter these intents as planned."""
    await store.ledger.plan(intents, DeliveryState.PLANNED, None, NOW_US)


async def claimed(store: Store, intent: Intent, now_us: int = NOW_US, place: str = PLACE) -> Claim:
    """Claim a delivery for ten seconds; it must succeed."""
    claim = await store.ledger.claim(intent, place, now_us, now_us + 10 * SECOND_US)
    assert isinstance(claim, Claim), claim
    return claim


async def test_planning_twice_enters_once(store: Store) -> None:
    """A scheduler that dies and repeats its work must not plan anything twice."""
    first = await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)
    second = await store.ledger.plan([PHONE, TABLET], DeliveryState.CANCELLED, "preference", NOW_US + 1)

    assert (first.new, second.new) == ([PHONE], [TABLET])
    states = {entry.intent.device: entry.state for entry in await store.ledger.of_item("alice", "a")}
    assert states == {"phone": DeliveryState.PLANNED, "tablet": DeliveryState.CANCELLED}


async def test_deliveries_that_are_not_in_the_ledger_are_unknown(store: Store) -> None:
    await planned(store, PHONE, TABLET)
    await claimed(store, TABLET)
    unknown = [replace(PHONE, item="b"), replace(PHONE, n=1), replace(PHONE, uid="bob")]

    assert await store.ledger.unknown([PHONE, *unknown, TABLET]) == unknown
    assert await store.ledger.unknown([]) == []


async def test_claim_is_exclusive(store: Store) -> None:
    await planned(store, PHONE)

    claim = await claimed(store, PHONE)

    assert (claim.before, claim.delivery.state, claim.delivery.n) == (DeliveryState.PLANNED, DeliveryState.CLAIMED, 1)
    assert await store.ledger.claim(PHONE, PLACE, NOW_US + 1, NOW_US + SECOND_US) is NotClaimed.TAKEN
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.history.seq) == (DeliveryState.CLAIMED, 1, 7)


async def test_claim_of_a_dead_worker_passes_on(store: Store) -> None:
    await planned(store, PHONE)
    await claimed(store, PHONE)

    again = await claimed(store, PHONE, NOW_US + 10 * SECOND_US)

    assert (again.before, again.delivery.n) == (DeliveryState.CLAIMED, 2)


async def test_outcome_of_a_lost_claim_is_discarded(store: Store) -> None:
    await planned(store, PHONE)
    old = await claimed(store, PHONE)
    new = await claimed(store, PHONE, NOW_US + 10 * SECOND_US)

    assert not await store.ledger.record_outcome(old.delivery, PLACE, DeliveryState.SENT, old.delivery.history)
    assert await store.ledger.record_outcome(new.delivery, PLACE, DeliveryState.SENT, new.delivery.history)


async def test_outcome_of_a_lost_claim_is_discarded_after_later_claims_were_returned(store: Store) -> None:
    """A verdict may wait for the store for hours. A returned claim does not count as an attempt."""
    await planned(store, PHONE)
    old = await claimed(store, PHONE)
    for number in (1, 2):
        later = await claimed(store, PHONE, NOW_US + 10 * number * SECOND_US)
        assert not await store.ledger.record_outcome(old.delivery, PLACE, DeliveryState.SENT, old.delivery.history)
        history = msgspec.structs.replace(later.delivery.history, next_us=NOW_US)
        assert await store.ledger.record_outcome(later.delivery, PLACE, DeliveryState.RETRY, history, counts=False)
        assert not await store.ledger.record_outcome(old.delivery, PLACE, DeliveryState.SENT, old.delivery.history)


async def test_event_is_kept_while_its_history_needs_it(store: Store) -> None:
    event = replace(PHONE, kind=IntentKind.EVENT, channel="webhook", device="wh_a:b2c", event='{"type":"item.acked"}')
    await planned(store, event)
    claim = await claimed(store, replace(event, event=""))
    assert (claim.delivery.intent.event, claim.delivery.history.event) == (event.event, event.event)
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.DEAD, claim.delivery.history)
    [dead] = await store.ledger.of_item("alice", "a")

    await store.dead_letters.replay(event, NOW_US)
    claim = await claimed(store, event)
    await store.ledger.record_outcome(
        claim.delivery, PLACE, DeliveryState.SENT, replace_story(claim.delivery.history, event="")
    )

    [sent] = await store.ledger.of_item("alice", "a")
    assert (dead.intent.event, sent.intent.event, sent.history.event) == (event.event, "", "")


async def test_early_claim_needs_is_early(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    await store.ledger.record_outcome(
        claim.delivery, PLACE, DeliveryState.RETRY, DeliveryHistory(NOW_US, 7, None, NOW_US + 60 * SECOND_US)
    )
    lease_us = NOW_US + 10 * SECOND_US

    assert await store.ledger.claim(PHONE, "", NOW_US, lease_us) == NotYet(NOW_US + 60 * SECOND_US)
    assert isinstance(await store.ledger.claim(PHONE, "", NOW_US, lease_us, is_early=True), Claim)
    assert await store.ledger.claim(PHONE, "", NOW_US, lease_us, is_early=True) is NotClaimed.TAKEN


async def test_note_stores_history_and_lease(store: Store) -> None:
    await planned(store, PHONE)
    old = await claimed(store, PHONE)
    until_us = NOW_US + 20 * SECOND_US
    told = replace_story(old.delivery, history=DeliveryHistory(NOW_US, 7, mail="m1"), lease_until_us=until_us)

    assert await store.ledger.note(told, PLACE)
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.lease_until_us, entry.history.mail) == (
        DeliveryState.CLAIMED,
        1,
        until_us,
        "m1",
    )
    assert await store.ledger.claim(PHONE, PLACE, until_us - 1, until_us + SECOND_US) is NotClaimed.TAKEN
    await claimed(store, PHONE, until_us)
    assert not await store.ledger.note(told, PLACE), "the claim had passed to another"


async def test_finished_delivery_is_not_claimed(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    history = DeliveryHistory(NOW_US, 7, attempts=(DeliveryAttempt(NOW_US, "200", "apns-1"),))
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.SENT, history)

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.OVER
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.history) == (DeliveryState.SENT, history)


async def test_waiting_delivery_is_not_claimed_early(store: Store) -> None:
    """An intent that was enqueued twice waits once: the provider's retry time applies to both."""
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    again_us = NOW_US + 600 * SECOND_US
    history = DeliveryHistory(NOW_US, 7, None, again_us, (DeliveryAttempt(NOW_US, "429"),))
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.RETRY, history)

    early = await store.ledger.claim(PHONE, PLACE, again_us - 1, again_us + SECOND_US)

    assert early == NotYet(again_us)
    assert (await claimed(store, PHONE, again_us)).delivery.n == 2


async def test_unknown_outcome_without_retry_is_final(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.UNKNOWN, DeliveryHistory(NOW_US, 7))

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.OVER


async def test_attempt_count_is_capped(store: Store) -> None:
    """A worker that dies over each claim makes many of them."""
    await planned(store, PHONE)
    for number in range(10_002):
        claim = await store.ledger.claim(PHONE, "", NOW_US + 2 * number, NOW_US + 2 * number + 1)
    assert isinstance(claim, Claim) and claim.delivery.n == 9_999

    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, DeliveryHistory(NOW_US, 7))
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n) == (DeliveryState.SENT, 9_999)


async def test_unplanned_delivery_is_absent(store: Store) -> None:
    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.ABSENT


async def test_place_is_held_by_one_delivery(store: Store) -> None:
    """Two pushes that replace each other must not race: the older one could arrive last."""
    other = replace(PHONE, item="b")
    await planned(store, PHONE)
    await planned(store, other)
    claim = await claimed(store, PHONE)

    assert await store.ledger.claim(other, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.BUSY
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.SENT, claim.delivery.history)
    assert isinstance(await store.ledger.claim(other, PLACE, NOW_US, NOW_US + SECOND_US), Claim)


async def test_note_extends_the_place_of_its_claim(store: Store) -> None:
    """A slow mail relay must not get two mails of one user at once."""
    other, until_us = replace(PHONE, item="b"), NOW_US + 60 * SECOND_US
    await planned(store, PHONE)
    await planned(store, other)
    claim = await claimed(store, PHONE)

    assert await store.ledger.note(replace_story(claim.delivery, lease_until_us=until_us), PLACE)

    assert await store.ledger.claim(other, PLACE, until_us - 1, until_us + SECOND_US) is NotClaimed.BUSY
    mine = await claimed(store, other, until_us)
    assert await store.ledger.note(replace_story(claim.delivery, lease_until_us=until_us + DAY_US), PLACE)
    assert await store.ledger.claim(PHONE, PLACE, until_us + 1, until_us + SECOND_US) is NotClaimed.TAKEN
    await store.ledger.record_outcome(mine.delivery, PLACE, DeliveryState.SENT, mine.delivery.history)
    third = replace(PHONE, item="c")
    await planned(store, third)
    await claimed(store, third, until_us + 1)


async def test_unsent_attempt_does_not_count(store: Store) -> None:
    """An open circuit breaker or quiet hours must not use up attempts."""
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    waits = DeliveryHistory(NOW_US, 7, "quiet_hours", NOW_US + SECOND_US)

    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.WAITING, waits, counts=False)

    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.history) == (DeliveryState.WAITING, 0, waits)


async def test_move_only_from_named_states(store: Store) -> None:
    await planned(store, PHONE)

    assert not await store.ledger.move(PHONE, [DeliveryState.SENT], DeliveryState.WITHDRAWN)
    assert await store.ledger.move(
        PHONE,
        [DeliveryState.PLANNED, DeliveryState.RETRY],
        DeliveryState.CANCELLED,
        DeliveryHistory(NOW_US, 7, "dismissed"),
    )
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.history.reason) == (DeliveryState.CANCELLED, "dismissed")


async def test_deliveries_of_a_user_newest_first(store: Store) -> None:
    await store.ledger.plan([PHONE, TABLET], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([replace(PHONE, item="b")], DeliveryState.PLANNED, None, NOW_US + SECOND_US)

    items = [entry.intent.item for entry in await store.ledger.of_user("alice", 10)]

    assert items == ["b", "a", "a"]
    assert [entry.intent.item for entry in await store.ledger.of_user("alice", 1)] == ["b"]
    assert [entry.intent.item for entry in await store.ledger.of_user("alice", 10, 1)] == ["b"]
    assert len(await store.ledger.of_user("alice", 10, 2)) == 3, "an item is complete"


async def test_deleted_user_gets_no_deliveries(store: Store) -> None:
    """A scheduler that decided before the deletion and plans after it must leave nothing behind."""
    bob = replace(PHONE, uid="bob")
    await planned(store, PHONE)
    await store.users.delete_user("alice", NOW_US)

    assert (await store.ledger.plan([PHONE, bob], DeliveryState.PLANNED, None, NOW_US)).new == []
    assert (await store.ledger.plan([TABLET], DeliveryState.CANCELLED, "present", NOW_US)).new == []

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.ABSENT
    assert await store.ledger.of_user("alice", 9) == await store.ledger.of_user("bob", 9) == []
    assert await entries(store) == []


async def test_planned_item_gets_one_overdue_entry(store: Store) -> None:
    await store.ledger.plan([PHONE, replace(PHONE, item="b")], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([TABLET], DeliveryState.PLANNED, None, NOW_US + SECOND_US)

    seconds = OVERDUE_US // SECOND_US
    assert await entries(store) == [(WorkKind.OVERDUE, "a", seconds), (WorkKind.OVERDUE, "b", seconds)]


async def test_cancelled_delivery_gets_no_overdue_entry(store: Store) -> None:
    await store.ledger.plan([PHONE], DeliveryState.CANCELLED, "present", NOW_US)
    await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)

    assert await entries(store) == []
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.history) == (DeliveryState.CANCELLED, DeliveryHistory(NOW_US, 7, "present"))


async def test_items_with_deliveries_are_bounded(make_store: MakeStore) -> None:
    """The oldest items that are gone lose their deliveries; what is live or unfinished keeps them."""
    store = await make_store(replace(LIMITS, delivered=20))
    await store.users.commit("alice", creating("live"))
    for n in range(40):
        intent = replace(PHONE, item=["live", "planned"][n] if n < 2 else f"gone{n:02}")
        state = DeliveryState.PLANNED if intent.item == "planned" else DeliveryState.CANCELLED
        await store.ledger.plan([intent], state, None, NOW_US + n)

    kept = [entry.intent.item for entry in await store.ledger.of_user("alice", 99)]

    assert kept == [*(f"gone{n:02}" for n in range(39, 21, -1)), "planned", "live"]
    assert (await store.users.sizes("alice")).delivered == 20
    assert await store.ledger.of_item("alice", "gone21") == []


async def test_dropped_deliveries_are_no_dead_letters(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, delivered=1))
    await store.users.commit("alice", creating("a"))
    for n in range(2):
        intent = replace(PHONE, item=f"gone{n}")
        await store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
        claim = await claimed(store, intent)
        await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.DEAD, DeliveryHistory(NOW_US, 7))
        due = await store.agenda.due_work("alice", NOW_US + DAY_US, 9)
        await store.agenda.complete("alice", 0, [CompletedWork(work) for work in due if work.kind is WorkKind.OVERDUE])

    await store.ledger.plan([replace(PHONE, item="gone2")], DeliveryState.CANCELLED, None, NOW_US + 1)

    page = await store.dead_letters.page(None, 9, None, NOW_US)
    assert page.letters == ()
    assert (await store.users.sizes("alice")).delivered == 1


async def test_removed_item_keeps_deliveries_for_its_withdrawal(make_store: MakeStore) -> None:
    """The work after a removal reads the deliveries, and may be late."""
    store = await make_store(replace(LIMITS, delivered=1))
    await store.users.commit("alice", creating("a"))
    await store.ledger.plan([PHONE], DeliveryState.SENT, None, NOW_US)
    store.recorded_events.removals = True
    await store.users.commit("alice", dismissing("a"))

    for n in range(3):
        await store.ledger.plan([replace(PHONE, item=f"gone{n}")], DeliveryState.CANCELLED, None, NOW_US + n)

    assert [entry.state for entry in await store.ledger.of_item("alice", "a")] == [DeliveryState.SENT]
