"""Due work of a scheduler that could not read the categories yet: nothing is lost, and only such work waits."""

from __future__ import annotations

import pytest

from gregor.core.categories.policy import NO_POLICIES
from gregor.store.contract.devices import Registration
from tests.support.builders import NOW_US
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness, build

LEASE_S = LEASE_US / 1e6
ENTRIES = {"news": {"title": "News", "push": {"after": "5s"}}}


@pytest.fixture
async def harness() -> SchedulerHarness:
    """A scheduler whose items were created with categories that it has not read itself."""
    made = await build(ENTRIES)
    await made.store.devices.put_device("alice", "phone", Registration(push={"provider": "apns", "token": "t"}), NOW_US)
    return made


def forget(harness: SchedulerHarness) -> None:
    registry = harness.categories
    registry.is_read, registry.version, registry.current = False, 0, NO_POLICIES


async def test_push_waits_and_expiry_does_not(harness: SchedulerHarness) -> None:
    await harness.create("a")
    await harness.create("b", expires="+6")
    harness.announcements()
    forget(harness)

    await harness.advance(7)

    assert (harness.announced(), harness.published()) == (["expired b"], [])
    await harness.categories.refresh()
    await harness.advance(LEASE_S)
    assert harness.published() == ["item a apns phone"]


async def test_reminder_fires_and_its_push_waits(harness: SchedulerHarness) -> None:
    await harness.create("a", remind_at=["+2"])
    harness.announcements()
    forget(harness)

    await harness.advance(2)

    assert (harness.announced(), harness.published()) == (["remind a +2"], [])
    await harness.categories.refresh()
    await harness.advance(LEASE_S)
    assert sorted(harness.published()) == ["item a apns phone", "remind a apns phone"]
