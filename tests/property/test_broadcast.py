"""A broadcast serves each user once, in steps of any size, whatever its process and its servers do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gregor.clock import ManualClock
from gregor.core.limits import DAY_US, SECOND_US, Limits
from gregor.core.messages.model import Receipt
from gregor.jobs.broadcast import BROADCAST, BroadcastSteps
from gregor.jobs.partition_cursor import UserCursor
from gregor.jobs.runner import LEASE_US, JobRunner, cancel_job
from gregor.jobs.user_batch import next_batch
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import JobState
from tests.support.agendas import PARTITIONS
from tests.support.builders import NOW_US

known_users = st.dictionaries(
    st.integers(0, 5), st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=9).map(sorted), max_size=6
)


@given(
    users=known_users,
    sizes=st.lists(st.integers(1, 7), min_size=1),
    at_once=st.integers(1, 6),
    failures=st.lists(st.sets(st.text("abc", min_size=1, max_size=3)), max_size=4),
)
def test_batches_serve_each_user_once(
    users: Mapping[int, Sequence[str]], sizes: Sequence[int], at_once: int, failures: Sequence[set[str]]
) -> None:
    reachable = {partition: users.get(partition, ()) for partition in range(6)}
    cursor, share, step = UserCursor([(0, 6)]), 0.0, 0
    served: list[str] = []
    while cursor.open_count:
        if not cursor.left:
            cursor.left, cursor.away = cursor.away, []
        tried = cursor.first(at_once)
        batch = next_batch(tried, reachable, cursor.places, most := sizes[step % len(sizes)])
        assert len(batch.users) <= most
        batch = batch.without(failures[step] if step < len(failures) else ())
        step += 1
        served += batch.users
        share += batch.share
        cursor.complete_batch(tried, reachable, batch)
        assert step < 1_000
    assert sorted(served) == sorted(uid for known in users.values() for uid in known)
    assert abs(share - 6) < 1e-6, "the whole spread is used"


def is_effect(result: object) -> bool:
    return isinstance(result, Receipt) and not result.is_unchanged


NEIGHBOURS = [uid for n in range(60_000) if PARTITIONS.of_user(uid := f"user-{n}") == PARTITIONS.of_user("user-0")][:40]
"""Users of one partition."""
TROUBLES = ("none", "all fail", "some fail", "the first fails", "replies are lost", "dies", "half, then dies")


class FailingUsers:
    """The users of a store: commits fail before or after their effect, as on a server that hangs, or a process dies.

    As the Redis store does, it returns failures as values.
    """

    def __init__(self, store: MemoryStore, troubles: Sequence[str]) -> None:
        self._users, self._troubles = store.users, list(troubles)
        self.effects: Counter[str] = Counter()

    async def commit_many(self, commits: Sequence[tuple[str, Any]]) -> Any:
        trouble = self._troubles.pop(0) if self._troubles else "none"
        if trouble == "dies":
            raise asyncio.CancelledError
        results: list[Any] = []
        for number, (uid, commit) in enumerate(commits):
            if trouble == "half, then dies" and number == len(commits) // 2:
                raise asyncio.CancelledError
            failing = {"all fail": True, "some fail": number % 3 == 1, "the first fails": number == 0}
            if failing.get(trouble):
                results.append(Unavailable("NOREPLICAS Not enough good replicas to write."))
                continue
            [result] = await self._users.commit_many([(uid, commit)])
            self.effects[uid] += is_effect(result)
            results.append(Unavailable("no reply within 2 s") if trouble == "replies are lost" else result)
        return results


class FailingStore:
    """A memory store with failing users."""

    def __init__(self, store: MemoryStore, troubles: Sequence[str]) -> None:
        self._store, self.users = store, FailingUsers(store, troubles)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@given(
    troubles=st.lists(st.sampled_from(TROUBLES), max_size=12),
    count=st.integers(0, 40),
    is_slow=st.booleans(),
)
def test_each_user_gets_a_broadcast_once(troubles: list[str], count: int, is_slow: bool) -> None:
    """``is_slow``: several steps serve one partition, instead of one step all partitions."""

    async def scenario() -> None:
        memory, clock = MemoryStore(Limits()), ManualClock(NOW_US)
        store = FailingStore(memory, troubles)
        uids = NEIGHBOURS[:count] if is_slow else [f"user-{n}" for n in range(count)]
        for uid in uids:
            await memory.devices.ensure_device(uid, "phone", NOW_US)
        spread = 4 * PARTITIONS.count if is_slow else 0
        params = {"system": "chat", "body": {"n": 1}, "spread": spread, "audience": "all"}
        job, _ = await memory.jobs.create("b", BROADCAST, params, NOW_US)
        if is_slow:
            home = PARTITIONS.of_user(NEIGHBOURS[0])
            await memory.jobs.replace(job, structs.replace(job, cursor={"left": [(home, home + 1)]}))

        async def sleep(seconds: float) -> None:
            clock.advance(max(seconds, 0.001))

        for _ in range(len(troubles) + 2):
            steps = BroadcastSteps(store, clock, Limits(), lambda kind, outcome, number: None)  # type: ignore[arg-type]
            with suppress(asyncio.CancelledError):
                await JobRunner(memory.jobs, clock, {BROADCAST: steps}, sleep=sleep).run("b")
            clock.advance(LEASE_US / 1e6)

        ended = await memory.jobs.get("b")
        assert ended is not None and ended.state is JobState.DONE, ended
        assert store.users.effects == Counter(uids)
        assert ended.result == {"sent": count, "offline": 0, "refused": 0}

    asyncio.run(scenario())


@pytest.mark.parametrize("external_age_us", [1, LEASE_US - 1, DAY_US])
def test_repeated_step_sends_nothing_twice(external_age_us: int) -> None:
    """A process dies after a step; another one repeats it after the lease, or after a pause of all schedulers."""

    async def scenario() -> None:
        limits = replace(Limits(), external_age_us=external_age_us)
        memory, clock = MemoryStore(limits), ManualClock(NOW_US)
        await memory.devices.ensure_device("alice", "phone", NOW_US)
        params = {"system": "chat", "body": 1, "spread": 0, "audience": "all"}
        job, _ = await memory.jobs.create("b", BROADCAST, params, NOW_US)
        home = PARTITIONS.of_user("alice")
        job = structs.replace(job, cursor={"left": [(home, home + 1)]})
        steps = BroadcastSteps(memory, clock, limits, lambda kind, outcome, number: None)
        for wait_us in (LEASE_US, DAY_US - LEASE_US - 1):
            await steps.step(job)
            clock.advance(wait_us / SECOND_US)
        await steps.step(job)

        [head] = await memory.users.heads(["alice"])
        assert head is not None and head.seq == 1

    asyncio.run(scenario())


def test_cursor_of_a_job_names_no_user() -> None:
    """A job is stored for two weeks after its end: a uid in it would outlive the deletion of its user."""

    class Stopped(Exception):
        pass

    async def stop(_: float) -> None:
        raise Stopped

    async def scenario() -> None:
        memory, clock = MemoryStore(Limits()), ManualClock(NOW_US)
        home = PARTITIONS.of_user("user-0")
        uids = [uid for n in range(9_999) if PARTITIONS.of_user(uid := f"user-{n}") == home][:3]
        for uid in uids:
            await memory.devices.ensure_device(uid, "phone", NOW_US)
        params = {"system": "chat", "body": {"n": 1}, "spread": 86_400, "audience": "all"}
        job, _ = await memory.jobs.create("b", BROADCAST, params, NOW_US)
        await memory.jobs.replace(job, structs.replace(job, cursor={"left": [(home, home + 1)]}))
        steps = BroadcastSteps(memory, clock, Limits(), lambda kind, outcome, number: None)
        with suppress(Stopped):
            await JobRunner(memory.jobs, clock, {BROADCAST: steps}, sleep=stop).run("b")

        running = await memory.jobs.get("b")
        assert running is not None and running.result["sent"] == 1 and running.cursor["places"]
        assert b"user-" not in msgspec.json.encode(running)
        for _ in range(2):
            over = await cancel_job(memory.jobs, "b", NOW_US)
            assert over is not None and over.is_over and over.cursor is None

    asyncio.run(scenario())


def test_user_deleted_meanwhile_gets_no_broadcast() -> None:
    """The job has read the user before its deletion, and commits afterwards."""

    class DeletingUsers:
        async def commit_many(self, commits: Sequence[tuple[str, Any]]) -> Any:
            await memory.users.delete_user("gone", NOW_US)
            return await memory.users.commit_many(commits)

    async def scenario() -> None:
        for uid in ("gone", "here"):
            await memory.devices.ensure_device(uid, "phone", NOW_US)
        store = FailingStore(memory, ())
        store.users = DeletingUsers()  # type: ignore[assignment]
        params = {"system": "chat", "body": {"n": 1}, "spread": 0, "audience": "all"}
        await memory.jobs.create("b", BROADCAST, params, NOW_US)
        steps = BroadcastSteps(store, clock, Limits(), lambda kind, outcome, number: None)  # type: ignore[arg-type]
        await JobRunner(memory.jobs, clock, {BROADCAST: steps}).run("b")

        gone, here = await memory.users.heads(["gone", "here"])
        assert (gone, here is not None and here.seq) == (None, 1)

    memory, clock = MemoryStore(Limits()), ManualClock(NOW_US)
    asyncio.run(scenario())
