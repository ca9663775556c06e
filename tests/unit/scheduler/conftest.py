"""A scheduler over a memory store with a manual clock: due work runs only on request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.core.items.announcement import Announcement, AnnouncementKind, decode_announcement
from gregor.core.limits import Limits
from gregor.core.messages.model import Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.rate_limit import RateLimiter
from gregor.reference.store import MemoryQueueWriter, MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.registries.webhooks import WebhookRegistry
from gregor.store.contract.store import Store
from gregor_scheduler.aggregators import Aggregator, Aggregators
from gregor_scheduler.context import SchedulerContext
from gregor_scheduler.delivery_publisher import DeliveryPublisher
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from gregor_scheduler.metrics import SchedulerMetrics
from tests.support.builders import BACKEND, BY_BACKEND, LIMITS, NOW_US, SECOND_US, SEED, Document, ids_of, item, message

LEASE_US = 15 * SECOND_US


@dataclass
class SchedulerHarness:
    """A scheduler, its store, clock and delivery queue; most methods act for the user alice."""

    store: Store
    clock: ManualClock
    queue: MemoryQueueWriter
    due_loop: DueLoop
    metrics: SchedulerMetrics
    categories: CategoryRegistry
    payloads: list[bytes]
    context: SchedulerContext

    async def submit(self, document: Document, sender: Sender = BY_BACKEND, uid: str = "alice") -> Receipt:
        """Commit a message, as ingest does."""
        entries, now_us = self.categories.current, self.clock.now_us()
        commit = plan(parse_message(document, LIMITS), sender, now_us, SEED, LIMITS, entries)
        return await self.store.users.commit(uid, commit)

    async def create(self, *ids: str, uid: str = "alice", **fields: Any) -> Receipt:
        """Create items that differ only in their id."""
        return await self.submit(message({item_id: item(**fields) for item_id in ids}), uid=uid)

    async def dismiss(self, *ids: str) -> Receipt:
        """Dismiss items, as the backend."""
        return await self.submit(message(ids=ids))

    async def advance(self, seconds: float, step_s: float = 1.0) -> None:
        """Advance the clock in steps, and execute due work after each step."""
        left_s = seconds
        while left_s > 0:
            self.clock.advance(min(step_s, left_s))
            left_s -= step_s
            await self.due_loop.run_due()

    async def live_ids(self) -> list[str]:
        """Return the ids of the live items."""
        return ids_of(await self.store.users.state("alice", BACKEND, self.clock.now_us()))

    def announcements(self) -> list[Announcement]:
        """Return the announcements since the last call."""
        announcements = [decode_announcement(payload) for payload in self.payloads if payload[:1] == b"C"]
        self.payloads.clear()
        return announcements

    def announced(self) -> list[str]:
        """Return the announcements since the last call as text, such as ``created a``."""
        words = []
        for announcement in self.announcements():
            for entry in announcement.entries:
                if announcement.kind is AnnouncementKind.REMIND:
                    words.append(f"remind {entry.id} +{(announcement.remind_at_us - NOW_US) / 1e6:g}")
                elif entry.packed is None:
                    words.append(f"{announcement.reason.wire_name} {entry.id}")
                else:
                    words.append(f"created {entry.id}")
        return words

    def published(self) -> list[str]:
        """Return the intents published since the last call as text, such as ``item a apns phone``."""
        words = [
            f"{intent.kind.value} {intent.item} {intent.channel} {intent.device}".strip()
            for intent in self.queue.intents
        ]
        self.queue.intents.clear()
        return words


class RecordingPublisher:
    """Records the payloads that the store publishes."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Record a payload; the store calls this."""
        self.payloads.append(payload)


def queue_connector(queue: MemoryQueueWriter) -> Callable[[], Awaitable[MemoryQueueWriter]]:
    async def connect() -> MemoryQueueWriter:
        return queue

    return connect


async def build(
    entries: Mapping[str, Any] | None = None,
    aggregators: Mapping[str, Aggregator] | None = None,
    queue: MemoryQueueWriter | None = None,
    cleanup_limit: RateLimiter | None = None,
    timeout_s: float = 2.0,
    limits: Limits = LIMITS,
) -> SchedulerHarness:
    """Return a harness with these notification types."""
    pubsub, clock, metrics = RecordingPublisher(), ManualClock(NOW_US), SchedulerMetrics(CollectorRegistry())
    store, queue = MemoryStore(limits, pubsub), queue or MemoryQueueWriter()
    if entries is not None:
        await store.categories.apply(entries, NOW_US, 0)
    categories = CategoryRegistry(store)
    await categories.refresh()
    counters = metrics.count_above_share, metrics.count_postponed
    publisher = DeliveryPublisher(queue_connector(queue), clock.monotonic, None, *counters)
    webhooks = WebhookRegistry(store)
    plugins = Aggregators(aggregators, timeout_s)
    context = SchedulerContext(store, publisher, clock, limits, categories, webhooks, metrics, plugins)
    handlers = DueHandlers(context, cleanup_limit or RateLimiter(1e9, 1_000_000))
    due_loop = DueLoop(store.agenda, handlers, clock, metrics, LEASE_US)
    return SchedulerHarness(store, clock, queue, due_loop, metrics, categories, pubsub.payloads, context)


@pytest.fixture
async def harness() -> AsyncIterator[SchedulerHarness]:
    """A harness without notification types."""
    yield await build()
