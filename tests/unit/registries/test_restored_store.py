"""Caches after Redis restarts with other data under the same version numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gregor.core.limits import Limits
from gregor.redis.tracking import ServerKeyTracker
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor.store.redis.store import RedisStore
from tests.support.builders import NOW_US
from tests.support.servers import BINARIES, Server, open_client
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


async def _store(store: RedisStore, name: str) -> None:
    """Create the first set of categories and the first webhook of a server: both have version 1."""
    assert await store.categories.apply({name: {"title": name}}, NOW_US, 0) == 1
    await WebhookEditor(store.webhooks).create(f"https://{name}.example", None, None, None, NOW_US)


@pytest.mark.parametrize("binary", BINARIES)
async def test_caches_are_loaded_again_after_a_restart_without_data(binary: str, tmp_path: Path) -> None:
    server = Server(binary, tmp_path).start()
    async with open_client(server.url) as client:
        store = RedisStore(client, Limits())
        await _store(store, "before")
        store.tracker = ServerKeyTracker(server.url)
        categories, webhooks = CategoryRegistry(store), WebhookRegistry(store)
        await categories.open()
        await webhooks.start()
        try:
            server.kill()
            server.start()
            async with open_client(server.url) as other:
                await _store(RedisStore(other, Limits()), "after")

            await wait_until(lambda: categories.current.resolve("after").title == "after", "the set is loaded")
            await wait_until(
                lambda: [each.url for each in webhooks.current] == ["https://after.example"], "the webhook is loaded"
            )
            assert (categories.version, webhooks.version) == (1, 1)
        finally:
            await categories.close()
            await webhooks.close()
            await store.tracker.close()
            server.kill()
