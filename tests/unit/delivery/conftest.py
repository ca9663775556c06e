"""The house that the tests of delivery share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.registry import Registry
from gregor.store.contract import Registration
from gregor.store.memory import MemoryStore
from services.delivery.attempt import Trade
from services.delivery.breaker import Breaker
from services.delivery.channels.contract import Channel, Push
from services.delivery.figures import Figures
from services.delivery.push_look import PushLooker
from tests.support.builders import LIMITS, NOW_US
from tests.unit.delivery.house import House, Nobody, Provider
from tests.unit.delivery.types_of_news import ENTRIES, TOKEN


@pytest.fixture
async def house() -> AsyncIterator[House]:
    clock, provider = ManualClock(NOW_US), Provider()
    store = MemoryStore(LIMITS, Nobody())
    await store.categories.apply(ENTRIES, NOW_US, 0)
    await store.devices.put_device("alice", "phone", Registration("ios", TOKEN, "it"), NOW_US)
    registry = Registry(store)
    await registry.refresh()
    channel: Channel[Push] = provider
    trade = Trade("apns", channel, store, PushLooker(store, registry), clock, Figures(CollectorRegistry()), Breaker())
    yield House(store, clock, provider, trade, registry)
