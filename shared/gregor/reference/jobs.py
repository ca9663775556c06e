"""Executable specification: never runs in production. Jobs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gregor.store.jobs import (
    JOBS_KEPT_US,
    MIN_KEPT_US,
    Job,
    JobPage,
    job_limits,
    too_many_open,
    too_many_stored,
)


def jobs_to_delete(jobs: Sequence[Job], now_us: int, *, leaves_reserve: bool = False) -> list[Job]:
    """Return the jobs to delete before a new one is stored. Raises ``Problem`` ``too_many`` if none can be stored."""
    limits = job_limits(leaves_reserve=leaves_reserve)
    over = sorted((job for job in jobs if job.is_over), key=lambda job: (job.changed_us, job.number))
    open_count = len(jobs) - len(over)
    if open_count >= limits.open:
        raise too_many_open(limits.open)
    excess = len(jobs) + 1 - limits.stored
    found = [
        job
        for place, job in enumerate(over)
        if job.changed_us <= now_us - (MIN_KEPT_US if place < excess else JOBS_KEPT_US)
    ]
    if len(found) < excess:
        raise too_many_stored(limits.stored)
    return found


class MemoryJobs:
    """``contract.Jobs`` in memory."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._number = 0

    async def create(
        self, job_id: str, kind: str, params: dict[str, Any], now_us: int, *, leaves_reserve: bool = False
    ) -> tuple[Job, bool]:
        """See ``contract.Jobs.create``."""
        if job_id in self._jobs:
            return self._jobs[job_id], False
        for job in jobs_to_delete(list(self._jobs.values()), now_us, leaves_reserve=leaves_reserve):
            del self._jobs[job.id]
        self._number = max(self._number + 1, now_us)
        job = Job(id=job_id, kind=kind, params=params, number=self._number, created_us=now_us, changed_us=now_us)
        self._jobs[job_id] = job
        return job, True

    async def get(self, job_id: str) -> Job | None:
        """See ``contract.Jobs.get``."""
        return self._jobs.get(job_id)

    async def page(self, before: int | None, limit: int) -> JobPage:
        """See ``contract.Jobs.page``."""
        found = [job for job in reversed(self._jobs.values()) if before is None or job.number < before]
        return JobPage(found[:limit], found[limit - 1].number if len(found) > limit else None)

    async def open(self) -> list[Job]:
        """See ``contract.Jobs.open``."""
        return [job for job in self._jobs.values() if not job.is_over]

    async def replace(self, old: Job, new: Job) -> bool:
        """See ``contract.Jobs.replace``."""
        if self._jobs.get(old.id) != old:
            return False
        self._jobs[old.id] = new
        return True
