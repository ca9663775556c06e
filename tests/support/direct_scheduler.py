"""Plans and enqueues intents as the scheduler does: for tests and benchmarks of delivery alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from gregor.core.categories.policy import CategoryPolicies
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.redis.delivery.queue_writer import RedisQueueWriter, open_queue_writer
from gregor.store.redis.store import RedisStore, open_store
from tests.support.cluster import Cluster
from tests.support.load_users import DEVICES, LIMITS, LoadUser, apply_categories, creation

AT_ONCE = 250


@dataclass
class DirectScheduler:
    """Stands in for the scheduler process."""

    cluster: Cluster
    store: RedisStore
    streams: RedisQueueWriter
    entries: CategoryPolicies

    async def create(self, users: Sequence[LoadUser], item: str) -> None:
        """Create an item with that id for each user."""
        for start in range(0, len(users), AT_ONCE):
            commits = [(user.uid, creation([item], self.entries)) for user in users[start : start + AT_ONCE]]
            await self.store.users.commit_many(commits)

    async def plan(self, users: Sequence[LoadUser], item: str, channel: str) -> list[Intent]:
        """Plan a delivery of the item to each user by one channel."""
        now_us = time.time_ns() // 1_000
        intents = [Intent(user.uid, item, IntentKind.ITEM, channel, DEVICES[channel], 0, 1, now_us) for user in users]
        for start in range(0, len(intents), AT_ONCE):
            await self.store.ledger.plan(intents[start : start + AT_ONCE], DeliveryState.PLANNED, None, now_us)
        return intents

    async def enqueue(self, intents: Sequence[Intent]) -> list[Intent]:
        """Enqueue the intents now, and return them with that time."""
        now_us = time.time_ns() // 1_000
        timed = [replace(intent, at_us=now_us) for intent in intents]
        for start in range(0, len(timed), AT_ONCE):
            if await self.streams.enqueue(timed[start : start + AT_ONCE]):
                raise RuntimeError("a stream is full")
        return timed

    def open_entries(self, channel: str) -> int:
        """Return the number of stream entries that are not acknowledged."""
        return int(self.cluster.server.say("XLEN", f"gregor:deliveries:{channel}").strip()[1:])


@asynccontextmanager
async def direct_scheduler(cluster: Cluster) -> AsyncIterator[DirectScheduler]:
    """Connect, with the categories applied."""
    store = await open_store(cluster.server.url, LIMITS)
    streams = await open_queue_writer(cluster.server.url, "gregor", 1_000_000)
    try:
        yield DirectScheduler(cluster, store, streams, await apply_categories(store))
    finally:
        await streams.close()
        await store.close()
