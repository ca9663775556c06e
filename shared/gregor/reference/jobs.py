"""Executable specification: never runs in production. Jobs in memory."""

from __future__ import annotations

from typing import Any

from gregor.store.jobs import Job, jobs_to_delete


class MemoryJobs:
    """``contract.Jobs`` in memory."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._number = 0

    async def create(self, job_id: str, kind: str, params: dict[str, Any], now_us: int) -> tuple[Job, bool]:
        """See ``contract.Jobs.create``."""
        if job_id in self._jobs:
            return self._jobs[job_id], False
        for job in jobs_to_delete(list(self._jobs.values()), now_us):
            del self._jobs[job.id]
        self._number = max(self._number + 1, now_us)
        job = Job(id=job_id, kind=kind, params=params, number=self._number, created_us=now_us, changed_us=now_us)
        self._jobs[job_id] = job
        return job, True

    async def get(self, job_id: str) -> Job | None:
        """See ``contract.Jobs.get``."""
        return self._jobs.get(job_id)

    async def all(self) -> list[Job]:
        """See ``contract.Jobs.all``."""
        return sorted(self._jobs.values(), key=lambda job: job.number, reverse=True)

    async def open(self) -> list[Job]:
        """See ``contract.Jobs.open``."""
        return [job for job in reversed(await self.all()) if not job.is_over]

    async def replace(self, old: Job, new: Job) -> bool:
        """See ``contract.Jobs.replace``."""
        if self._jobs.get(old.id) != old:
            return False
        self._jobs[old.id] = new
        return True
