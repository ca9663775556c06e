"""Bounds and retention (semantics.md "Bounds", L4, "History"), in every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from msgspec import structs

from gregor.core.category_filter import pack_category_filter
from gregor.core.errors import Problem
from gregor.core.ids import is_allowed
from gregor.core.items.sync import Delta, Full, Unchanged, UserSizes, View, cursor_for
from gregor.core.limits import FILTER_UNIT_BYTES, MAX_HIDINGS, Limits
from gregor.core.messages.model import IgnoredReason, RemovalReason, Sender
from gregor.core.notify.acknowledged_views import MAX_VIEWS, compact_view
from gregor.store.contract.access import Ticket
from gregor.store.contract.store import Store
from tests.support.builders import (
    BACKEND,
    DAY_US,
    HOUR_US,
    LIMITS,
    NOW,
    NOW_US,
    SECOND_US,
    SEED,
    creating,
    dismissing,
    document_of,
    external,
    ids_of,
    interval,
    item,
    message,
    planned,
    raise_seq,
    sweeping,
)

MakeStore = Callable[[Limits], Awaitable[Store]]
MONTH_US = 30 * DAY_US


async def refused(code: str, outcome: Awaitable[object]) -> None:
    with pytest.raises(Problem) as refusal:
        await outcome
    assert refusal.value.code == code


async def test_live_items_are_bounded(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, live=3))
    await store.users.commit("alice", creating("a", "b", "c"))

    await refused("state_full", store.users.commit("alice", creating("d")))

    state = await store.users.state("alice", BACKEND, NOW_US)
    assert (ids_of(state), state.seq) == (["a", "b", "c"], 1)


async def test_bound_applies_to_the_net_result(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, live=2))
    await store.users.commit("alice", creating("a", "b"))

    receipt = await store.users.commit("alice", planned(message({"c": item()}, ["a"])))

    assert (receipt.created, receipt.dismissed) == (("c",), ("a",))


async def test_full_state_accepts_duplicates_and_dismissals(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, live=1))
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("dead"))

    receipt = await store.users.commit("alice", creating("a", "dead"))

    assert dict(receipt.ignored) == {"a": IgnoredReason.DUPLICATE, "dead": IgnoredReason.DISMISSED}
    assert (await store.users.commit("alice", dismissing("a"))).dismissed == ("a",)


async def test_live_bytes_are_bounded(make_store: MakeStore) -> None:
    commit = creating("a", created=NOW, body="x" * 100)
    size = len(commit.creations[0].json)
    store = await make_store(replace(LIMITS, live_bytes=2 * size))
    await store.users.commit("alice", commit)
    await store.users.commit("alice", creating("b", created=NOW, body="x" * 100))

    await refused("state_full", store.users.commit("alice", creating("c", created=NOW)))


async def test_expired_items_free_room(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, live=1))
    await store.users.commit("alice", creating("a", expires="+1"))

    receipt = await store.users.commit("alice", creating("b", now_us=NOW_US + SECOND_US))

    assert (receipt.created, receipt.seq) == (("b",), 3)


async def test_tombstones_are_bounded_and_kept(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, tombstones=2))
    await store.users.commit("alice", dismissing("a", "b"))
    await store.users.commit("alice", dismissing("a", sender=Sender("phone")))

    await refused("too_many_dismissals", store.users.commit("alice", dismissing("b", "c")))

    receipt = await store.users.commit("alice", creating("a", "b", "c"))
    assert receipt.created == ("c",)
    assert (await store.users.commit("alice", dismissing("d", "e"))).is_unchanged


async def test_intervals_are_bounded_by_user_and_prefix(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, spans=3, spans_per_prefix=2))
    for begin in (NOW, NOW - 10):
        await store.users.commit("alice", sweeping(interval("news", begin=begin, end=begin + 1)))

    await refused("too_many_dismissals", store.users.commit("alice", sweeping(interval("news", begin=9, end=NOW - 20))))
    await store.users.commit("alice", sweeping(interval(prefix="news", end=NOW)))
    await refused("too_many_dismissals", store.users.commit("alice", sweeping(interval("other", end=NOW))))

    united = await store.users.commit("alice", sweeping(interval("news", begin=NOW - 9, end=NOW)))
    assert united.is_unchanged
    await store.users.commit("alice", sweeping(interval("other", end=NOW)))


async def test_skipped_ids_are_bounded_together(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, skipped=3))
    await store.users.commit("alice", sweeping(interval("news", end=NOW, skip=["a", "b"])))
    other = interval("other", end=NOW, skip=["c", "d"])

    await refused("too_many_dismissals", store.users.commit("alice", sweeping(other)))
    await store.users.commit("alice", sweeping(interval("news", end=NOW)))  # it absorbs the first one
    await store.users.commit("alice", sweeping(other))

    later_us = NOW_US + MONTH_US + 1
    await store.users.collect("alice", later_us)
    fresh = interval("news", end=NOW, skip=["e", "f"])
    await store.users.commit("alice", sweeping(fresh, now_us=later_us))


async def test_message_ids_are_bounded(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, message_ids=2))
    first = message(intervals=[interval("news")], message_id="m1")
    await store.users.commit("alice", planned(first))
    await store.users.commit("alice", planned(external(1, message_id="m2")))

    await refused("too_many_dismissals", store.users.commit("alice", planned(external(2, message_id="m3"))))
    assert (await store.users.commit("alice", planned(first))).is_unchanged
    await store.users.commit("alice", planned(external(2)))

    later_us = NOW_US + MONTH_US
    await store.users.commit("alice", planned(external(3, message_id="m4"), now_us=later_us))
    await store.users.commit("alice", planned(external(3, message_id="m5"), now_us=later_us))
    await refused(
        "too_many_dismissals", store.users.commit("alice", planned(external(3, message_id="m6"), now_us=later_us))
    )


async def test_devices_that_dismiss_an_item_are_bounded(store: Store) -> None:
    """The lists of devices have a fixed size in the store: beyond it the state was no longer JSON."""
    names = [f"{n:03}-{'x' * 124}" for n in range(MAX_HIDINGS + 1)]
    await store.users.commit("alice", creating("a", for_device="*"))
    for name in names[:-1]:
        await store.users.commit("alice", dismissing("a", sender=Sender(name)))

    await refused("too_many_dismissals", store.users.commit("alice", dismissing("a", sender=Sender(names[-1]))))
    await refused(
        "too_many_dismissals", store.users.commit("alice", sweeping(interval("news"), sender=Sender(names[-1])))
    )

    seen = await store.users.state("alice", View(names[-1]), NOW_US)
    assert [document_of(entry.json)["category"] for entry in seen.items] == ["news"]
    assert ids_of(await store.users.state("alice", View(names[0]), NOW_US)) == []
    assert (await store.users.commit("alice", dismissing("a"))).dismissed == ("a",)


async def test_devices_that_dismiss_an_unknown_id_are_bounded(store: Store) -> None:
    names = [f"device-{n}" for n in range(MAX_HIDINGS + 1)]
    for name in names[:-1]:
        await store.users.commit("alice", dismissing("a", sender=Sender(name)))

    await refused("too_many_dismissals", store.users.commit("alice", dismissing("a", sender=Sender(names[-1]))))
    await store.users.commit("alice", dismissing("a", sender=Sender(names[0])))
    await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=Sender(names[-1])))

    await refused("too_many_dismissals", store.users.commit("alice", creating("a", created=NOW, for_device="*")))


async def test_dismissals_by_devices_are_bounded(make_store: MakeStore) -> None:
    """Hidings of live items and dismissals of unknown ids by further devices count together, until they end."""
    store = await make_store(replace(LIMITS, device_dismissals=3))
    await store.users.commit("alice", creating("a", "b", for_device="*"))
    await store.users.commit("alice", dismissing("a", "x", sender=Sender("phone")))
    await store.users.commit("alice", dismissing("a", "x", sender=Sender("tablet")))

    await refused("too_many_dismissals", store.users.commit("alice", dismissing("b", sender=Sender("phone"))))
    await refused("too_many_dismissals", store.users.commit("alice", dismissing("x", sender=Sender("watch"))))
    await refused("too_many_dismissals", store.users.commit("alice", sweeping(interval("news"), sender=Sender("tv"))))
    assert (await store.users.commit("alice", dismissing("x", sender=Sender("phone")))).is_unchanged
    assert (await store.users.commit("alice", dismissing("a"))).dismissed == ("a",)

    await store.users.commit("alice", dismissing("b", sender=Sender("phone")))
    await store.users.commit("alice", dismissing("b", sender=Sender("tablet")))
    await refused("too_many_dismissals", store.users.commit("alice", dismissing("b", sender=Sender("watch"))))


@pytest.mark.parametrize("ending", ["forgotten", "created"])
async def test_filters_of_unknown_ids_are_bounded(make_store: MakeStore, ending: str) -> None:
    """Each dismissal of an unknown id stores the filter of its sender: a long one counts more, until it ends."""
    store = await make_store(replace(LIMITS, device_dismissals=7))
    long = Sender("phone", tuple(sorted(["news", *(f"other.{n:03}.{'x' * 100}" for n in range(10))])))
    size = len(pack_category_filter(long.category_filter))
    assert size // FILTER_UNIT_BYTES == 2
    await store.users.commit("alice", dismissing("a", "b", sender=long))
    await store.users.commit("alice", dismissing("a", sender=Sender("tablet")))
    await store.users.commit("alice", dismissing("a", "b", sender=long))

    await refused(
        "too_many_dismissals", store.users.commit("alice", dismissing("b", sender=replace(long, device="tv")))
    )
    await refused("too_many_dismissals", store.users.commit("alice", dismissing("c", "d", sender=long)))
    await store.users.commit("alice", dismissing("c", sender=long))
    await refused("too_many_dismissals", store.users.commit("alice", dismissing("d", sender=long)))

    now_us = NOW_US
    if ending == "created":
        await store.users.commit("alice", creating("a"))
    else:
        now_us += MONTH_US + HOUR_US + SECOND_US
    await store.users.commit("alice", dismissing("d", now_us=now_us, sender=long))


async def test_exempt_items_do_not_count_as_dismissals(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, device_dismissals=1))
    await store.users.commit("alice", creating("a", "b", "c", for_device="*"))
    sweep = sweeping(interval("news", skip=["a", "b"]), sender=Sender("phone"))

    assert (await store.users.commit("alice", sweep)).dismissed == ("c",)
    await refused("too_many_dismissals", store.users.commit("alice", sweeping(interval("news"), sender=Sender("tv"))))


@pytest.mark.parametrize("ending", ["forgotten", "expired", "created"])
async def test_ended_dismissals_by_devices_free_room(make_store: MakeStore, ending: str) -> None:
    store = await make_store(replace(LIMITS, device_dismissals=2))
    await store.users.commit("alice", creating("a", for_device="*"))
    await store.users.commit("alice", dismissing("x"))
    for device in ("phone", "tablet"):
        await store.users.commit("alice", dismissing("a" if ending == "forgotten" else "x", sender=Sender(device)))
    later_us = NOW_US + MONTH_US if ending == "expired" else NOW_US

    await refused("too_many_dismissals", store.users.commit("alice", dismissing("a", sender=Sender("watch"))))
    if ending == "forgotten":
        await store.devices.forget_device("alice", "phone", NOW_US, SEED)
    elif ending == "expired":
        await store.users.collect("alice", later_us)
    else:
        await store.users.commit("alice", creating("x"))

    receipt = await store.users.commit("alice", dismissing("a", sender=Sender("watch"), now_us=later_us))
    assert receipt.dismissed == ("a",)


async def test_covered_interval_takes_no_room(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, spans=1))
    await store.users.commit("alice", sweeping(interval("news", begin=NOW - 10, end=NOW)))

    for inner in (interval("news", begin=NOW - 5, end=NOW - 1), interval("news", begin=NOW - 10, end=NOW, skip=["a"])):
        assert (await store.users.commit("alice", sweeping(inner, sender=Sender("phone")))).is_unchanged
    await store.users.commit("alice", sweeping(interval("news", end=NOW + 1)))

    assert (await store.users.commit("alice", creating("a", created=NOW))).ignored == (("a", IgnoredReason.DISMISSED),)


async def test_dismissed_item_becomes_stale_after_retention(store: Store) -> None:
    await store.users.commit("alice", creating("a", created=NOW))
    await store.users.commit("alice", dismissing("a"))
    again = creating("a", created=NOW, now_us=NOW_US + MONTH_US)

    just_before = await store.users.commit("alice", structs.replace(again, now_us=NOW_US + MONTH_US - 1))
    after = await store.users.commit("alice", again)

    assert just_before.ignored == (("a", IgnoredReason.DISMISSED),)
    assert after.ignored == (("a", IgnoredReason.STALE),)
    assert after.is_unchanged


async def test_next_gone_item_does_not_delay_the_scheduled_collection(store: Store) -> None:
    await store.users.commit("alice", dismissing("unknown"))
    await store.users.collect("alice", NOW_US)
    later_us = NOW_US + MONTH_US - HOUR_US
    await store.users.commit("alice", creating("a", now_us=later_us))
    await store.users.commit("alice", dismissing("a", now_us=later_us))

    again = creating("unknown", created=NOW, now_us=NOW_US + MONTH_US)

    assert (await store.users.commit("alice", again)).ignored == (("unknown", IgnoredReason.STALE),)


async def test_horizon_is_created_of_the_removed_item(store: Store) -> None:
    await store.users.commit("alice", creating("a", created=NOW - 60))
    await store.users.commit("alice", dismissing("a"))
    later_us = NOW_US + MONTH_US
    await store.users.collect("alice", later_us)

    receipt = await store.users.commit("alice", planned(_created_at(x=NOW - 60, y=NOW - 59), now_us=later_us))
    stamped = await store.users.commit("alice", creating("a", now_us=later_us))

    assert (receipt.created, receipt.ignored) == (("y",), (("x", IgnoredReason.STALE),))
    assert stamped.created == ("a",)


async def test_expired_tombstone_moves_the_horizon(
    store: Store,
) -> None:
    await store.users.commit("alice", dismissing("a"))
    later_us = NOW_US + MONTH_US
    await store.users.collect("alice", later_us)

    receipt = await store.users.commit("alice", planned(_created_at(x=NOW + 3600, y=NOW + 3601), now_us=later_us))

    assert (receipt.created, receipt.ignored) == (("y",), (("x", IgnoredReason.STALE),))


async def test_expired_interval_moves_the_horizon(store: Store) -> None:
    """Its retention counts from its acceptance, even if its end is much earlier."""
    await store.users.commit("alice", sweeping(interval("news", end=NOW - 60)))
    await store.users.commit("alice", sweeping(interval("old", end=NOW - 99 * 86_400)))
    later_us = NOW_US + MONTH_US

    kept = await store.users.commit("alice", creating("k", created=NOW - 60, now_us=later_us))
    gone = await store.users.commit("alice", planned(_created_at(g=NOW - 60, h=NOW - 59), now_us=later_us + 1))

    assert kept.ignored == (("k", IgnoredReason.DISMISSED),)
    assert (gone.created, gone.ignored) == (("h",), (("g", IgnoredReason.STALE),))


async def test_interval_in_the_past_is_remembered(store: Store) -> None:
    """It is remembered from its acceptance. Nothing was removed, so the horizon is unset."""
    old = NOW - 99 * 86_400
    await store.users.commit("alice", sweeping(interval("other", end=old)))

    caught = await store.users.commit("alice", planned(_created_at(x=old, y=old + 1)))
    other = await store.users.commit("alice", creating("z", category="news", created=old - 1))

    assert (caught.created, caught.ignored) == (("y",), (("x", IgnoredReason.DISMISSED),))
    assert other.created == ("z",)


async def test_repeated_interval_restarts_its_retention(store: Store) -> None:
    await store.users.commit("alice", sweeping(interval("news", end=NOW - 60)))
    await store.users.commit("alice", sweeping(interval("news", end=NOW - 60), now_us=NOW_US + DAY_US))

    kept = await store.users.commit("alice", creating("k", created=NOW - 60, now_us=NOW_US + MONTH_US + DAY_US))
    gone = await store.users.commit("alice", creating("g", created=NOW - 60, now_us=NOW_US + MONTH_US + DAY_US + 1))

    assert (kept.ignored, gone.ignored) == ((("k", IgnoredReason.DISMISSED),), (("g", IgnoredReason.STALE),))


async def test_no_delta_from_before_removed_history(store: Store) -> None:
    await store.users.commit("alice", creating("a", "kept", body="long enough that a delta is the shorter answer"))
    await store.users.commit("alice", dismissing("a"))
    await store.users.commit("alice", creating("b", now_us=NOW_US + DAY_US))
    later_us = NOW_US + MONTH_US
    await store.users.collect("alice", later_us)

    answers = [
        await store.users.sync("alice", BACKEND, cursor_for(SEED, BACKEND, n), None, later_us) for n in (1, 2, 3)
    ]

    assert [type(answer) for answer in answers] == [Full, Delta, Unchanged]


async def test_message_id_is_kept_for_the_retention(store: Store) -> None:
    sweep = message(intervals=[interval("news")], message_id="m")
    await store.users.commit("alice", planned(sweep))
    await store.users.commit("alice", creating("a", now_us=NOW_US + 1))

    before = await store.users.commit("alice", planned(sweep, now_us=NOW_US + MONTH_US - 1))
    after = await store.users.commit("alice", planned(sweep, now_us=NOW_US + MONTH_US))

    assert before.is_unchanged
    assert after.dismissed == ("a",)


async def test_bodies_of_gone_items_expire(store: Store) -> None:
    await store.users.commit("alice", creating("a", body={"secret": 1}))
    await store.users.commit("alice", dismissing("a", now_us=NOW_US + 5))
    week_us = NOW_US + 5 + 7 * DAY_US

    before = await store.users.item("alice", "a", BACKEND, week_us - 1)
    after = await store.users.item("alice", "a", BACKEND, week_us)

    assert before is not None and not before.is_trimmed and document_of(before.json)["body"] == {"secret": 1}
    assert after is not None and after.is_trimmed
    assert document_of(after.json) == document_of(before.json) | {"body": None, "trimmed": True}
    then = await store.users.state_at("alice", BACKEND, NOW_US + 1, week_us)
    assert [document_of(entry.json).get("trimmed") for entry in then.items] == [True]


@pytest.mark.parametrize("is_collected", [True, False])
async def test_newest_gone_items_keep_their_body(make_store: MakeStore, is_collected: bool) -> None:
    """This also holds for a reader who reads before the collection."""
    store = await make_store(replace(LIMITS, history_bodies=2))
    await store.users.commit("alice", creating(*"abc"))
    for item_id in "cab":
        await store.users.commit("alice", dismissing(item_id))
    await store.users.commit("alice", dismissing("unknown", "another"))
    if is_collected:
        await store.users.collect("alice", NOW_US)

    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    assert [entry.id for entry in entries if entry.is_trimmed] == ["c"]


async def test_reading_an_item_trims_its_body(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history_bodies=1))
    await store.users.commit("alice", creating(*"ab", body={"secret": 1}))
    await store.users.commit("alice", dismissing("a"))
    before = await store.users.item("alice", "a", BACKEND, NOW_US)
    await store.users.commit("alice", dismissing("b"))

    after = await store.users.item("alice", "a", BACKEND, NOW_US)
    newest = await store.users.item("alice", "b", BACKEND, NOW_US)

    assert [entry.is_trimmed for entry in (before, after, newest) if entry] == [False, True, False]


async def test_history_reads_respect_the_bound(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history=2))
    await store.users.commit("alice", creating(*"abcd"))
    for item_id in "abcd":
        await store.users.commit("alice", dismissing(item_id))

    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    then = await store.users.state_at("alice", BACKEND, NOW_US + 5, NOW_US + 9)

    assert [entry.id for entry in entries] == ["d", "c"]
    assert then.items == ()


@pytest.mark.parametrize("prefixes", [None, (), ("mail",), ("mail.new", "user"), ("mai", "userx")])
async def test_history_of_a_filter_includes_gone_items(make_store: MakeStore, prefixes: tuple[str, ...] | None) -> None:
    store = await make_store(replace(LIMITS, history_bodies=2))
    categories = ["mail", "mail.new", "mailer", "user", "user.joined", "mail", "user", "mail.new"]
    for n, category in enumerate(categories):
        await store.users.commit("alice", creating(f"i{n}", category=category, for_device="*" if n % 2 else None))
    await store.users.commit("alice", dismissing(*(f"i{n}" for n in range(6)), sender=Sender("")))

    history = await store.users.history("alice", View("phone", prefixes), None, 50, NOW_US)
    past = await store.users.state_at("alice", View("phone", prefixes), NOW_US, NOW_US)

    wanted = [n for n, category in enumerate(categories) if is_allowed(prefixes, category)]
    assert [entry.id for entry in history] == [f"i{n}" for n in reversed(wanted)]
    assert sorted(ids_of(past)) == [f"i{n}" for n in wanted if n >= 6]


@pytest.mark.parametrize("first", [(), ("z",)])
async def test_history_is_bounded_for_any_write_pattern(make_store: MakeStore, first: tuple[str, ...]) -> None:
    """Some commits trigger a collection. A regular pattern of creations and dismissals must not miss all of them."""
    store = await make_store(replace(LIMITS, history=20, history_bodies=5))
    await store.users.commit("alice", creating("kept", *first))
    if first:
        await store.users.commit("alice", creating("one-step-more"))
    for number in range(600):
        await store.users.commit("alice", creating(f"i{number}", created=NOW - 1_000 + number))
        await store.users.commit("alice", dismissing(f"i{number}"))

    # A horizon proves that items were removed, and only the writer can have triggered the collection.
    receipt = await store.users.commit("alice", creating("old", created=NOW - 1_000))
    assert receipt.ignored == (("old", IgnoredReason.STALE),)


async def test_history_overflow_removes_the_oldest(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history=2))
    for offset, item_id in enumerate("abcd"):
        await store.users.commit("alice", creating(item_id, created=NOW - 10 + offset))
    for item_id in "acb":
        await store.users.commit("alice", dismissing(item_id))

    assert await store.users.collect("alice", NOW_US) == 1

    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    assert [entry.id for entry in entries] == ["d", "c", "b"]
    receipt = await store.users.commit("alice", planned(_created_at(x=NOW - 10, y=NOW - 9)))
    assert (receipt.created, receipt.ignored) == (("y",), (("x", IgnoredReason.STALE),))


@pytest.mark.parametrize(("waited_us", "answer"), [(2 * HOUR_US - 1, "created"), (2 * HOUR_US, "stale")])
async def test_item_ahead_of_the_clock_moves_the_horizon_later(
    make_store: MakeStore, waited_us: int, answer: str
) -> None:
    """It left before its ``created``. Removed early, it makes no creation of another caller stale."""
    store = await make_store(replace(LIMITS, history=2))
    await store.users.commit("alice", creating("ahead", created=NOW + 3600))
    await store.users.commit("alice", dismissing("ahead"))
    now_us = NOW_US + waited_us
    await store.users.commit("alice", creating("x", "y", created=1, expires=2, now_us=now_us))
    assert await store.users.collect("alice", now_us) == 1

    receipts = [
        await store.users.commit("alice", creating(f"other-{created}", created=created, now_us=now_us))
        for created in (NOW, NOW + 1)
    ]
    again = await store.users.commit("alice", creating("ahead", created=NOW + 3600, now_us=now_us))

    assert [receipt.created for receipt in receipts[1:]] == ([(f"other-{NOW + 1}",)] if answer == "created" else [()])
    assert receipts[0].ignored == ((f"other-{NOW}", IgnoredReason.STALE),)
    assert again.ignored == (() if answer == "created" else (("ahead", IgnoredReason.STALE),))


@pytest.mark.parametrize("future_us", [HOUR_US, 2 * HOUR_US])
@pytest.mark.parametrize("retention_us", [SECOND_US, 4 * HOUR_US])
async def test_horizon_of_an_unknown_id_is_never_ahead_of_the_clock(
    make_store: MakeStore, retention_us: int, future_us: int
) -> None:
    """Its item may have been as far ahead as GREGOR_MAX_FUTURE, which may be above the retention."""
    store = await make_store(replace(LIMITS, retention_us=retention_us, future_us=future_us))
    await store.users.commit("alice", dismissing("unknown"))
    now_us = NOW_US + retention_us
    assert await store.users.collect("alice", now_us) == 1

    end = NOW if retention_us < future_us else NOW + future_us // SECOND_US
    receipt = await store.users.commit("alice", planned(_created_at(x=end, y=end + 1), now_us=now_us))

    assert (receipt.created, receipt.ignored) == (("y",), (("x", IgnoredReason.STALE),))


async def test_hidings_of_gone_items_count_in_the_history(make_store: MakeStore) -> None:
    """An item that remembered intervals hide at its creation takes their records into the history."""
    store = await make_store(replace(LIMITS, history=7))
    for name in ("phone", "tablet"):
        await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=Sender(name)))
    await store.users.commit("alice", creating(*"abc", created=NOW, for_device="*"))
    await store.users.commit("alice", creating("d", for_device="*", category="other"))
    await store.users.commit("alice", dismissing("a", "d"))
    await store.users.commit("alice", dismissing("b"))
    assert await store.users.collect("alice", NOW_US) == 0

    await store.users.commit("alice", dismissing("c"))

    assert await store.users.collect("alice", NOW_US) == 1  # "a" and its two hidings leave 7 of 10 entries
    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    assert [entry.id for entry in entries] == ["d", "c", "b"]
    assert await store.users.collect("alice", NOW_US + MONTH_US + SECOND_US) == 3 + 2  # with the two intervals


async def test_trimmed_items_count_their_hidings(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history=5, history_bodies=0))
    for name in ("phone", "tablet"):
        await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=Sender(name)))
    await store.users.commit("alice", creating(*"abc", created=NOW, for_device="*"))
    for item_id in "abc":
        await store.users.commit("alice", dismissing(item_id))
        await store.users.collect("alice", NOW_US)

    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    assert [(entry.id, entry.is_trimmed) for entry in entries] == [("c", True)]


async def test_writer_bounds_the_hidings_of_gone_items(make_store: MakeStore) -> None:
    """Items that leave with many hidings trigger a collection, without any read."""
    store = await make_store(replace(LIMITS, history=100, history_bodies=5))
    for n in range(20):
        await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=Sender(f"d{n}")))
    for number in range(40):
        name = f"i{number}"
        await store.users.commit("alice", creating(name, created=NOW - 100 + number, for_device="*"))
        await store.users.commit("alice", dismissing(name))

    receipt = await store.users.commit("alice", creating("old", category="other", created=NOW - 100))
    assert receipt.ignored == (("old", IgnoredReason.STALE),)


@pytest.mark.parametrize("devices", [0, 20])
async def test_expiries_bound_the_history(make_store: MakeStore, devices: int) -> None:
    """A user whose items all expire, and who reads nothing, must not collect them until the retention."""
    store = await make_store(replace(LIMITS, history=100, history_bodies=5))
    for n in range(devices):
        await store.users.commit("alice", sweeping(interval("news", end=NOW), sender=Sender(f"d{n}")))
    now_us = NOW_US
    for number in range(40):
        names = [f"i{number}-{n}" for n in range(10)]
        made = creating(*names, created=NOW - 100 + number, expires=NOW + number + 1, for_device="*", now_us=now_us)
        await store.users.commit("alice", made)
        now_us += SECOND_US

    receipt = await store.users.commit("alice", creating("old", category="other", created=NOW - 100, now_us=now_us))
    assert receipt.ignored == (("old", IgnoredReason.STALE),)


async def test_item_that_is_dead_on_arrival_has_no_hidings(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, device_dismissals=2))
    for sender in (Sender("phone"), Sender("tablet"), Sender(BACKEND.device)):
        category = "news" if sender.device else "ended"
        await store.users.commit("alice", sweeping(interval(category, end=NOW), sender=sender))
        await store.users.commit("alice", sweeping(interval("ended", end=NOW), sender=sender))
    dead = creating("expired", created=NOW - 10, expires=NOW - 5, for_device="*")
    receipts = [await store.users.commit("alice", dead)]
    receipts += [await store.users.commit("alice", creating("d", category="ended", created=NOW, for_device="*"))]

    phone = View("phone")
    expired, ended = [await store.users.item("alice", each, phone, NOW_US) for each in ("expired", "d")]

    assert [each.ignored for each in receipts] == [
        (("expired", IgnoredReason.EXPIRED),),
        (("d", IgnoredReason.DISMISSED),),
    ]
    assert expired is not None and expired.gone is not None and expired.gone.reason is RemovalReason.EXPIRED
    assert ended is not None and ended.gone is not None and ended.gone.device is None


@pytest.mark.parametrize("bound", [{"external_count": 2}, {"external_bytes": 2 * len("kbfs1")}])
async def test_external_overflow_reports_a_gap(make_store: MakeStore, bound: dict[str, int]) -> None:
    store = await make_store(replace(LIMITS, **bound))
    for number in range(3):
        await store.users.commit("alice", planned(external(number)))

    missed = await store.users.sync("alice", BACKEND, cursor_for(SEED, BACKEND, 0), None, NOW_US)
    fresh = await store.users.sync("alice", BACKEND, cursor_for(SEED, BACKEND, 1), None, NOW_US)

    assert ([said.body for said in missed.external], missed.external_gap) == ([b"1", b"2"], True)
    assert ([said.body for said in fresh.external], fresh.external_gap) == ([b"1", b"2"], False)


async def test_external_messages_expire_after_a_day(store: Store) -> None:
    await store.users.commit("alice", planned(external(1)))
    await store.users.commit("alice", planned(external(2), now_us=NOW_US + HOUR_US))
    cursor = cursor_for(SEED, BACKEND, 0)

    before = await store.users.sync("alice", BACKEND, cursor, None, NOW_US + DAY_US - 1)
    after = await store.users.sync("alice", BACKEND, cursor, None, NOW_US + DAY_US)

    assert ([said.body for said in before.external], before.external_gap) == ([b"1", b"2"], False)
    assert ([said.body for said in after.external], after.external_gap) == ([b"2"], True)


async def test_collect_is_idempotent(store: Store) -> None:
    await store.users.commit("alice", creating("a"))
    await store.users.commit("alice", dismissing("a", "unknown"))
    await store.users.commit("alice", sweeping(interval("other", end=NOW)))

    assert await store.users.collect("alice", NOW_US + MONTH_US - 1) == 0
    assert await store.users.collect("alice", NOW_US + MONTH_US + 1) == 3
    assert await store.users.collect("alice", NOW_US + MONTH_US + 1) == 0
    assert await store.users.collect("nobody", NOW_US) == 0


def _created_at(**times: float) -> dict[str, object]:
    return message({item_id: item("other", created=created) for item_id, created in times.items()})


async def test_history_overflow_keeps_tombstones(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history=2, history_bodies=2))
    await store.users.commit("alice", dismissing("w1", "w2", "w3"))
    await store.users.commit("alice", creating("a", "b"))
    await store.users.commit("alice", dismissing("a", "b"))

    assert await store.users.collect("alice", NOW_US) == 0

    entries = await store.users.history("alice", BACKEND, None, 10, NOW_US)
    assert [(entry.id, entry.is_trimmed) for entry in entries] == [("b", False), ("a", False)]
    receipt = await store.users.commit("alice", creating("w1", "w2", "w3"))
    assert {why for _, why in receipt.ignored} == {IgnoredReason.DISMISSED}


async def test_history_is_bounded_behind_unknown_ids(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, history=2))
    await store.users.commit("alice", dismissing(*(f"unknown{n}" for n in range(5))))
    await store.users.commit("alice", creating(*"abcd"))
    for item_id in "abcd":
        await store.users.commit("alice", dismissing(item_id))

    assert await store.users.collect("alice", NOW_US) == 2

    assert [entry.id for entry in await store.users.history("alice", BACKEND, None, 10, NOW_US)] == ["d", "c"]
    assert (await store.users.sizes("alice")).gone == 7


@pytest.mark.parametrize("unknown", [0, 5])
async def test_bodies_are_bounded_behind_many_removals(make_store: MakeStore, unknown: int) -> None:
    """A collection that is split into steps trims as much as one in a single step."""
    store = await make_store(replace(LIMITS, history_bodies=2))
    await store.users.commit("alice", creating(*"abcdefg"))
    await store.users.commit("alice", dismissing(*"abcd"))
    for item_id in "efg":
        await store.users.commit("alice", dismissing(item_id))
    if unknown:
        await store.users.commit("alice", dismissing(*(f"unknown{n}" for n in range(unknown))))
    await store.users.collect("alice", NOW_US)

    entries = [await store.users.item("alice", item_id, BACKEND, NOW_US) for item_id in "abcdefg"]

    assert [entry.is_trimmed for entry in entries if entry] == [True] * 5 + [False] * 2


# ---- acknowledgements


async def test_acknowledged_views_of_a_device_are_bounded(make_store: MakeStore) -> None:
    store = await make_store(LIMITS)
    await raise_seq(store, 8)
    views = [View("phone", (f"c{n}",)) for n in range(MAX_VIEWS + 1)]
    await store.devices.acknowledge("alice", View("desk"), 1, NOW_US)
    for view in views[:-1]:
        await store.devices.acknowledge("alice", view, 7, NOW_US)
    await store.devices.acknowledge("alice", views[0], 8, NOW_US)

    full = await store.devices.acknowledged("alice")
    await store.devices.acknowledge("alice", views[-1], 1, NOW_US)
    kept = await store.devices.acknowledged("alice")

    assert len(full) == 1 + MAX_VIEWS
    assert full.keys() - kept.keys() == {views[1]}  # the first view was acknowledged again since
    assert kept.keys() - full.keys() == {views[-1]}


async def test_prefixes_of_acknowledged_views_are_bounded(make_store: MakeStore) -> None:
    """An acknowledgement that webhooks want parses them all: 16 views of 100 took Redis 0.85 ms."""
    store = await make_store(LIMITS)
    await raise_seq(store, 8)
    views = [View("phone", tuple(f"c{n}.{k:02}.{'x' * 100}" for k in range(100))) for n in range(9)]
    short = View("phone", ("mail",))
    for view in (short, View("phone"), View("phone", ()), *views[:8]):
        await store.devices.acknowledge("alice", view, 7, NOW_US)
    few = await store.devices.acknowledged("alice")

    await store.devices.acknowledge("alice", views[8], 7, NOW_US)
    await store.devices.acknowledge("alice", short, 8, NOW_US)

    assert few.keys() == {View("phone"), View("phone", ()), *map(compact_view, views[:8])}
    kept = await store.devices.acknowledged("alice")
    assert kept.keys() == {*map(compact_view, views[2:]), short}


async def test_devices_that_acknowledge_are_bounded(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, devices=2))
    await raise_seq(store, 5)
    await store.devices.acknowledge("alice", View("a"), 5, NOW_US)
    await store.devices.acknowledge("alice", View("b", ("x",)), 3, NOW_US)
    await store.devices.acknowledge("alice", View("b"), 4, NOW_US)
    assert len(await store.devices.acknowledged("alice")) == 3

    await store.devices.acknowledge("alice", View("c"), 1, NOW_US)

    assert await store.devices.acknowledged("alice") == {View("a"): 5, View("c"): 1}


async def test_long_filter_is_acknowledged_like_a_short_one(make_store: MakeStore) -> None:
    store = await make_store(LIMITS)
    await raise_seq(store, 3)
    prefixes = tuple(f"c{n:02}.{'x' * 100}" for n in range(100))
    view = View("phone", prefixes)
    await store.devices.acknowledge("alice", view, 3, NOW_US)
    await store.devices.acknowledge("alice", view, 2, NOW_US)
    await store.devices.acknowledge("alice", View("phone", (*prefixes[1:], "d")), 1, NOW_US)

    acked = await store.devices.acknowledged("alice")

    assert sorted(acked.values()) == [1, 3]
    assert acked[compact_view(view)] == 3


# ---- tickets


async def valid(store: Store, texts: list[str]) -> list[int]:
    """Redeem tickets, and return which of them were valid."""
    return [n for n, text in enumerate(texts) if await store.access.redeem_ticket(text, NOW_US) is not None]


async def test_tickets_of_a_device_are_bounded(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, tickets=3))
    access, phone = store.access, Ticket("alice", "phone", False, None, None)
    others = [
        await access.create_ticket(ticket, NOW_US, SECOND_US)
        for ticket in (replace(phone, device="desk"), replace(phone, uid="bob"), replace(phone, observe=True))
    ]

    texts = [await access.create_ticket(phone, NOW_US, lives_us) for lives_us in (DAY_US, SECOND_US, SECOND_US)]
    assert await valid(store, texts[1:2]) == [0]
    texts += [await access.create_ticket(phone, NOW_US, SECOND_US) for _ in range(2)]

    assert await valid(store, texts) == [2, 3, 4]  # the first was the oldest, though it lives the longest
    assert await valid(store, others) == [0, 1, 2]


async def test_tickets_of_a_user_are_bounded_in_bytes(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, ticket_bytes=12_000))
    small, large = Ticket("alice", "desk", False, None, None), Ticket("alice", "phone", False, ("x" * 5_000,), None)
    first = await store.access.create_ticket(small, NOW_US, SECOND_US)
    texts = [await store.access.create_ticket(large, NOW_US, SECOND_US) for _ in range(2)]
    over = await store.access.create_ticket(large, NOW_US, SECOND_US)

    assert await valid(store, [first, *texts, over]) == [0, 2, 3]  # a device removes its own tickets first


async def test_large_ticket_removes_the_oldest_of_its_user(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, ticket_bytes=11_000))
    small, large = Ticket("alice", "desk", False, ("x" * 2_000,), None), Ticket("alice", "phone", False, None, None)
    own = await store.access.create_ticket(large, NOW_US, SECOND_US)
    texts = [await store.access.create_ticket(small, NOW_US, SECOND_US) for _ in range(4)]

    over = await store.access.create_ticket(replace(large, systems=("y" * 4_000,)), NOW_US, SECOND_US)

    assert await valid(store, [own, *texts, over]) == [3, 4, 5]


async def test_expired_tickets_count_no_more(make_store: MakeStore) -> None:
    store = await make_store(replace(LIMITS, tickets=1))
    ticket = Ticket("alice", "phone", False, None, None)
    await store.access.create_ticket(ticket, NOW_US - 2 * SECOND_US, SECOND_US)

    text = await store.access.create_ticket(ticket, NOW_US, SECOND_US)

    assert await valid(store, [text]) == [0]


async def test_sizes_count_items_and_their_bytes(make_store: MakeStore) -> None:
    store = await make_store(Limits())
    assert await store.users.sizes("alice") == UserSizes(0, 0)

    await store.users.commit("alice", creating("a", "b", "c", category="user", body="x" * 1_000))
    await store.users.commit("alice", dismissing("a"))

    full = await store.users.state("alice", View(), NOW_US)
    found = await store.users.sizes("alice")
    assert (found.live, found.gone, found.live_bytes) == (2, 1, sum(len(each.json) for each in full.items))
    assert found.live_bytes > 2_000


async def test_sizes_count_dismissals_by_single_devices(make_store: MakeStore) -> None:
    store = await make_store(Limits())
    await store.users.commit("alice", creating("a", "b", for_device="*"))
    for name in ("phone", "tablet"):
        await store.users.commit("alice", dismissing("a", "b", "unknown", sender=Sender(name)))

    before = (await store.users.sizes("alice")).device_dismissals
    await store.users.commit("alice", dismissing("a"))

    assert before == 2 * 2 + 1  # the first dismissal of an unknown id does not count
    assert (await store.users.sizes("alice")).device_dismissals == 2 + 1
