"""Intents planned and handed over as a scheduler does it, so that the delivery alone is what works."""

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
from tests.support.people import DEVICES, LIMITS, Person, apply_types, creation

AT_ONCE = 250


@dataclass
class Scheduler:
    """In place of one."""

    cluster: Cluster
    store: RedisStore
    streams: RedisQueueWriter
    entries: CategoryPolicies

    async def create(self, people: Sequence[Person], item: str) -> None:
        """An item of that name for each."""
        for start in range(0, len(people), AT_ONCE):
            commits = [(person.uid, creation([item], self.entries)) for person in people[start : start + AT_ONCE]]
            await self.store.users.commit_many(commits)

    async def plan(self, people: Sequence[Person], item: str, channel: str) -> list[Intent]:
        """What is to be told of it by a channel, as it stands in the ledger."""
        now_us = time.time_ns() // 1_000
        intents = [
            Intent(person.uid, item, IntentKind.ITEM, channel, DEVICES[channel], 0, 1, now_us) for person in people
        ]
        for start in range(0, len(intents), AT_ONCE):
            await self.store.ledger.plan(intents[start : start + AT_ONCE], DeliveryState.PLANNED, None, now_us)
        return intents

    async def enqueue(self, intents: Sequence[Intent]) -> list[Intent]:
        """Now; as they are then, with the time."""
        now_us = time.time_ns() // 1_000
        timed = [replace(intent, at_us=now_us) for intent in intents]
        for start in range(0, len(timed), AT_ONCE):
            if await self.streams.enqueue(timed[start : start + AT_ONCE]):
                raise RuntimeError("a stream is full")
        return timed

    def open_entries(self, channel: str) -> int:
        """What of the stream is not over: waits to be taken, or is in somebody's hands."""
        return int(self.cluster.server.say("XLEN", f"gregor:deliveries:{channel}").strip()[1:])


@asynccontextmanager
async def scheduling(cluster: Cluster) -> AsyncIterator[Scheduler]:
    """Connected, with the types applied."""
    store = await open_store(cluster.server.url, LIMITS)
    streams = await open_queue_writer(cluster.server.url, "gregor", 1_000_000)
    try:
        yield Scheduler(cluster, store, streams, await apply_types(store))
    finally:
        await streams.close()
        await store.close()
