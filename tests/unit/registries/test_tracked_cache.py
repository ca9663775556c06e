"""Caches learn of a new version by a report of Redis, without polls and without messages."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gregor.core.limits import Limits
from gregor.redis.client import RedisClient
from gregor.redis.tracking import ServerKeyTracker
from gregor.registries.categories import CategoryRegistry
from gregor.store.redis.store import RedisStore
from tests.support.builders import NOW_US
from tests.support.servers import open_client
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

NEVER_S = 3_600.0


@asynccontextmanager
async def tracked_registry(url: str) -> AsyncIterator[tuple[RedisClient, RedisStore, CategoryRegistry]]:
    """Return a registry that never polls, over a store with a tracker."""
    async with open_client(url) as client:
        store = RedisStore(client, Limits(), f"test-{secrets.token_hex(4)}")
        store.tracker = ServerKeyTracker(url)
        registry = CategoryRegistry(store, poll_s=NEVER_S)
        try:
            await registry.open()
            yield client, store, registry
        finally:
            await registry.close()
            await store.tracker.close()


async def test_new_version_is_reported(redis_server: str) -> None:
    async with tracked_registry(redis_server) as (_, store, registry):
        for version in (1, 2, 3):
            assert await store.categories.apply({"news": {}}, NOW_US, version - 1) == version
            await wait_until(lambda version=version: registry.version == version, "the version is known")


async def test_version_of_an_interruption_is_found(redis_server: str) -> None:
    async with tracked_registry(redis_server) as (client, store, registry):
        await store.categories.apply({"news": {}}, NOW_US, 0)
        await wait_until(lambda: registry.version == 1, "the first version is known")
        for line in (await client.call("CLIENT", "LIST")).decode().splitlines():
            if " name=gregor-tracking " in line:
                await client.call("CLIENT", "KILL", "ID", line.split(" ")[0].removeprefix("id="))
        await store.categories.apply({"news": {}, "mail": {}}, NOW_US, 1)

        await wait_until(lambda: registry.version == 2, "the second version is known")
