"""The audit job of each day (gregor.jobs.daily_audit)."""

from __future__ import annotations

import pytest

from gregor.clock import ManualClock
from gregor.core.limits import DAY_US, SECOND_US
from gregor.jobs.audit import AUDIT
from gregor.jobs.daily_audit import DailyAudit
from gregor.reference.jobs import MemoryJobs
from gregor.store.jobs import MAX_OPEN_JOBS, JobState

MIDNIGHT_US = 20_000 * DAY_US  # 2024-10-04
HOUR_US = 3_600 * SECOND_US


async def ids(jobs: MemoryJobs) -> list[str]:
    return [job.id for job in await jobs.open()]


async def test_audit_starts_at_its_time() -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US + 3 * HOUR_US - 1)
    audit = DailyAudit(jobs, clock, "03:00")
    await audit.start_if_due()
    assert await ids(jobs) == []
    clock.advance(1)
    await audit.start_if_due()
    assert await ids(jobs) == ["audit-2024-10-04"]


async def test_all_schedulers_start_one_audit_a_day() -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US)
    schedulers = [DailyAudit(jobs, clock, "03:00") for _ in range(3)]
    for _ in range(2 * 24 * 6):
        for scheduler in schedulers:
            await scheduler.start_if_due()
        for job in await jobs.open():
            await jobs.replace(job, job.ended(JobState.DONE, clock.now_us()))
        clock.advance(600)
    assert [job.id for job in (await jobs.page(None, 9)).jobs] == ["audit-2024-10-05", "audit-2024-10-04"]


@pytest.mark.parametrize(("minutes", "count"), [(59, 1), (60, 0)])
async def test_late_scheduler_waits_for_the_next_day(minutes: int, count: int) -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US + 3 * HOUR_US + minutes * 60 * SECOND_US)
    await DailyAudit(jobs, clock, "03:00").start_if_due()
    assert len(await jobs.open()) == count


async def test_audit_shortly_before_midnight_has_its_own_date() -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US + HOUR_US // 4)
    await DailyAudit(jobs, clock, "23:30").start_if_due()
    assert await ids(jobs) == ["audit-2024-10-03"]


async def test_running_audit_is_not_started_again() -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US + 3 * HOUR_US)
    await jobs.create("by-hand", AUDIT, {}, clock.now_us())
    audit = DailyAudit(jobs, clock, "03:00")
    await audit.start_if_due()
    assert await ids(jobs) == ["by-hand"]


async def test_full_list_of_jobs_skips_the_audit() -> None:
    jobs, clock = MemoryJobs(), ManualClock(MIDNIGHT_US + 3 * HOUR_US)
    for number in range(MAX_OPEN_JOBS):
        await jobs.create(f"flush-{number}", "flush", {}, clock.now_us())
    await DailyAudit(jobs, clock, "03:00").start_if_due()
    assert len(await jobs.open()) == MAX_OPEN_JOBS
