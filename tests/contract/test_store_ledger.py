"""What every ledger of deliveries promises."""

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_story

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
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import entries
from tests.support.builders import NOW_US, SECOND_US, creating

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=7, at_us=NOW_US)
TABLET = replace(PHONE, device="tablet")
PLACE = "phone/a"


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """A user that is known."""
    await store.users.commit("alice", creating("a", "b"))


async def planned(store: Store, *intents: Intent) -> None:
    """Enter these as planned."""
    await store.ledger.plan(intents, DeliveryState.PLANNED, None, NOW_US)


async def claimed(store: Store, intent: Intent, now_us: int = NOW_US, place: str = PLACE) -> Claim:
    """A claim that must be given, for ten seconds."""
    claim = await store.ledger.claim(intent, place, now_us, now_us + 10 * SECOND_US)
    assert isinstance(claim, Claim), claim
    return claim


async def test_what_is_planned_twice_is_entered_once(store: Store) -> None:
    """A scheduler that dies and repeats its work plans nothing twice."""
    first = await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)
    second = await store.ledger.plan([PHONE, TABLET], DeliveryState.CANCELLED, "preference", NOW_US + 1)

    assert (first, second) == ([PHONE], [TABLET])
    states = {entry.intent.device: entry.state for entry in await store.ledger.of_item("alice", "a")}
    assert states == {"phone": DeliveryState.PLANNED, "tablet": DeliveryState.CANCELLED}


async def test_a_claim_is_written_before_the_call_and_excludes_others(store: Store) -> None:
    await planned(store, PHONE)

    claim = await claimed(store, PHONE)

    assert (claim.before, claim.delivery.state, claim.delivery.n) == (DeliveryState.PLANNED, DeliveryState.CLAIMED, 1)
    assert await store.ledger.claim(PHONE, PLACE, NOW_US + 1, NOW_US + SECOND_US) is NotClaimed.BUSY
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.history.seq) == (DeliveryState.CLAIMED, 1, 7)


async def test_a_claim_whose_worker_died_passes_on_and_says_so(store: Store) -> None:
    await planned(store, PHONE)
    await claimed(store, PHONE)

    again = await claimed(store, PHONE, NOW_US + 10 * SECOND_US)

    assert (again.before, again.delivery.n) == (DeliveryState.CLAIMED, 2)


async def test_the_verdict_of_a_claim_that_was_lost_is_not_written(store: Store) -> None:
    await planned(store, PHONE)
    old = await claimed(store, PHONE)
    new = await claimed(store, PHONE, NOW_US + 10 * SECOND_US)

    assert not await store.ledger.record_outcome(old.delivery, PLACE, DeliveryState.SENT, old.delivery.history)
    assert await store.ledger.record_outcome(new.delivery, PLACE, DeliveryState.SENT, new.delivery.history)


async def test_an_event_is_kept_with_its_delivery_until_its_story_ends_without_it(store: Store) -> None:
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


async def test_what_has_its_time_is_claimed_before_it_only_where_that_is_asked_for(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    await store.ledger.record_outcome(
        claim.delivery, PLACE, DeliveryState.RETRY, DeliveryHistory(NOW_US, 7, None, NOW_US + 60 * SECOND_US)
    )
    lease_us = NOW_US + 10 * SECOND_US

    assert await store.ledger.claim(PHONE, "", NOW_US, lease_us) == NotYet(NOW_US + 60 * SECOND_US)
    assert isinstance(await store.ledger.claim(PHONE, "", NOW_US, lease_us, is_early=True), Claim)
    assert await store.ledger.claim(PHONE, "", NOW_US, lease_us, is_early=True) is NotClaimed.BUSY


async def test_a_note_tells_more_of_a_claim_that_goes_on_and_leaves_its_lease(store: Store) -> None:
    await planned(store, PHONE)
    old = await claimed(store, PHONE)
    told = replace_story(old.delivery, history=DeliveryHistory(NOW_US, 7, mail="m1"))

    assert await store.ledger.note(told)
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.lease_until_us, entry.history.mail) == (
        DeliveryState.CLAIMED,
        1,
        NOW_US + 10 * SECOND_US,
        "m1",
    )
    assert await store.ledger.claim(PHONE, PLACE, NOW_US + 1, NOW_US + SECOND_US) is NotClaimed.BUSY
    await claimed(store, PHONE, NOW_US + 10 * SECOND_US)
    assert not await store.ledger.note(told), "the claim had passed to another"


async def test_what_is_over_is_not_claimed_again(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    history = DeliveryHistory(NOW_US, 7, attempts=(DeliveryAttempt(NOW_US, "200", "apns-1"),))
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.SENT, history)

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.OVER
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.history) == (DeliveryState.SENT, history)


async def test_nobody_gets_what_waits_before_its_time(store: Store) -> None:
    """An intent that was handed over twice waits as one: what the provider asked for holds for both."""
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    again_us = NOW_US + 600 * SECOND_US
    history = DeliveryHistory(NOW_US, 7, None, again_us, (DeliveryAttempt(NOW_US, "429"),))
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.RETRY, history)

    early = await store.ledger.claim(PHONE, PLACE, again_us - 1, again_us + SECOND_US)

    assert early == NotYet(again_us)
    assert (await claimed(store, PHONE, again_us)).delivery.n == 2


async def test_what_nobody_will_ever_know_is_over(store: Store) -> None:
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.UNKNOWN, DeliveryHistory(NOW_US, 7))

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.OVER


async def test_claims_without_number_leave_the_entry_readable(store: Store) -> None:
    """As a worker makes them that dies over each."""
    await planned(store, PHONE)
    for number in range(10_002):
        claim = await store.ledger.claim(PHONE, "", NOW_US + 2 * number, NOW_US + 2 * number + 1)
    assert isinstance(claim, Claim) and claim.delivery.n == 9_999

    assert await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, DeliveryHistory(NOW_US, 7))
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n) == (DeliveryState.SENT, 9_999)


async def test_what_was_never_planned_is_absent(store: Store) -> None:
    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.ABSENT


async def test_one_place_on_a_screen_takes_one_delivery_at_a_time(store: Store) -> None:
    """Two pushes that replace each other must not race: the older could land last."""
    other = replace(PHONE, item="b")
    await planned(store, PHONE)
    await planned(store, other)
    claim = await claimed(store, PHONE)

    assert await store.ledger.claim(other, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.BUSY
    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.SENT, claim.delivery.history)
    assert isinstance(await store.ledger.claim(other, PLACE, NOW_US, NOW_US + SECOND_US), Claim)


async def test_an_attempt_that_never_left_does_not_count(store: Store) -> None:
    """An open breaker, or quiet hours, burn no attempts."""
    await planned(store, PHONE)
    claim = await claimed(store, PHONE)
    waits = DeliveryHistory(NOW_US, 7, "quiet_hours", NOW_US + SECOND_US)

    await store.ledger.record_outcome(claim.delivery, PLACE, DeliveryState.WAITING, waits, counts=False)

    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.n, entry.history) == (DeliveryState.WAITING, 0, waits)


async def test_a_move_happens_only_from_the_states_named(store: Store) -> None:
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


async def test_the_deliveries_of_a_user_come_newest_item_first(store: Store) -> None:
    await store.ledger.plan([PHONE, TABLET], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([replace(PHONE, item="b")], DeliveryState.PLANNED, None, NOW_US + SECOND_US)

    items = [entry.intent.item for entry in await store.ledger.of_user("alice", 10)]

    assert items == ["b", "a", "a"]
    assert [entry.intent.item for entry in await store.ledger.of_user("alice", 1)] == ["b"]


async def test_of_a_user_that_is_forgotten_nothing_is_entered(store: Store) -> None:
    """Who decided before it was forgotten, and plans after, leaves nothing of it behind."""
    bob = replace(PHONE, uid="bob")
    await planned(store, PHONE)
    await store.users.delete_user("alice", NOW_US)

    assert await store.ledger.plan([PHONE, bob], DeliveryState.PLANNED, None, NOW_US) == []
    assert await store.ledger.plan([TABLET], DeliveryState.CANCELLED, "present", NOW_US) == []

    assert await store.ledger.claim(PHONE, PLACE, NOW_US, NOW_US + SECOND_US) is NotClaimed.ABSENT
    assert await store.ledger.of_user("alice", 9) == await store.ledger.of_user("bob", 9) == []
    assert await entries(store) == []


async def test_the_agenda_asks_what_became_of_what_is_planned_once_for_an_item(store: Store) -> None:
    await store.ledger.plan([PHONE, replace(PHONE, item="b")], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([TABLET], DeliveryState.PLANNED, None, NOW_US + SECOND_US)

    seconds = OVERDUE_US // SECOND_US
    assert await entries(store) == [(WorkKind.OVERDUE, "a", seconds), (WorkKind.OVERDUE, "b", seconds)]


async def test_what_was_decided_against_asks_for_nothing(store: Store) -> None:
    await store.ledger.plan([PHONE], DeliveryState.CANCELLED, "present", NOW_US)
    await store.ledger.plan([PHONE], DeliveryState.PLANNED, None, NOW_US)

    assert await entries(store) == []
    [entry] = await store.ledger.of_item("alice", "a")
    assert (entry.state, entry.history) == (DeliveryState.CANCELLED, DeliveryHistory(NOW_US, 7, "present"))
