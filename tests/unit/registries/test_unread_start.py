"""A process starts while the shard of the categories and webhooks is unreachable, and reads them later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gregor.core.limits import Limits
from gregor.core.notify.webhook_events import WebhookEventType
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.registries.versioned_cache import CacheUnavailable
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor.store.contract.store import Unavailable
from tests.support.builders import NOW_US
from tests.support.wait import wait_until

STORED = {"a": {"title": "stored"}}


class Shard:
    """Categories or webhooks on a shard that a test takes away."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.is_away = True
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._data, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            self.reads += 1
            await asyncio.sleep(0)
            if self.is_away:
                raise Unavailable("the shard is away")
            return await method(*arguments, **options)

        return call


class ShardedStore(MemoryStore):
    """A store on ``shards`` shards. Categories and webhooks are on one that is away."""

    def __init__(self, shards: int = 3) -> None:
        super().__init__(Limits())
        self.data = MemoryStore(Limits())
        self.shards = shards
        self.shard_of_categories = Shard(self.data.categories)
        self.shard_of_webhooks = Shard(self.data.webhooks)

    @property
    def categories(self) -> Any:
        return self.shard_of_categories

    @property
    def webhooks(self) -> Any:
        return self.shard_of_webhooks

    async def ping(self) -> dict[str, float | None]:
        return {f"node{n}": 0.001 if n else None for n in range(self.shards)}


@pytest.fixture
def store() -> ShardedStore:
    return ShardedStore()


@pytest.fixture
async def registry(store: ShardedStore) -> AsyncIterator[CategoryRegistry]:
    made = CategoryRegistry(store, poll_s=0.01)
    yield made
    await made.close()


@pytest.fixture
async def webhooks(store: ShardedStore) -> AsyncIterator[WebhookRegistry]:
    made = WebhookRegistry(store, poll_s=0.01)
    yield made
    await made.close()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "categories.toml"
    path.write_text('[a]\ntitle = "file"\n[b]\ntitle = "only here"')
    return str(path)


async def test_entries_of_the_file_are_used_meanwhile(
    store: ShardedStore, registry: CategoryRegistry, file: str
) -> None:
    await store.data.categories.apply(STORED, NOW_US)

    await registry.open(file, NOW_US)

    assert registry.is_known and not registry.is_read
    assert registry.current.resolve("a").title == "file"
    store.shard_of_categories.is_away = False
    await wait_until(lambda: registry.is_read, "the stored set is read")
    assert (registry.version, registry.current.resolve("a").title) == (1, "stored")
    assert registry.current.resolve("b").title is None


async def test_set_that_a_restore_brings_back_replaces_an_empty_one(
    store: ShardedStore, registry: CategoryRegistry, file: str
) -> None:
    await store.data.categories.apply(STORED, NOW_US)
    await registry.open(file, NOW_US, applies_file=False)
    store.shard_of_categories.is_away = False
    await wait_until(lambda: registry.version == 1, "the stored set is read")
    stored, store.shard_of_categories._data = store.data.categories, MemoryStore(Limits()).categories
    await wait_until(lambda: registry.version == 0, "the set is lost")

    store.shard_of_categories._data = stored

    await wait_until(lambda: registry.current.resolve("a").title == "stored", "the set is loaded again")


async def test_file_is_applied_to_a_new_deployment_later(
    store: ShardedStore, registry: CategoryRegistry, file: str
) -> None:
    await registry.open(file, NOW_US)
    store.shard_of_categories.is_away = False

    await wait_until(lambda: registry.version == 1, "the file is applied")

    assert registry.current.resolve("b").title == "only here"


async def test_file_that_is_not_applied_is_dropped_later(
    store: ShardedStore, registry: CategoryRegistry, file: str
) -> None:
    await registry.open(file, NOW_US, applies_file=False)
    store.shard_of_categories.is_away = False

    await wait_until(lambda: registry.is_read, "the store has no categories")

    assert registry.current.resolve("b").title is None


async def test_without_a_file_the_categories_are_unknown(store: ShardedStore, registry: CategoryRegistry) -> None:
    await registry.open()

    with pytest.raises(CacheUnavailable, match="not read yet"):
        registry.check_known()
    store.shard_of_categories.is_away = False
    await wait_until(lambda: registry.is_known, "the categories are read")
    registry.check_known()


async def test_bad_file_changes_nothing(store: ShardedStore, registry: CategoryRegistry, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[a]\ntitel = 1")
    await registry.open(str(tmp_path / "bad.toml"), NOW_US)
    assert not registry.is_known

    store.shard_of_categories.is_away = False

    await wait_until(lambda: registry.is_read, "the store is read in spite of the file")


@pytest.mark.parametrize("kind", ["categories", "webhooks"])
async def test_single_server_that_is_away_ends_the_start(kind: str) -> None:
    store = ShardedStore(shards=1)
    registry: CategoryRegistry | WebhookRegistry = (
        CategoryRegistry(store) if kind == "categories" else WebhookRegistry(store)
    )

    with pytest.raises(Unavailable, match="the shard is away"):
        await registry.start()


async def test_unknown_webhooks_record_every_event(store: ShardedStore, webhooks: WebhookRegistry) -> None:
    recorded = store.recorded_events
    await webhooks.start()

    assert recorded.removals and recorded.acknowledgements and recorded.deliveries
    await WebhookEditor(store.data.webhooks).create(
        "https://a.example/hook", [WebhookEventType.ACKED.value], None, None, NOW_US
    )
    store.shard_of_webhooks.is_away = False
    await wait_until(lambda: webhooks.is_read, "the webhooks are read")
    assert (recorded.removals, recorded.acknowledgements, recorded.deliveries) == (False, True, False)


async def test_calls_that_wait_share_one_failed_read(store: ShardedStore) -> None:
    registry = CategoryRegistry(store)

    failures = await asyncio.gather(*(registry.refresh() for _ in range(20)), return_exceptions=True)

    assert all(isinstance(failure, CacheUnavailable) for failure in failures)
    assert store.shard_of_categories.reads == 1
