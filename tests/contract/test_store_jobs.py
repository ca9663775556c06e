"""Jobs in every store: one record for each id, numbers that grow, and no write on an outdated record."""

from __future__ import annotations

import asyncio

import pytest

from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.jobs.runner import cancel_job
from gregor.store import jobs
from gregor.store.contract.store import Store
from gregor.store.jobs import JOBS_KEPT_US, MAX_OPEN_JOBS, MIN_KEPT_US, JobState
from tests.support.builders import NOW_US, creating


async def test_job_is_created_once(store: Store) -> None:
    job, is_new = await store.jobs.create("a", "flush", {"spread": 30}, NOW_US)
    again, is_new_again = await store.jobs.create("a", "flush", {"spread": 5}, NOW_US + 1)

    assert (is_new, is_new_again) == (True, False)
    assert again == job == await store.jobs.get("a")
    assert (job.state, job.params, job.created_us, job.cursor) == (JobState.WAITING, {"spread": 30}, NOW_US, None)
    assert await store.jobs.get("b") is None


async def test_concurrent_creations_give_one_job(store: Store) -> None:
    made = await asyncio.gather(*(store.jobs.create("a", "flush", {"n": n}, NOW_US) for n in range(8)))

    assert [is_new for _, is_new in made].count(True) == 1
    assert len({job.params["n"] for job, _ in made}) == 1


async def test_numbers_grow_even_if_clocks_go_back(store: Store) -> None:
    numbers = [(await store.jobs.create(f"j{n}", "flush", {}, NOW_US - n))[0].number for n in range(4)]

    assert numbers == sorted(set(numbers)) and numbers[0] >= NOW_US
    assert [job.id for job in (await store.jobs.page(None, 9)).jobs] == ["j3", "j2", "j1", "j0"]


async def test_outdated_write_of_a_job_is_refused(store: Store) -> None:
    job, _ = await store.jobs.create("a", "flush", {}, NOW_US)
    mine, other = job.claimed("me", NOW_US, 10), job.claimed("other", NOW_US, 10)

    assert await store.jobs.replace(job, mine)
    assert not await store.jobs.replace(job, other)
    assert await store.jobs.get("a") == mine
    assert await store.jobs.replace(mine, mine.ended(JobState.DONE, NOW_US))


async def test_open_jobs_are_the_ones_not_over(store: Store) -> None:
    jobs = [(await store.jobs.create(name, "flush", {}, NOW_US))[0] for name in "abc"]
    assert await store.jobs.open() == jobs
    await store.jobs.replace(jobs[1], jobs[1].ended(JobState.FAILED, NOW_US, "broken"))
    later, _ = await store.jobs.create("d", "flush", {}, NOW_US)
    claimed = jobs[0].claimed("me", NOW_US, 10)
    await store.jobs.replace(jobs[0], claimed)

    assert await store.jobs.open() == [claimed, jobs[2], later]
    assert await store.jobs.open() == [claimed, jobs[2], later]


async def test_open_jobs_have_a_limit(store: Store) -> None:
    for n in range(MAX_OPEN_JOBS):
        await store.jobs.create(f"j{n}", "flush", {}, NOW_US)

    with pytest.raises(Problem, match=f"limit of {MAX_OPEN_JOBS} open jobs"):
        await store.jobs.create("more", "flush", {}, NOW_US)
    assert (await store.jobs.create("j0", "flush", {}, NOW_US))[1] is False
    assert await cancel_job(store.jobs, "j0", NOW_US) is not None
    assert (await store.jobs.create("more", "flush", {}, NOW_US))[1]


async def test_reserve_of_open_jobs_is_left(store: Store) -> None:
    for n in range(MAX_OPEN_JOBS // 2):
        await store.jobs.create(f"b{n}", "broadcast", {}, NOW_US, leaves_reserve=True)

    with pytest.raises(Problem, match=f"limit of {MAX_OPEN_JOBS // 2} open jobs"):
        await store.jobs.create("more", "broadcast", {}, NOW_US, leaves_reserve=True)
    assert (await store.jobs.create("more", "flush", {}, NOW_US))[1]


async def test_reserve_of_stored_jobs_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_JOBS", 4)
    for name in "ab":
        job, _ = await store.jobs.create(name, "broadcast", {}, NOW_US, leaves_reserve=True)
        await store.jobs.replace(job, job.ended(JobState.CANCELLED, NOW_US))

    with pytest.raises(Problem, match="2 jobs are stored"):
        await store.jobs.create("c", "broadcast", {}, NOW_US, leaves_reserve=True)
    assert (await store.jobs.create("c", "flush", {}, NOW_US))[1]


async def test_concurrent_creations_respect_the_limit(store: Store) -> None:
    for n in range(MAX_OPEN_JOBS - 3):
        await store.jobs.create(f"j{n}", "flush", {}, NOW_US)

    tries = (store.jobs.create(f"k{n}", "flush", {}, NOW_US) for n in range(8))
    made = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(each, Problem) for each in made) == 5
    assert len(await store.jobs.open()) == MAX_OPEN_JOBS


async def test_jobs_are_read_in_pages(store: Store) -> None:
    created = [(await store.jobs.create(name, "flush", {}, NOW_US))[0] for name in "edcba"]
    await store.jobs.replace(created[2], created[2].ended(JobState.DONE, NOW_US))
    found, before = [], None
    while True:
        page = await store.jobs.page(before, 2)
        found.append([job.id for job in page.jobs])
        before = page.before
        if before is None:
            break

    assert found == [["a", "b"], ["c", "d"], ["e"]]
    assert await store.jobs.page(None, 5) == (await store.jobs.page(None, 9))


async def test_too_many_jobs_displace_the_oldest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_JOBS", 3)
    ended_us = {"a": NOW_US + 1, "b": NOW_US, "c": NOW_US + 2}
    for name, at_us in ended_us.items():
        job, _ = await store.jobs.create(name, "flush", {}, NOW_US)
        await store.jobs.replace(job, job.ended(JobState.DONE, at_us))

    with pytest.raises(Problem, match="jobs are stored"):
        await store.jobs.create("d", "flush", {}, NOW_US + MIN_KEPT_US - 1)
    await store.jobs.create("d", "flush", {}, NOW_US + MIN_KEPT_US)
    assert [job.id for job in (await store.jobs.page(None, 9)).jobs] == ["d", "c", "a"]
    await store.jobs.create("e", "flush", {}, NOW_US + MIN_KEPT_US + 1)
    assert [job.id for job in (await store.jobs.page(None, 9)).jobs] == ["e", "d", "c"]


async def test_job_that_is_over_is_deleted_late(store: Store) -> None:
    done, _ = await store.jobs.create("done", "flush", {}, NOW_US)
    await store.jobs.replace(done, done.ended(JobState.DONE, NOW_US))
    await store.jobs.create("open", "flush", {}, NOW_US)

    await store.jobs.create("b", "flush", {}, NOW_US + JOBS_KEPT_US - 1)
    assert await store.jobs.get("done") is not None
    await store.jobs.create("c", "flush", {}, NOW_US + JOBS_KEPT_US)
    assert await store.jobs.get("done") is None and await store.jobs.get("open") is not None


async def test_partition_is_reset_once_for_a_number(store: Store) -> None:
    partitions = range(store.agenda.partition_count)
    await store.users.commit("alice", creating("a"))
    epochs = []
    for number in (5, 5, 4, 6):
        assert await store.users.reset_partitions(number, partitions, 30) == frozenset(partitions)
        epochs.append(await _epoch(store))

    assert epochs[0] == epochs[1] == epochs[2] != epochs[3]


async def _epoch(store: Store) -> bytes:
    """Return the epoch of a user, which a reset that applies changes."""
    return (await store.users.state("alice", View(), NOW_US)).epoch
