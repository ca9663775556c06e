"""Versions of the categories, on every store."""

from __future__ import annotations

import asyncio

from gregor.store.contract.store import KEPT_VERSIONS, Store
from tests.support.builders import NOW_US
from tests.support.store_backends import StoreUnderTest

JOINED = {"user.joined": {"title": "{{ body.who }} joined", "remind_after": ["4d"], "locales": {"it": {"title": "è"}}}}
FOLLOW = {"follow": {"title": "Ünïcode", "push": {"after": 2.5}}}


async def test_a_store_begins_without_categories(store: Store) -> None:
    assert await store.categories.version() == 0
    assert await store.categories.load() is None


async def test_a_set_that_is_applied_holds_as_it_was_written(store: Store) -> None:
    version = await store.categories.apply(JOINED, NOW_US)

    loaded = await store.categories.load()
    assert (version, await store.categories.version()) == (1, 1)
    assert loaded is not None
    assert (loaded.version, loaded.entries, loaded.applied_us) == (1, JOINED, NOW_US)


async def test_a_set_replaces_the_whole_of_the_one_before_which_stays_to_go_back_to(store: Store) -> None:
    await store.categories.apply(JOINED, NOW_US)
    await store.categories.apply(FOLLOW, NOW_US + 1)

    now, before = await store.categories.load(), await store.categories.load(1)

    assert now is not None and before is not None
    assert (now.version, now.entries) == (2, FOLLOW)
    assert (before.version, before.entries) == (1, JOINED)


async def test_who_expects_another_version_changes_nothing(store: Store) -> None:
    assert await store.categories.apply(JOINED, NOW_US, expected=0) == 1
    assert await store.categories.apply(FOLLOW, NOW_US, expected=0) is None
    assert await store.categories.apply(FOLLOW, NOW_US, expected=2) is None

    loaded = await store.categories.load()
    assert loaded is not None and loaded.entries == JOINED


async def test_of_many_who_expect_the_same_version_one_is_first(store: Store) -> None:
    versions = await asyncio.gather(*(store.categories.apply(JOINED, NOW_US, expected=0) for _ in range(10)))

    assert sorted(version or 0 for version in versions) == [0] * 9 + [1]


async def test_the_last_fifty_versions_are_kept_and_no_more(store: Store) -> None:
    for number in range(KEPT_VERSIONS + 2):
        await store.categories.apply({"a": {"title": str(number)}}, NOW_US)

    kept = [number for number in range(1, KEPT_VERSIONS + 3) if await store.categories.load(number) is not None]

    assert kept == list(range(3, KEPT_VERSIONS + 3))


async def test_a_version_that_was_never_applied_is_none(store: Store) -> None:
    await store.categories.apply(JOINED, NOW_US)

    assert await store.categories.load(7) is None
    assert await store.categories.load(0) is None


async def test_every_process_is_told_of_a_new_version(twin: StoreUnderTest) -> None:
    heard = await twin.hear_categories()

    await twin.store.categories.apply(JOINED, NOW_US)
    await twin.store.categories.apply(FOLLOW, NOW_US, expected=0)
    await twin.store.categories.apply(FOLLOW, NOW_US)

    assert await heard.first(2) == [b"1", b"2"]


async def test_what_a_caller_does_with_its_entries_later_changes_nothing(store: Store) -> None:
    mine = {"a": {"title": "mine"}}
    await store.categories.apply(mine, NOW_US)
    mine["a"]["title"] = "changed"

    loaded = await store.categories.load()
    assert loaded is not None and loaded.entries == {"a": {"title": "mine"}}
