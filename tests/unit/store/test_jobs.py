"""Job records: what another release wrote, and which jobs are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.jobs.runner import cancel_job
from gregor.redis.connection import Command
from gregor.redis.tracking import StaleListener
from gregor.reference.jobs import jobs_to_delete
from gregor.store.jobs import JOBS_KEPT_US, MAX_JOBS, MAX_OPEN_JOBS, MIN_KEPT_US, Job, JobState
from gregor.store.redis.global_data.jobs import READ_EVERY, RedisJobs
from tests.unit.store.redis_setup import NOW_US, RedisSetup


@pytest.fixture
def jobs(setup: RedisSetup) -> RedisJobs:
    return RedisJobs(setup.connection, setup.keys)


async def test_fields_of_a_later_release_stay(jobs: RedisJobs, setup: RedisSetup) -> None:
    job, _ = await jobs.create("a", "flush", {"spread": 1}, NOW_US)
    later = msgspec.to_builtins(job) | {"priority": {"value": 7}}
    await setup.connection.call("HSET", setup.keys.jobs, "a", msgspec.json.encode(later))

    read = await jobs.get("a")
    assert read is not None and await jobs.replace(read, read.claimed("me", NOW_US, 10))
    cancelled = await cancel_job(jobs, "a", NOW_US)

    assert cancelled is not None and cancelled.state is JobState.CANCELLED
    stored = msgspec.json.decode(await setup.connection.call("HGET", setup.keys.jobs, "a"))
    assert (stored["priority"], stored["state"]) == ({"value": 7}, "cancelled")


async def test_cursor_with_tuples_is_replaced(jobs: RedisJobs) -> None:
    job, _ = await jobs.create("a", "flush", {}, NOW_US)
    moved = msgspec.structs.replace(job, cursor={"left": [(0, 7)]})

    assert await jobs.replace(job, moved)
    assert await jobs.replace(moved, moved.ended(JobState.DONE, NOW_US))


async def test_unreadable_job_hides_no_other(jobs: RedisJobs, setup: RedisSetup) -> None:
    job, _ = await jobs.create("a", "flush", {}, NOW_US)
    for name in "bc":
        await jobs.create(name, "flush", {}, NOW_US)
    later = msgspec.to_builtins(job) | {"id": "b", "state": "sleeping"}
    await setup.connection.call("HSET", setup.keys.jobs, "b", msgspec.json.encode(later), "c", b"\xc1later")

    assert (await jobs.page(None, 9)).jobs == await jobs.open() == [job]


class FakeTracker:
    """Answers tracked reads from the connection of the test, and counts them."""

    def __init__(self, setup: RedisSetup) -> None:
        self._setup = setup
        self.reads = 0
        self.listeners: list[StaleListener] = []

    def add_listener(self, listener: StaleListener) -> None:
        self.listeners.append(listener)

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        self.reads += 1
        return [await self._setup.connection.call(*command) for command in commands]

    async def close(self) -> None:
        pass


async def test_tracked_jobs_are_read_after_a_change(jobs: RedisJobs, setup: RedisSetup) -> None:
    tracker = FakeTracker(setup)
    jobs.track(tracker)
    assert [await jobs.open() for _ in range(READ_EVERY - 2)] == [[]] * (READ_EVERY - 2)
    assert tracker.reads == 1

    job, _ = await jobs.create("a", "flush", {}, NOW_US)
    assert await jobs.open() == [], "the server has not reported the change"
    tracker.listeners[0].on_stale([setup.keys.job_order.encode()])
    assert await jobs.open() == [job]


async def test_unreported_job_is_found_within_a_minute(jobs: RedisJobs, setup: RedisSetup) -> None:
    jobs.track(FakeTracker(setup))
    await jobs.open()
    job, _ = await jobs.create("a", "flush", {}, NOW_US)

    found = [await jobs.open() for _ in range(READ_EVERY)]

    assert [job] in found


ended_at = st.integers(0, 3 * JOBS_KEPT_US)


@given(ages=st.lists(ended_at, max_size=30), open_count=st.integers(0, 3), repeats=st.sampled_from([1, 60]))
def test_young_and_open_jobs_are_never_deleted(ages: list[int], open_count: int, repeats: int) -> None:
    now_us = NOW_US + 3 * JOBS_KEPT_US
    over = [job_of(f"{n}-{copy}", now_us - age, JobState.DONE) for copy in range(repeats) for n, age in enumerate(ages)]
    jobs = over + [job_of(f"open-{n}", NOW_US, JobState.WAITING) for n in range(open_count)]
    try:
        deleted = jobs_to_delete(jobs, now_us)
    except Problem as problem:
        assert problem.code == "too_many"
        assert sum(1 for job in over if job.changed_us > now_us - MIN_KEPT_US) + open_count >= MAX_JOBS
        return

    kept = [job for job in jobs if job not in deleted]
    assert all(job.is_over and job.changed_us <= now_us - MIN_KEPT_US for job in deleted)
    assert all(not job.is_over or job.changed_us > now_us - JOBS_KEPT_US for job in kept)
    assert len(kept) < MAX_JOBS


def test_full_of_open_jobs_refuses_one_more() -> None:
    with pytest.raises(Problem, match="open jobs"):
        jobs_to_delete([job_of(str(n), NOW_US, JobState.RUNNING) for n in range(MAX_OPEN_JOBS)], NOW_US)


def job_of(job_id: str, changed_us: int, state: JobState) -> Job:
    return Job(id=job_id, kind="flush", params={}, number=1, created_us=1, changed_us=changed_us, state=state)
