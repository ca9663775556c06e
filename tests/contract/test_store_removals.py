"""Removals recorded in the agenda, whose notifications must be withdrawn, in every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from gregor.core.items.sync import Removal
from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind, RemovalReason, Sender
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.contract.store import Store
from tests.support.agendas import ALICE, at, entries, remind, timed, work_of
from tests.support.builders import BACKEND, LIMITS, NOW_US, SEED, creating, dismissing, interval, sweeping

PUSH, MAIL = ItemTimer(ItemTimerKind.PUSH, at(3)), ItemTimer(ItemTimerKind.MAIL, at(900))
PHONE = Sender("phone")

Leaving = Callable[[Store], Awaitable[object]]


async def _expire_on_read(store: Store) -> None:
    await store.users.state("alice", BACKEND, at(60))


WAYS: dict[str, tuple[RemovalReason, float, Leaving]] = {
    "dismissed": (RemovalReason.DISMISSED, 5, lambda store: store.users.commit("alice", dismissing("a", now_us=at(5)))),
    "swept": (
        RemovalReason.INTERVAL,
        5,
        lambda store: store.users.commit("alice", sweeping(interval("news"), now_us=at(5))),
    ),
    "expired at its time": (RemovalReason.EXPIRED, 60, lambda store: store.users.commit_due("alice", at(60))),
    "expired, found by a read": (RemovalReason.EXPIRED, 60, _expire_on_read),
    "expired, found by a commit": (
        RemovalReason.EXPIRED,
        60,
        lambda store: store.users.commit("alice", creating("x", now_us=at(60))),
    ),
    "folded": (
        RemovalReason.AGGREGATED,
        5,
        lambda store: store.users.commit(
            "alice",
            replace(creating("sum", now_us=at(5)), ids=("a",), reason=RemovalReason.AGGREGATED, is_conditional=True),
        ),
    ),
    "displaced": (
        RemovalReason.DISPLACED,
        5,
        lambda store: store.users.commit(
            "alice", Commit(at(5), SEED, reason=RemovalReason.DISPLACED, keep=(("news", 0),))
        ),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("timer", [PUSH, MAIL], ids=["push", "mail"])
async def test_removal_of_a_timed_item_is_recorded(store: Store, way: str, timer: ItemTimer) -> None:
    reason, seconds, leave = WAYS[way]
    await store.users.commit("alice", creating("first", category="other"))
    await store.users.commit("alice", timed("a", timer, expires="+60", remind_at=["+30"]))

    await leave(store)

    due = [work for work in await store.agenda.due_work("alice", at(seconds), 9) if work.kind is not WorkKind.FORGET]
    [left] = due
    assert (left.kind, left.name, left.at_us, left.seq) == (WorkKind.LEFT, "a", at(seconds), 3)
    assert left.gone == Removal(at(seconds), reason, None, 3)
    assert left.item is not None and (left.item.id, left.item.category, left.item.seq) == ("a", "news", 2)
    first_us = (await store.agenda.next_due_times())[ALICE]
    assert first_us is not None and first_us <= at(seconds)


async def test_device_removal_records_its_timed_items(store: Store) -> None:
    await store.devices.ensure_device("alice", "phone", NOW_US)
    await store.users.commit("alice", timed("a", PUSH, for_device="phone"))

    await store.devices.forget_device("alice", "phone", at(5), SEED)

    left = await work_of(store, WorkKind.LEFT)
    assert left.gone is not None and left.gone.reason is RemovalReason.DISPLACED
    assert left.item is not None and left.item.for_device == "phone"


@pytest.mark.parametrize("way", [way for way in WAYS if way != "folded"])
async def test_removal_of_a_plain_item_is_not_recorded(store: Store, way: str) -> None:
    await store.users.commit("alice", creating("first", category="other"))
    await store.users.commit(
        "alice", timed("a", ItemTimer(ItemTimerKind.WINDOW, at(300)), expires="+60", remind_at=["+30"])
    )

    await WAYS[way][2](store)

    assert await entries(store) == [(WorkKind.WINDOW, "news\0", 300)]


@pytest.mark.parametrize("way", WAYS)
async def test_removals_are_recorded_for_webhooks(store: Store, way: str) -> None:
    await store.users.commit("alice", creating("a", expires="+60"))
    store.recorded_events.removals = True

    await WAYS[way][2](store)

    assert (await work_of(store, WorkKind.LEFT)).name == "a"
    assert (await store.users.state("alice", BACKEND, at(60))).seq <= 3


async def test_displaced_items_are_recorded_for_webhooks(store: Store) -> None:
    await store.users.commit("alice", creating("a"))

    await store.users.commit(
        "alice", replace(creating("b", now_us=at(5)), records_removals=True, max_live=(("news", 1),))
    )

    assert (await work_of(store, WorkKind.LEFT)).name == "a"


async def test_followed_reminder_marks_the_item_as_timed(store: Store) -> None:
    """Its category may have got a push policy after the item was created."""
    await store.users.commit("alice", creating("a", "b", remind_at=["+1", "+30"]))
    await store.users.commit("alice", remind("a", 0, at(1), has_follow_up=True))
    await store.users.commit("alice", remind("b", 0, at(1)))
    await store.users.commit("alice", remind("a", 1, at(30), has_follow_up=True))
    before = await store.users.state("alice", BACKEND, at(31))

    await store.users.commit("alice", dismissing("a", "b", now_us=at(31)))

    assert [item.id for item in before.items] == ["a", "b"]
    assert [name for kind, name, _ in await entries(store) if kind is WorkKind.LEFT] == ["a"]


async def test_hiding_does_not_record_a_removal(store: Store) -> None:
    await store.users.commit("alice", timed("a", PUSH, for_device="*"))

    await store.users.commit("alice", dismissing("a", now_us=at(1), sender=PHONE))
    assert await entries(store) == [(WorkKind.PUSH, "a", 3)]
    await store.users.commit("alice", dismissing("a", now_us=at(2)))

    left = await work_of(store, WorkKind.LEFT)
    assert left.item is not None and left.item.hidden_by == {"phone"}


async def test_removal_names_the_dismissing_device(store: Store) -> None:
    await store.users.commit("alice", timed("a", PUSH))

    await store.users.commit("alice", dismissing("a", now_us=at(5), sender=PHONE))

    assert (await work_of(store, WorkKind.LEFT)).gone == Removal(at(5), RemovalReason.DISMISSED, "phone", 2)


async def test_removal_entry_is_due_at_once(store: Store) -> None:
    await store.users.commit("alice", timed("a", PUSH))
    assert await store.agenda.claim(ALICE, at(2), at(40), 5) == []
    await store.users.commit("alice", dismissing("a", now_us=at(2)))

    assert await store.agenda.claim(ALICE, at(2), at(40), 5) == ["alice"]
    await store.agenda.complete("alice", at(40), [CompletedWork(await work_of(store, WorkKind.LEFT))])

    assert await entries(store) == []


async def test_collected_removal_has_no_item(store: Store) -> None:
    await store.users.commit("alice", timed("a", PUSH))
    await store.users.commit("alice", dismissing("a", now_us=at(2)))

    await store.users.collect("alice", at(3) + LIMITS.retention_us)

    left = await work_of(store, WorkKind.LEFT)
    assert (left.name, left.item, left.gone, left.seq) == ("a", None, None, 0)
