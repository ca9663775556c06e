"""Executes jobs step by step under a lease, and stores the cursor after each step.

A process that dies leaves its job with the cursor of the last step. Another process claims it when the lease ends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import Job, Jobs, JobState

_log = structlog.get_logger(__name__)

LEASE_US: Final = 10 * SECOND_US
"""How long a job belongs to a process after its last step. A step takes at most a few seconds."""
WATCH_S: Final = 3.0
"""Interval at which a process looks for jobs that it may continue."""
RETRY_US: Final = 2 * SECOND_US
"""How long a job waits for an unreachable server."""
MOST_AT_ONCE: Final = 4
"""Jobs that one process executes at the same time."""


@dataclass(frozen=True, slots=True)
class JobStep:
    """The result of one step: the cursor after it, and the progress.

    ``waits_for``: why the next step must wait; a process continues the job a few seconds later.
    """

    cursor: Any
    done: int
    total: int
    is_last: bool = False
    waits_for: str | None = None


class JobKind(Protocol):
    """The work of one kind of job.

    A step must be idempotent: if its process dies before the cursor is stored, the step runs again.
    """

    async def step(self, job: Job) -> JobStep:
        """Do the part of the work after ``job.cursor``.

        If it raises ``Unavailable``, the step is repeated later. Any other exception ends the job as failed.
        """
        ...


class JobRunner:
    """Creates jobs, and executes those that it can claim.

    Args:
        kinds: The work of each kind, by its name.
        count: Called with the kind and the final state of each job that this process ended.
    """

    def __init__(
        self,
        jobs: Jobs,
        clock: Clock,
        kinds: Mapping[str, JobKind],
        count: Callable[[str, str], None] = lambda kind, outcome: None,
    ) -> None:
        self._jobs = jobs
        self._clock = clock
        self._kinds = kinds
        self._count = count
        self._owner = secrets.token_hex(8)
        self._running: dict[str, asyncio.Task[None]] = {}

    # ---- running jobs in the background

    def start(self, job_id: str) -> asyncio.Task[None]:
        """Execute a job in the background until it ends or has to wait. Returns the task, which never raises."""
        task = self._running.get(job_id)
        if task is None:
            task = self._running[job_id] = asyncio.create_task(self._run_logged(job_id))
            task.add_done_callback(lambda _: self._running.pop(job_id, None))
        return task

    async def watch(self) -> None:
        """Continue the jobs that no living process holds, until cancelled."""
        while True:
            try:
                await self.continue_free()
            except Exception:
                # For example a job of a later release that cannot be decoded: other jobs must go on afterwards.
                _log.exception("jobs.watch_failed", retry_in_s=WATCH_S)
            await asyncio.sleep(WATCH_S)

    async def continue_free(self) -> None:
        """Start the jobs that may be claimed now, the oldest first."""
        try:
            found = await self._jobs.all()
        except Unavailable as error:
            _log.info("jobs.unreadable", reason=str(error))
            return
        now_us = self._clock.now_us()
        for job in reversed(found):
            if len(self._running) < MOST_AT_ONCE and job.is_free(now_us) and job.kind in self._kinds:
                self.start(job.id)

    async def close(self) -> None:
        """Stop executing. Other processes continue the jobs when their leases end."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- one job

    async def run(self, job_id: str) -> None:
        """Claim a job and execute its steps, until it is over, cancelled, or has to wait. Raises ``Unavailable``."""
        job = await self._claim(job_id)
        while job is not None and not job.is_over and job.owner == self._owner:
            job = await self._store(job, await self._next(job))

    async def _run_logged(self, job_id: str) -> None:
        try:
            await self.run(job_id)
        except Unavailable as error:
            _log.warning("job.interrupted", job=job_id, reason=str(error))
        except Exception:
            _log.exception("job.interrupted", job=job_id)

    async def _claim(self, job_id: str) -> Job | None:
        job, now_us = await self._jobs.get(job_id), self._clock.now_us()
        if job is None or job.kind not in self._kinds or not job.is_free(now_us):
            return None
        claimed = job.claimed(self._owner, now_us, LEASE_US)
        return claimed if await self._jobs.replace(job, claimed) else None

    async def _next(self, job: Job) -> Job:
        """Execute one step. Returns the job with its new state, which the caller must store."""
        try:
            step = await self._kinds[job.kind].step(job)
        except Unavailable as error:
            now_us = self._clock.now_us()
            return job.postponed(now_us + RETRY_US, now_us, str(error))
        except Exception as error:
            _log.exception("job.failed", job=job.id, kind=job.kind)
            return job.ended(JobState.FAILED, self._clock.now_us(), f"{type(error).__name__}: {error}")
        now_us = self._clock.now_us()
        moved = msgspec.structs.replace(job, cursor=step.cursor, done=step.done, total=step.total)
        if step.is_last:
            return moved.ended(JobState.DONE, now_us)
        if step.waits_for is not None:
            return moved.postponed(now_us + RETRY_US, now_us, step.waits_for)
        return moved.claimed(self._owner, now_us, LEASE_US)

    async def _store(self, old: Job, new: Job) -> Job | None:
        """Store the job after a step. Returns ``None`` if it was cancelled or claimed by another process meanwhile."""
        if not await self._jobs.replace(old, new):
            _log.info("job.lost", job=old.id, kind=old.kind)
            return None
        if new.is_over:
            self._count(new.kind, new.state.value)
            _log.info("job.ended", job=new.id, kind=new.kind, state=new.state.value, done=new.done, total=new.total)
        elif new.state is JobState.WAITING:
            _log.info("job.waits", job=new.id, kind=new.kind, reason=new.reason, done=new.done, total=new.total)
        return new


async def cancel_job(jobs: Jobs, job_id: str, now_us: int) -> Job | None:
    """Cancel a job, unless it is over. Its process stops after the running step. Returns ``None`` if it is unknown."""
    while True:  # until no process stores a step between the read and the write
        job = await jobs.get(job_id)
        if job is None or job.is_over:
            return job
        cancelled = job.ended(JobState.CANCELLED, now_us)
        if await jobs.replace(job, cancelled):
            return cancelled
