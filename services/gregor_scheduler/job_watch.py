"""Starts each job that no living process holds: as an arq job, or in this process if arq does not.

arq gives a job to one scheduler. It may lose the job, because its Redis is flushed, or a scheduler dies. The watch does
not rely on it: it reads the jobs from the state Redis, and enqueues each free job again until a process claims it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.jobs.daily_audit import DailyAudit
from gregor.jobs.runner import JobRunner
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import Job, Jobs

_log = structlog.get_logger(__name__)

WATCH_S: Final = 1.0
"""Interval of the watch."""
UNCLAIMED_S: Final = 4.0
"""How long a job may be free before this process claims it without arq. A worker of arq polls every two seconds."""


class JobWatch:
    """Enqueues free jobs, and starts those that arq does not start.

    Args:
        kinds: The kinds of jobs that this release can execute.
        enqueue: Enqueues a job in arq, and returns whether arq is connected. A repeated call enqueues nothing.
        daily_audit: Starts the daily audit; ``None`` without the setting ``AUDIT_AT``.
    """

    def __init__(
        self,
        jobs: Jobs,
        runner: JobRunner,
        clock: Clock,
        kinds: Collection[str],
        enqueue: Callable[[Job], bool],
        daily_audit: DailyAudit | None = None,
    ) -> None:
        self._jobs = jobs
        self._runner = runner
        self._clock = clock
        self._kinds = kinds
        self._enqueue = enqueue
        self._daily_audit = daily_audit
        # When this process first saw that a job is free, by id and claims.
        self._free_since_s: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Look for free jobs every second, until cancelled."""
        while True:
            try:
                if self._runner.may_claim():
                    await self._start_due()
            except Unavailable as error:
                _log.info("jobs.unreadable", reason=str(error))
            except Exception:
                _log.exception("jobs.watch_failed", retry_in_s=WATCH_S)
            await asyncio.sleep(WATCH_S)

    async def _start_due(self) -> None:
        await self.start_free()
        if self._daily_audit is not None:
            await self._daily_audit.start_if_due()

    async def start_free(self) -> None:
        """Enqueue the jobs that are free now, the oldest first. Those that arq did not start are started here."""
        now_us, now_s = self._clock.now_us(), self._clock.monotonic()
        free = [job for job in await self._jobs.open() if job.is_free(now_us) and job.kind in self._kinds]
        known = self._free_since_s
        self._free_since_s = {(job.id, job.claims): known.get((job.id, job.claims), now_s) for job in free}
        for job in free:
            is_unclaimed = now_s - self._free_since_s[job.id, job.claims] >= UNCLAIMED_S
            is_enqueued = self._enqueue(job)
            if is_unclaimed or not is_enqueued:
                self._runner.start(job.id)
