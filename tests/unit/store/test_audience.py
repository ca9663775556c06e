"""The audience of a user with much presence is read rarely, and never older than the work that it decides."""

from __future__ import annotations

import asyncio

import pytest

from gregor.core.limits import KIB, SECOND_US
from gregor.reference.store import MemoryStore
from gregor.store.audience import FREE_BYTES, PAUSE_US_PER_KIB, AudiencePaced, AudienceReader
from gregor.store.contract.devices import DeviceSession
from tests.support.builders import LIMITS, NOW_US

LONG = tuple(f"a{n:03}" + ".b" * 61 for n in range(100))
PAUSE_US = 8 * PAUSE_US_PER_KIB * sum(len(each) + 1 for each in LONG) // KIB
"""Pause after a read of eight sessions with long filters: 8 ms."""


@pytest.fixture
async def store() -> MemoryStore:
    """Alice has eight connections with long filters."""
    made = MemoryStore(LIMITS)
    for n in range(8):
        await made.devices.ensure_device("alice", f"d{n}", NOW_US)
        opened = DeviceSession("s", f"c{n}", "g", NOW_US, True, LONG)
        await made.devices.open_session("alice", f"d{n}", opened, NOW_US, 60 * SECOND_US)
    return made


async def close(store: MemoryStore, n: int) -> None:
    opened = DeviceSession("s", f"c{n}", "g", NOW_US, True, LONG)
    await store.devices.close_session("alice", f"d{n}", opened, NOW_US)


async def test_decisions_share_a_large_audience_during_its_pause(store: MemoryStore) -> None:
    audiences = AudienceReader(store.devices)
    first = await audiences.read("alice", NOW_US, NOW_US)
    assert first.stored_bytes > FREE_BYTES

    await close(store, 0)

    assert await audiences.read("alice", NOW_US - 1, NOW_US + PAUSE_US - 9) is first
    fresh = await audiences.read("alice", NOW_US - 1, NOW_US + PAUSE_US)
    assert len(fresh.foreground_filters) == 7


async def test_work_that_is_due_after_the_read_waits_for_the_next_one(store: MemoryStore) -> None:
    """Its user may have left the foreground in between, so the earlier audience would suppress the push."""
    audiences = AudienceReader(store.devices)
    await audiences.read("alice", NOW_US, NOW_US)

    with pytest.raises(AudiencePaced) as paced:
        await audiences.read("alice", NOW_US + 1, NOW_US + 2)

    assert NOW_US + PAUSE_US - 9 <= paced.value.retry_us <= NOW_US + PAUSE_US
    await audiences.read("alice", NOW_US + 1, paced.value.retry_us)


async def test_ordinary_audience_is_always_read(store: MemoryStore) -> None:
    audiences = AudienceReader(store.devices)
    for n in range(4):
        await close(store, n)
    first = await audiences.read("alice", NOW_US, NOW_US)

    await close(store, 4)

    assert first.stored_bytes <= FREE_BYTES
    assert len((await audiences.read("alice", NOW_US, NOW_US)).foreground_filters) == 3


async def test_pause_ends_if_the_wall_clock_jumps_back(store: MemoryStore) -> None:
    audiences = AudienceReader(store.devices)
    first = await audiences.read("alice", NOW_US, NOW_US)

    assert await audiences.read("alice", NOW_US - SECOND_US, NOW_US - SECOND_US) is not first


async def test_tasks_that_wait_for_the_pause_share_one_read(store: MemoryStore) -> None:
    audiences = AudienceReader(store.devices)
    first = await audiences.read("alice", NOW_US, NOW_US)

    # One more: the clock of the host that decided first may be ahead.
    due_us = [*range(NOW_US + 1, NOW_US + 9), NOW_US + SECOND_US]
    found = await asyncio.gather(*(audiences.wait_and_read("alice", each, NOW_US + 9) for each in due_us))

    assert len({id(each) for each in found}) == 1 and found[0] is not first
