"""Timers of items, reminders, displacement and aggregation (L7, "Aggregation"), in every store."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from gregor.core.items.announcement import AnnouncementEntry, AnnouncementKind, DeviceScope
from gregor.core.limits import AGENDA_ENTRIES_OF_AN_ITEM
from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind, Receipt, RemovalReason, Sender
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.contract.store import Store
from tests.contract.test_store_bounds import MakeStore
from tests.support.agendas import at, entries, remind, timed, work_of
from tests.support.builders import (
    BACKEND,
    LIMITS,
    NOW,
    NOW_US,
    SECOND_US,
    SEED,
    creating,
    dismissing,
    ids_of,
    interval,
    item,
    message,
    planned,
    sweeping,
)
from tests.support.store_backends import AnnouncementRecorder

# ---- timers of a creation


async def test_item_schedules_reminder_and_expiry(store: Store) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+20", "+10"], expires="+30"))

    assert await entries(store) == [(WorkKind.REMIND, "a", 10), (WorkKind.EXPIRE, "a", 30)]


@pytest.mark.parametrize(
    ("times", "expires", "first"),
    [
        ([NOW - 20, NOW - 10, NOW + 5], None, -10),
        ([NOW - 20, NOW, NOW + 5], None, 0),
        ([NOW + 5, NOW + 9], None, 5),
        ([NOW + 5], NOW + 5, None),
        ([NOW - 5, NOW + 50], NOW + 20, -5),
        ([NOW + 30], NOW + 20, None),
    ],
)
async def test_only_the_latest_past_reminder_is_scheduled(
    store: Store, times: list[int], expires: int | None, first: int | None
) -> None:
    await store.users.commit("alice", creating("a", created=NOW - 60, remind_at=times, expires=expires))

    reminders = [entry for entry in await entries(store) if entry[0] is WorkKind.REMIND]
    assert reminders == ([] if first is None else [(WorkKind.REMIND, "a", first)])


async def test_item_expires_behind_many_other_entries(store: Store) -> None:
    """The store examines some entries only, and continues at the time of the last of them."""
    await store.users.commit("alice", creating("first", expires="+1"))
    for part in range(3):
        ids = [f"{part}-{n}" for n in range(100)]
        await store.users.commit("alice", creating(*ids, remind_at=["+10"]))
        await store.users.commit("alice", creating(*(f"late-{each}" for each in ids), remind_at=[f"+{20 + part}"]))
    await store.users.commit("alice", creating("last", expires="+60"))

    for seconds, gone in ((1, 1), (10, 1), (11, 1), (21, 1), (59, 1), (60, 2)):
        state = await store.users.state("alice", BACKEND, at(seconds))
        assert len(state.items) == 602 - gone, seconds


async def test_dead_on_arrival_schedules_nothing(store: Store) -> None:
    await store.users.commit("alice", dismissing("a"))
    await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(5)), remind_at=["+10"]))
    await store.users.commit("alice", timed("b", ItemTimer(ItemTimerKind.WINDOW, at(5)), created=NOW - 9, expires=NOW))

    assert await entries(store) == []


async def test_timers_of_item_and_window(store: Store) -> None:
    timers = (
        ItemTimer(ItemTimerKind.PUSH, at(10)),
        ItemTimer(ItemTimerKind.MAIL, at(20)),
        ItemTimer(ItemTimerKind.WINDOW, at(30)),
    )
    await store.users.commit("alice", timed("a", *timers, category="news"))
    await store.users.commit("alice", timed("b", ItemTimer(ItemTimerKind.WINDOW, at(40)), category="news"))
    await store.users.commit(
        "alice", timed("c", ItemTimer(ItemTimerKind.WINDOW, at(50)), category="news", for_device="phone")
    )

    assert await entries(store) == [
        (WorkKind.PUSH, "a", 10),
        (WorkKind.MAIL, "a", 20),
        (WorkKind.WINDOW, "news\0", 30),
        (WorkKind.WINDOW, "news\0phone", 50),
    ]


@pytest.mark.parametrize("count", [1, 2], ids=["one item", "several items"])
async def test_windows_without_items_are_bounded(make_store: MakeStore, count: int) -> None:
    """A window stays until its end, even if its items leave. A device opened 350,000 windows in an hour: 76 MB."""
    store = await make_store(dataclasses.replace(LIMITS, live=3))
    rounds, window = AGENDA_ENTRIES_OF_AN_ITEM * 3 + 5, ItemTimer(ItemTimerKind.WINDOW, at(300))
    for n in range(rounds):
        ids = [f"{n}-{k}" for k in range(count)]
        commit = creating(*ids, category=f"news.{n}")
        commit = replace(commit, creations=tuple(replace(each, timers=(window,)) for each in commit.creations))
        assert (await store.users.commit("alice", commit)).created == tuple(ids)
        await store.users.commit("alice", dismissing(*ids))

    windows = {name for kind, name, _ in await entries(store) if kind is WorkKind.WINDOW}
    assert "news.0\0" in windows
    assert f"news.{rounds - 1}\0" not in windows
    assert len(windows) <= AGENDA_ENTRIES_OF_AN_ITEM * 3

    due = await store.agenda.due_work("alice", at(400), 1_000)
    await store.agenda.complete("alice", 0, [CompletedWork(work) for work in due], [], 0)
    await store.users.commit("alice", timed("later", window, category="news.1"))
    assert [name for kind, name, _ in await entries(store) if kind is WorkKind.WINDOW] == ["news.1\0"]


async def test_each_creation_has_its_own_timers(store: Store) -> None:
    commit = planned(message({"a": item(expires="+50"), "b": item(), "c": item()}))
    timers = {"a": (), "b": (ItemTimer(ItemTimerKind.PUSH, at(7)),), "c": (ItemTimer(ItemTimerKind.WINDOW, at(8)),)}
    creations = tuple(replace(creation, timers=timers[creation.id]) for creation in commit.creations)
    await store.users.commit("alice", replace(commit, creations=creations))

    assert await entries(store) == [
        (WorkKind.PUSH, "b", 7),
        (WorkKind.WINDOW, "news\0", 8),
        (WorkKind.EXPIRE, "a", 50),
    ]


@pytest.mark.parametrize("end", ["id", "interval", "device"])
async def test_removal_deletes_the_item_s_timers(store: Store, end: str) -> None:
    timers = (
        ItemTimer(ItemTimerKind.PUSH, at(10)),
        ItemTimer(ItemTimerKind.MAIL, at(20)),
        ItemTimer(ItemTimerKind.WINDOW, at(30)),
    )
    for_device = "phone" if end == "device" else None
    await store.devices.ensure_device("alice", "phone", NOW_US)
    await store.users.commit(
        "alice", timed("a", *timers, category="news", remind_at=["+5"], expires="+40", for_device=for_device)
    )
    await store.users.commit("alice", timed("b", ItemTimer(ItemTimerKind.PUSH, at(15)), category="mail", expires="+45"))
    if end == "id":
        await store.users.commit("alice", dismissing("a", now_us=at(1)))
    elif end == "interval":
        await store.users.commit("alice", sweeping(interval("news"), now_us=at(1)))
    else:
        await store.devices.forget_device("alice", "phone", at(1), SEED)

    # Its removal is recorded, because devices may have got a push.
    assert [entry for entry in await entries(store) if entry[0] is not WorkKind.LEFT] == [
        (WorkKind.PUSH, "b", 15),
        (WorkKind.WINDOW, f"news\0{for_device or ''}", 30),
        (WorkKind.EXPIRE, "b", 45),
    ]


async def test_hiding_keeps_the_item_s_timers(store: Store) -> None:
    await store.users.commit(
        "alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(9)), remind_at=["+5"], for_device="*")
    )

    await store.users.commit("alice", dismissing("a", sender=Sender("phone")))

    assert await entries(store) == [(WorkKind.REMIND, "a", 5), (WorkKind.PUSH, "a", 9)]
    assert (await work_of(store, WorkKind.PUSH)).item is not None
    assert (await work_of(store, WorkKind.PUSH)).item.hidden_by == {"phone"}  # type: ignore[union-attr]


# ---- reminders


async def test_reminder_fires_once_and_schedules_the_next(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+10", "+20"]))

    first = await store.users.commit("alice", remind("a", 0, at(11)))
    again = await store.users.commit("alice", remind("a", 0, at(12)))

    assert first == Receipt(SEED, 2)
    assert again == Receipt(SEED, 2, is_unchanged=True)
    assert await entries(store) == [(WorkKind.REMIND, "a", 20)]
    announced = (await recorder.announcements(2))[1]
    assert (announced.kind, announced.seq, announced.remind_at_us) == (AnnouncementKind.REMIND, 2, at(10))
    assert (announced.entries, announced.before, announced.after) == (
        (AnnouncementEntry("a", "news", None),),
        announced.after,
        announced.before,
    )
    await store.users.commit("alice", remind("a", 1, at(21)))
    assert await entries(store) == []


async def test_reminder_needs_a_live_item_and_its_turn(store: Store) -> None:
    await store.users.commit("alice", creating("a", "b", remind_at=["+10", "+20"], expires="+30"))
    await store.users.commit("alice", dismissing("b"))

    for item_id, index in (("a", 1), ("a", 2), ("b", 0), ("c", 0)):
        receipt = await store.users.commit("alice", remind(item_id, index, at(25)))
        assert receipt == Receipt(SEED, 2, is_unchanged=True)
    late = await store.users.commit("alice", remind("a", 0, at(30)))
    assert late.is_unchanged and late.seq == 3


async def test_no_reminder_after_the_expiry(store: Store) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+10", "+30"], expires="+30"))

    await store.users.commit("alice", remind("a", 0, at(10)))

    assert await entries(store) == [(WorkKind.EXPIRE, "a", 30)]


@pytest.mark.parametrize(
    ("for_device", "scope", "devices"),
    [
        ("phone", DeviceScope.ONLY, ("", "phone")),
        ("*", DeviceScope.ALL_BUT, ("laptop", "phone")),
        (None, DeviceScope.EVERY, ()),
    ],
)
async def test_reminder_is_announced_with_the_item_s_scope(
    store: Store, recorder: AnnouncementRecorder, for_device: str | None, scope: DeviceScope, devices: tuple[str, ...]
) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+10"], for_device=for_device))
    if for_device == "*":
        for device in ("phone", "laptop"):
            await store.users.commit("alice", dismissing("a", sender=Sender(device)))

    receipt = await store.users.commit("alice", remind("a", 0, at(10)))

    announced = (await recorder.announcements(receipt.seq))[-1]
    assert announced.entries == (AnnouncementEntry("a", "news", None, scope, devices),)


async def test_followed_reminder_adds_work(store: Store) -> None:
    await store.users.commit("alice", creating("a", remind_at=["+10", "+20"]))

    await store.users.commit("alice", remind("a", 0, at(11), has_follow_up=True))
    await store.users.commit("alice", remind("a", 0, at(12), has_follow_up=True))

    assert await entries(store) == [(WorkKind.FOLLOW, "a", 11), (WorkKind.REMIND, "a", 20)]
    follow = await work_of(store, WorkKind.FOLLOW)
    assert (follow.n, follow.seq) == (0, 2)
    assert follow.item is not None and follow.item.remind_at_us == (at(10), at(20))
    await store.users.commit("alice", dismissing("a", now_us=at(13)))
    assert (await work_of(store, WorkKind.FOLLOW)).item is None


# ---- displacement and aggregation


async def test_category_bound_displaces_the_oldest(store: Store, recorder: AnnouncementRecorder) -> None:
    for number, item_id in enumerate(("c", "a", "b")):
        await store.users.commit("alice", creating(item_id, category="news", created=NOW - number))
    await store.users.commit("alice", creating("z", category="news.local", created=NOW - 90))

    keep = Commit(at(1), SEED, reason=RemovalReason.DISPLACED, keep=(("news", 1),))
    receipt, again = await store.users.commit("alice", keep), await store.users.commit("alice", keep)

    assert receipt == Receipt(SEED, 5, dismissed=("b", "a"))
    assert again == Receipt(SEED, 5, is_unchanged=True)
    announced = (await recorder.announcements(5))[4]
    assert (announced.kind, announced.reason, [entry.id for entry in announced.entries]) == (
        AnnouncementKind.UPDATE,
        RemovalReason.DISPLACED,
        ["b", "a"],
    )


def folding(*ids: str, into: str = "s", now_us: int = NOW_US + SECOND_US, **fields: Any) -> Commit:
    """Return the commit that replaces items by a summary if all of them are live."""
    created = creating(into, now_us=now_us, **fields)
    return replace(created, ids=ids, reason=RemovalReason.AGGREGATED, is_conditional=True)


async def test_creation_displaces_the_oldest_of_its_category(store: Store) -> None:
    """``max_live`` of a category: the store applies it after every commit."""
    await store.users.commit("alice", creating("other", category="sport"))
    for minute, item_id in enumerate(["a", "b", "c"]):
        made = creating(item_id, category="news", created=NOW - 600 + minute)
        await store.users.commit("alice", replace(made, max_live=(("news", 2),)))

    assert sorted(ids_of(await store.users.state("alice", BACKEND, NOW_US))) == ["b", "c", "other"]
    gone = await store.users.item("alice", "a", BACKEND, NOW_US)
    assert gone is not None
    assert gone.gone is not None
    assert gone.gone.reason is RemovalReason.DISPLACED


async def test_categories_are_bounded_in_one_commit(store: Store, recorder: AnnouncementRecorder) -> None:
    """A message with 100 categories would otherwise scan all items 100 times."""
    for number in range(12):
        await store.users.commit(
            "alice", creating(f"i{number:02}", category=f"news.{number % 2}", created=NOW - number)
        )

    made = creating("x", category="news.0", created=NOW - 20)
    receipt = await store.users.commit("alice", replace(made, max_live=(("news.1", 4), ("other", 1), ("news.0", 1))))

    assert receipt.seq == 13
    announced = (await recorder.announcements(14))[13]
    assert [entry.id for entry in announced.entries] == ["i11", "i09", "x", "i10", "i08", "i06", "i04", "i02"]


async def test_aggregation_is_one_commit(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a", "b", "c"))

    receipt = await store.users.commit("alice", folding("a", "b"))

    assert receipt == Receipt(SEED, 2, created=("s",), dismissed=("a", "b"))
    assert ids_of(await store.users.state("alice", BACKEND, at(1))) == ["c", "s"]
    announced = (await recorder.announcements(2))[1]
    assert announced.reason is RemovalReason.AGGREGATED and [entry.id for entry in announced.entries] == ["s", "a", "b"]


@pytest.mark.parametrize("change", ["dismissed", "hidden", "unknown", "claim_now", "caught"])
async def test_aggregation_of_a_changed_state_does_nothing(store: Store, change: str) -> None:
    await store.users.commit("alice", creating("a", "b", for_device="*" if change == "hidden" else None))
    if change == "dismissed":
        await store.users.commit("alice", dismissing("b"))
    elif change == "hidden":
        await store.users.commit("alice", dismissing("b", sender=Sender("phone")))
    elif change == "claim_now":
        await store.users.commit("alice", creating("s", body="other"))
    elif change == "caught":
        await store.users.commit("alice", sweeping(interval("news", end=NOW + 9, skip=["a", "b"])))
    before = await store.users.state("alice", BACKEND, at(1))

    fold = folding("a", "x" if change == "unknown" else "b", created=NOW + 1)
    receipt = await store.users.commit("alice", fold)

    assert receipt == Receipt(SEED, before.seq, is_unchanged=True)
    assert await store.users.state("alice", BACKEND, at(1)) == before
    assert await entries(store) == []


async def test_category_items_come_with_the_seq(store: Store) -> None:
    await store.users.commit("alice", creating("b", category="news", created=NOW - 1))
    await store.users.commit("alice", creating("a", category="news", created=NOW - 2, expires="+90", remind_at=["+9"]))
    await store.users.commit("alice", creating("c", category="news", for_device="phone"))
    await store.users.commit("alice", creating("d", category="news.local"))

    groups = await store.agenda.category_items("alice", ["news", "news.local"])
    seq, items = groups.seq, groups.of("news", None)

    assert (seq, [each.id for each in items], [each.seq for each in items]) == (4, ["a", "b"], [2, 1])
    assert (items[0].expires_us, items[0].remind_at_us) == (at(88), (at(7),))
    assert [each.id for each in groups.of("news", "phone")] == ["c"]
    assert [each.id for each in groups.of("news.local", None)] == ["d"]
    assert groups.of("new", "sphone") == []
    for uid, category, expected_seq in (("alice", "other", 4), ("nobody", "news", 0)):
        empty = await store.agenda.category_items(uid, [category])
        assert (empty.seq, empty.of(category, None)) == (expected_seq, [])
