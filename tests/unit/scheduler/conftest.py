"""A scheduler over a store in memory: what is due is done when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.core.items.announcement import Announcement, AnnouncementKind, decode_announcement
from gregor.core.messages.model import Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueWriter, MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor_scheduler.aggregators import Aggregator, Aggregators
from gregor_scheduler.context import Parts
from gregor_scheduler.delivery_publisher import HandOver
from gregor_scheduler.due_loop import Drain
from gregor_scheduler.handlers.dispatch import Acts
from gregor_scheduler.metrics import Figures
from tests.support.builders import BACKEND, BY_BACKEND, LIMITS, NOW_US, SECOND_US, SEED, Document, ids_of, item, message

LEASE_US = 15 * SECOND_US


@dataclass
class House:
    """One user's items, a clock, and a scheduler that is asked to look."""

    store: Store
    clock: ManualClock
    deliveries: MemoryQueueWriter
    drain: Drain
    figures: Figures
    registry: CategoryRegistry
    payloads: list[bytes]
    parts: Parts

    async def say(self, document: Document, sender: Sender = BY_BACKEND, uid: str = "alice") -> Receipt:
        """A message, as ingest commits it."""
        entries, now_us = self.registry.current, self.clock.now_us()
        commit = plan(parse_message(document, LIMITS), sender, now_us, SEED, LIMITS, entries)
        return await self.store.users.commit(uid, commit)

    async def create(self, *ids: str, uid: str = "alice", **fields: Any) -> Receipt:
        """Items that are all alike."""
        return await self.say(message({item_id: item(**fields) for item_id in ids}), uid=uid)

    async def dismiss(self, *ids: str) -> Receipt:
        """By the backend."""
        return await self.say(message(ids=ids))

    async def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time pass; the scheduler looks after each step."""
        left_s = seconds
        while left_s > 0:
            self.clock.advance(min(step_s, left_s))
            left_s -= step_s
            await self.drain.run_due()

    async def live(self) -> list[str]:
        """The ids that are live now."""
        return ids_of(await self.store.users.state("alice", BACKEND, self.clock.now_us()))

    def told(self) -> list[Announcement]:
        """What was announced since the last call."""
        announcements = [decode_announcement(payload) for payload in self.payloads if payload[:1] == b"C"]
        self.payloads.clear()
        return announcements

    def happened(self) -> list[str]:
        """What was announced since the last call, in words."""
        words = []
        for announcement in self.told():
            for entry in announcement.entries:
                if announcement.kind is AnnouncementKind.REMIND:
                    words.append(f"remind {entry.id} +{(announcement.remind_at_us - NOW_US) / 1e6:g}")
                elif entry.packed is None:
                    words.append(f"{announcement.reason.word} {entry.id}")
                else:
                    words.append(f"created {entry.id}")
        return words

    def handed(self) -> list[str]:
        """What was handed over since the last call, in words."""
        words = [
            f"{intent.kind.value} {intent.item} {intent.channel} {intent.device}".strip()
            for intent in self.deliveries.intents
        ]
        self.deliveries.intents.clear()
        return words


class Feed:
    """Keeps what the store announces."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Called by the store."""
        self.payloads.append(payload)


def opening(deliveries: MemoryQueueWriter) -> Callable[[], Awaitable[MemoryQueueWriter]]:
    async def opened() -> MemoryQueueWriter:
        return deliveries

    return opened


async def build(
    entries: Mapping[str, Any] | None = None,
    aggregators: Mapping[str, Aggregator] | None = None,
    deliveries: MemoryQueueWriter | None = None,
    collecting: RateLimiter | None = None,
    max_wait_s: float = 2.0,
) -> House:
    """A house in which these notification types hold."""
    feed, clock, figures = Feed(), ManualClock(NOW_US), Figures(CollectorRegistry())
    store, deliveries = MemoryStore(LIMITS, feed), deliveries or MemoryQueueWriter()
    if entries is not None:
        await store.categories.apply(entries, NOW_US, 0)
    registry = CategoryRegistry(store)
    await registry.refresh()
    handover, webhooks = HandOver(opening(deliveries), clock.monotonic), WebhookRegistry(store)
    parts = Parts(store, handover, clock, LIMITS, registry, webhooks, figures, Aggregators(aggregators, max_wait_s))
    acts = Acts(parts, collecting or RateLimiter(1e9, 1_000_000))
    drain = Drain(store.agenda, acts, clock, figures, LEASE_US)
    return House(store, clock, deliveries, drain, figures, registry, feed.payloads, parts)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A house without notification types."""
    yield await build()
