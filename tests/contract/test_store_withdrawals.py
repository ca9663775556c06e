"""Withdrawals in the ledger: pending ones, withdrawn deliveries, and wake-ups of devices, in every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import (
    MAX_WAITING_OF_DEVICE,
    MAX_WAITING_OF_USER,
    Claim,
    DeliveryAttempt,
    DeliveryHistory,
    DeliveryRecord,
    DeliveryState,
    NotYet,
)
from gregor.store.contract.store import Store
from tests.support.builders import HOUR_US, NOW_US, SECOND_US, creating

PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=2, at_us=NOW_US)
WITHDRAWAL = Intent("alice", "a", IntentKind.WITHDRAW, "apns", "phone", seq=3, at_us=NOW_US)
PLACE = "phone/withdraw"


@pytest.fixture(autouse=True)
async def alice(store: Store) -> None:
    """Return a store in which alice exists."""
    await store.users.commit("alice", creating("a", "b"))


async def claimed(store: Store, intent: Intent, now_us: int = NOW_US, place: str = PLACE) -> DeliveryRecord:
    """Plan and claim a delivery."""
    await store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
    claim = await store.ledger.claim(intent, place, now_us, now_us + SECOND_US)
    assert isinstance(claim, Claim), claim
    return claim.delivery


async def ended(
    store: Store, intent: Intent, state: DeliveryState = DeliveryState.SENT, at_us: int = NOW_US, place: str = ""
) -> None:
    """Claim a delivery and record its outcome."""
    delivery = await claimed(store, intent, at_us, place)
    history = DeliveryHistory(delivery.history.planned_us, intent.seq, attempts=(DeliveryAttempt(at_us, "200"),))
    assert await store.ledger.record_outcome(delivery, place, state, history)


async def states(store: Store, item: str = "a") -> dict[tuple[str, str, str], DeliveryState]:
    """Return the state of each kind, device and channel."""
    found = await store.ledger.of_item("alice", item)
    return {(each.intent.kind.value, each.intent.device, each.intent.channel): each.state for each in found}


async def test_sent_withdrawal_marks_deliveries_withdrawn(store: Store) -> None:
    others = [replace(PUSH, device="ph"), replace(PUSH, channel="fcm"), replace(PUSH, item="b")]
    reminder = replace(PUSH, kind=IntentKind.REMIND, n=1)
    for intent in (PUSH, reminder, *others):
        await ended(store, intent)
    await store.ledger.plan([replace(PUSH, kind=IntentKind.SUMMARY)], DeliveryState.PLANNED, None, NOW_US)

    await ended(store, WITHDRAWAL, place=PLACE)

    assert await states(store) == {
        ("item", "phone", "apns"): DeliveryState.WITHDRAWN,
        ("remind", "phone", "apns"): DeliveryState.WITHDRAWN,
        ("summary", "phone", "apns"): DeliveryState.PLANNED,
        ("item", "ph", "apns"): DeliveryState.SENT,
        ("item", "phone", "fcm"): DeliveryState.SENT,
        ("withdraw", "phone", "apns"): DeliveryState.SENT,
    }
    assert await states(store, "b") == {("item", "phone", "apns"): DeliveryState.SENT}
    [told] = [each for each in await store.ledger.of_item("alice", "a") if each.intent.n == 1]
    assert [attempt.status for attempt in told.history.attempts] == ["200"]


@pytest.mark.parametrize(
    "state", [DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.RETRY, DeliveryState.UNKNOWN]
)
async def test_unsent_withdrawal_marks_nothing(store: Store, state: DeliveryState) -> None:
    await ended(store, PUSH)

    await ended(store, WITHDRAWAL, state)

    assert (await states(store))["item", "phone", "apns"] is DeliveryState.SENT


async def test_pending_withdrawals_come_oldest_first(store: Store) -> None:
    later = replace(WITHDRAWAL, item="b", at_us=NOW_US + 1)
    once_more = replace(WITHDRAWAL, n=1, at_us=NOW_US + 2)
    elsewhere = [
        replace(WITHDRAWAL, device="phone2"),
        replace(WITHDRAWAL, channel="fcm"),
        replace(WITHDRAWAL, uid="bob"),
    ]
    await store.users.commit("bob", creating("a"))
    for intent in (once_more, later, WITHDRAWAL, *elsewhere):
        await store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
    await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, NOW_US)

    known = await store.ledger.withdrawals("alice", "phone", "apns")

    assert [each.key for each in known.waiting] == [WITHDRAWAL.key, later.key, once_more.key]
    assert [each.at_us for each in known.waiting] == [NOW_US, NOW_US + 1, NOW_US + 2]
    assert (await store.ledger.withdrawals("alice", "watch", "apns")).waiting == ()
    assert (await store.ledger.withdrawals("nobody", "phone", "apns")).waiting == ()


async def test_waiting_withdrawal_has_its_category(store: Store) -> None:
    named = replace(WITHDRAWAL, item="b", category="news")
    await store.ledger.plan([WITHDRAWAL], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([named], DeliveryState.PLANNED, None, NOW_US)

    waiting = (await store.ledger.withdrawals("alice", "phone", "apns")).waiting
    assert [(each.item, each.category) for each in waiting] == [("a", ""), ("b", "news")]
    await ended(store, named)

    waiting = (await store.ledger.withdrawals("alice", "phone", "apns")).waiting
    assert [(each.item, each.category) for each in waiting] == [("a", "")]


def many(most: int, **changes: Any) -> list[Intent]:
    """Return this number of withdrawals."""
    return [replace(WITHDRAWAL, n=n, **changes) for n in range(most)]


async def waiting_of(store: Store, *devices: str) -> list[int]:
    """Return how many withdrawals wait for each device."""
    return [len((await store.ledger.withdrawals("alice", each, "apns")).waiting) for each in devices]


async def test_waiting_withdrawals_of_a_device_are_bounded(store: Store) -> None:
    await store.ledger.plan(many(MAX_WAITING_OF_DEVICE, category="news"), DeliveryState.PLANNED, None, NOW_US)
    above = replace(WITHDRAWAL, item="b", seq=7)

    await store.ledger.plan([above], DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([replace(above, device="phone2")], DeliveryState.PLANNED, None, NOW_US)

    assert await waiting_of(store, "phone", "phone2") == [MAX_WAITING_OF_DEVICE, 1]
    entered = {each.intent.device: each for each in await store.ledger.of_item("alice", "b")}
    assert entered["phone"].state is DeliveryState.CANCELLED
    assert entered["phone"].history == DeliveryHistory(NOW_US, 7, "budget")
    assert entered["phone2"].state is DeliveryState.PLANNED
    await ended(store, WITHDRAWAL)
    await store.ledger.plan([replace(above, n=1)], DeliveryState.PLANNED, None, NOW_US)
    assert await waiting_of(store, "phone") == [MAX_WAITING_OF_DEVICE]


async def test_waiting_withdrawals_of_a_user_are_bounded(store: Store) -> None:
    each = MAX_WAITING_OF_USER // 5
    for device in "abcd":
        await store.ledger.plan(many(each, device=device), DeliveryState.PLANNED, None, NOW_US)

    await store.ledger.plan(many(each + 1, device="e"), DeliveryState.PLANNED, None, NOW_US)

    assert await waiting_of(store, *"abcde") == [each] * 5


async def test_waiting_withdrawals_of_a_user_leave_those_of_another_alone(store: Store) -> None:
    await store.users.commit("bob", creating("a"))
    for device in "abcde":
        await store.ledger.plan(many(MAX_WAITING_OF_DEVICE, device=device), DeliveryState.PLANNED, None, NOW_US)
    await store.ledger.plan([replace(WITHDRAWAL, device="f")], DeliveryState.PLANNED, None, NOW_US)

    await store.ledger.plan([replace(WITHDRAWAL, uid="bob")], DeliveryState.PLANNED, None, NOW_US)

    assert await waiting_of(store, "f") == [0]
    assert [each.uid for each in (await store.ledger.withdrawals("bob", "phone", "apns")).waiting] == ["bob"]


@pytest.mark.parametrize(
    "state", [DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.DEAD, DeliveryState.UNKNOWN]
)
async def test_finished_withdrawal_is_not_pending(store: Store, state: DeliveryState) -> None:
    await ended(store, WITHDRAWAL, state)

    assert (await store.ledger.withdrawals("alice", "phone", "apns")).waiting == ()


async def test_retried_withdrawal_stays_pending(store: Store) -> None:
    delivery = await claimed(store, WITHDRAWAL)
    await store.ledger.record_outcome(
        delivery, PLACE, DeliveryState.RETRY, DeliveryHistory(NOW_US, next_us=NOW_US + SECOND_US)
    )

    assert len((await store.ledger.withdrawals("alice", "phone", "apns")).waiting) == 1


async def test_cancelled_withdrawal_is_not_pending(store: Store) -> None:
    await store.ledger.plan([WITHDRAWAL], DeliveryState.PLANNED, None, NOW_US)

    assert await store.ledger.move(
        WITHDRAWAL, [DeliveryState.PLANNED], DeliveryState.CANCELLED, DeliveryHistory(NOW_US, reason="device_gone")
    )

    assert (await store.ledger.withdrawals("alice", "phone", "apns")).waiting == ()


async def test_wakeups_are_kept_for_an_hour(store: Store) -> None:
    """A withdrawal that was sent together with another push held no place, and did not wake the device."""
    minutes = (0, 10, 30, 59, 61, 75)
    for n, minute in enumerate(minutes):
        at_us = NOW_US + minute * 60 * SECOND_US
        await ended(store, replace(WITHDRAWAL, n=n, at_us=at_us), at_us=at_us, place="" if minute == 30 else PLACE)

    known = await store.ledger.withdrawals("alice", "phone", "apns")

    assert [(at_us - NOW_US) // (60 * SECOND_US) for at_us in known.woken_us] == [75, 61, 59]
    assert (await store.ledger.withdrawals("alice", "phone", "fcm")).woken_us == ()
    assert max(known.woken_us) - min(known.woken_us) <= HOUR_US


async def test_waiting_withdrawal_can_be_claimed_early(store: Store) -> None:
    delivery = await claimed(store, WITHDRAWAL)
    waits = DeliveryHistory(NOW_US, reason="budget", next_us=NOW_US + HOUR_US)
    await store.ledger.record_outcome(delivery, PLACE, DeliveryState.WAITING, waits, counts=False)

    lease_us = NOW_US + SECOND_US
    assert await store.ledger.claim(WITHDRAWAL, "", NOW_US, lease_us) == NotYet(NOW_US + HOUR_US)
    claim = await store.ledger.claim(WITHDRAWAL, "", NOW_US, lease_us, is_early=True)

    assert isinstance(claim, Claim) and claim.before is DeliveryState.WAITING
    assert not isinstance(await store.ledger.claim(WITHDRAWAL, "", NOW_US, lease_us, is_early=True), Claim)


async def test_deleted_user_has_no_withdrawals(store: Store) -> None:
    await ended(store, replace(WITHDRAWAL, item="b"), place=PLACE)
    await store.ledger.plan([WITHDRAWAL], DeliveryState.PLANNED, None, NOW_US)

    await store.users.delete_user("alice", NOW_US)

    known = await store.ledger.withdrawals("alice", "phone", "apns")
    assert (known.waiting, known.woken_us) == ((), ())
    assert await store.ledger.of_item("alice", "a") == []
    assert await store.ledger.of_user("alice", 9) == []
