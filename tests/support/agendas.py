"""Timers and agendas: helpers of the tests of due work on a store."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gregor.config.values import DEFAULT_PARTITIONS
from gregor.core.messages.model import Commit, ItemTimer
from gregor.store.contract.agenda import DueWork, WorkKind
from gregor.store.contract.store import Store
from gregor.store.redis.partitions import partitions_of
from tests.support.builders import DAY_US, NOW_US, SECOND_US, SEED, creating

PARTITIONS = partitions_of(DEFAULT_PARTITIONS)
ALICE = PARTITIONS.of_user("alice")
FAR_US = NOW_US + 400 * DAY_US
LEASE_US = 30 * SECOND_US


def at(seconds: float) -> int:
    """Return the time ``seconds`` after the start of the test, in µs."""
    return NOW_US + round(seconds * SECOND_US)


def timed(item_id: str, *timers: ItemTimer, now_us: int = NOW_US, **fields: Any) -> Commit:
    """Return the commit that creates an item with timers."""
    commit = creating(item_id, now_us=now_us, **fields)
    return replace(commit, creations=(replace(commit.creations[0], timers=timers),))


def remind(item_id: str, index: int, now_us: int, *, has_follow_up: bool = False) -> Commit:
    """Return the commit of a reminder."""
    return Commit(now_us, SEED, remind=(item_id, index), has_follow_up=has_follow_up)


async def entries(store: Store, now_us: int = FAR_US) -> list[tuple[WorkKind, str, int]]:
    """Return alice's agenda up to a time, without cleanup work."""
    due = await store.agenda.due_work("alice", now_us, 1_000)
    kept = [work for work in due if work.kind not in (WorkKind.FORGET, WorkKind.DEVICES)]
    return [(work.kind, work.name, (work.at_us - NOW_US) // SECOND_US) for work in kept]


async def work_of(store: Store, kind: WorkKind, now_us: int = FAR_US) -> DueWork:
    """Return the only entry of a kind."""
    (found,) = [work for work in await store.agenda.due_work("alice", now_us, 1_000) if work.kind is kind]
    return found
