"""Fixtures of the delivery tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor_delivery.attempt import DeliveryContext
from gregor_delivery.channels.contract import DeliveryChannel, PushMessage
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from tests.support.builders import LIMITS, NOW_US
from tests.unit.delivery.harness import DeliveryHarness, FakeChannel, NullPublisher
from tests.unit.delivery.sample_categories import ENTRIES, TOKEN


@pytest.fixture
async def harness() -> AsyncIterator[DeliveryHarness]:
    clock, provider = ManualClock(NOW_US), FakeChannel()
    store = MemoryStore(LIMITS, NullPublisher())
    await store.categories.apply(ENTRIES, NOW_US, 0)
    await store.devices.put_device("alice", "phone", Registration("ios", TOKEN, "it"), NOW_US)
    registry = CategoryRegistry(store)
    await registry.refresh()
    channel: DeliveryChannel[PushMessage] = provider
    context = DeliveryContext(
        "apns",
        channel,
        store,
        PushDecider(store, registry, clock=clock),
        clock,
        DeliveryMetrics(CollectorRegistry()),
        Breaker(),
    )
    yield DeliveryHarness(store, clock, provider, context, registry)
