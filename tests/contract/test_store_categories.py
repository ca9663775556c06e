"""Versions of the categories, in every store."""

from __future__ import annotations

import asyncio

from gregor.store.contract.store import KEPT_VERSIONS, Store
from tests.support.builders import NOW_US
from tests.support.store_backends import StoreUnderTest

JOINED = {"user.joined": {"title": "{{ body.who }} joined", "remind_after": ["4d"], "locales": {"it": {"title": "è"}}}}
FOLLOW = {"follow": {"title": "Ünïcode", "push": {"after": 2.5}}}


async def test_new_store_has_no_categories(store: Store) -> None:
    assert await store.categories.version() == 0
    assert await store.categories.load() is None


async def test_applied_set_round_trips(store: Store) -> None:
    version = await store.categories.apply(JOINED, NOW_US)

    loaded = await store.categories.load()
    assert (version, await store.categories.version()) == (1, 1)
    assert loaded is not None
    assert (loaded.version, loaded.entries, loaded.applied_us) == (1, JOINED, NOW_US)


async def test_earlier_set_can_be_restored(store: Store) -> None:
    await store.categories.apply(JOINED, NOW_US)
    await store.categories.apply(FOLLOW, NOW_US + 1)

    now, before = await store.categories.load(), await store.categories.load(1)

    assert now is not None and before is not None
    assert (now.version, now.entries) == (2, FOLLOW)
    assert (before.version, before.entries) == (1, JOINED)


async def test_unexpected_version_changes_nothing(store: Store) -> None:
    assert await store.categories.apply(JOINED, NOW_US, expected=0) == 1
    assert await store.categories.apply(FOLLOW, NOW_US, expected=0) is None
    assert await store.categories.apply(FOLLOW, NOW_US, expected=2) is None

    loaded = await store.categories.load()
    assert loaded is not None and loaded.entries == JOINED


async def test_concurrent_updates_of_a_version_succeed_once(store: Store) -> None:
    versions = await asyncio.gather(*(store.categories.apply(JOINED, NOW_US, expected=0) for _ in range(10)))

    assert sorted(version or 0 for version in versions) == [0] * 9 + [1]


async def test_last_fifty_versions_are_kept(store: Store) -> None:
    for number in range(KEPT_VERSIONS + 2):
        await store.categories.apply({"a": {"title": str(number)}}, NOW_US)

    kept = [number for number in range(1, KEPT_VERSIONS + 3) if await store.categories.load(number) is not None]

    assert kept == list(range(3, KEPT_VERSIONS + 3))


async def test_unknown_version_is_none(store: Store) -> None:
    await store.categories.apply(JOINED, NOW_US)

    assert await store.categories.load(7) is None
    assert await store.categories.load(0) is None


async def test_new_version_is_published(backend: StoreUnderTest) -> None:
    recorder = await backend.record_categories()

    await backend.store.categories.apply(JOINED, NOW_US)
    await backend.store.categories.apply(FOLLOW, NOW_US, expected=0)
    await backend.store.categories.apply(FOLLOW, NOW_US)

    assert await recorder.first(2) == [b"1", b"2"]


async def test_stored_entries_are_a_copy(store: Store) -> None:
    mine = {"a": {"title": "mine"}}
    await store.categories.apply(mine, NOW_US)
    mine["a"]["title"] = "changed"

    loaded = await store.categories.load()
    assert loaded is not None and loaded.entries == {"a": {"title": "mine"}}
