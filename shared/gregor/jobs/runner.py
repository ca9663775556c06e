"""Executes jobs step by step under a lease, and stores the cursor after each step.

A process that dies leaves its job with the cursor of the last step. Another process claims it when the lease ends.

A process holds any number of jobs, and executes a few steps of each kind at the same time. Jobs of one kind take turns,
so neither a job that pauses for hours nor a job with very many steps blocks another.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import structlog

from gregor.clock import Clock
from gregor.cooperative import KeyedSemaphore
from gregor.core.limits import SECOND_US
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import Job, Jobs, JobState

_log = structlog.get_logger(__name__)

LEASE_US: Final = 6 * SECOND_US
"""How long a job belongs to a process after its last step. A step takes a second at most."""
RETRY_US: Final = 2 * SECOND_US
"""How long a job waits for an unreachable server."""
STEPS_AT_ONCE: Final = 2
"""Places: steps of one kind of job that a process executes at the same time. A job that pauses has none."""
CANCEL_CHECK_S: Final = 1.0
"""A job between two steps notices within this time that it was cancelled."""

MAX_LOGGED_WAITS: Final = 1_000
"""Jobs whose last logged reason to wait is remembered. Another process may have ended some of them."""


@dataclass(frozen=True, slots=True)
class JobStep:
    """The result of one step: the cursor after it, and the progress.

    ``waits_for``: why the next step must wait; a process continues the job a few seconds later. ``min_interval_s``: the
    shortest time from the start of this step to the start of the next. ``result``: counts or findings so far.
    """

    cursor: Any
    done: int
    total: int
    is_last: bool = False
    waits_for: str | None = None
    min_interval_s: float = 0.0
    result: Any = None


class JobSteps(Protocol):
    """The work of one kind of job.

    A step must be idempotent: if its process dies before the cursor is stored, the step runs again.
    """

    async def step(self, job: Job) -> JobStep:
        """Do the part of the work after ``job.cursor``, within a second or so.

        If it raises ``Unavailable``, the step is repeated later. Any other exception ends the job as failed.
        """
        ...


class JobRunner:
    """Executes the jobs that it can claim.

    Args:
        steps: The work of each kind that this process executes, by its name.
        count: Called with the kind and the final state of each job that this process ended.
        sleep: Waits some seconds.
        may_claim: Whether this process may claim a job now. With a wrong clock, it would take those of others.
    """

    def __init__(
        self,
        jobs: Jobs,
        clock: Clock,
        steps: Mapping[str, JobSteps],
        count: Callable[[str, str], None] = lambda kind, outcome: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        self._jobs = jobs
        self._clock = clock
        self._steps = steps
        self._count = count
        self._sleep = sleep
        self.may_claim = may_claim
        self._owner = secrets.token_hex(8)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._logged_waits: dict[str, str | None] = {}
        self._places = KeyedSemaphore(STEPS_AT_ONCE)

    @property
    def logged_waits(self) -> int:
        """Number of jobs whose last logged reason to wait is remembered."""
        return len(self._logged_waits)

    # ---- running jobs in the background

    def start(self, job_id: str) -> asyncio.Task[None]:
        """Execute a job in the background until it ends or has to wait. Returns the task, which never raises."""
        task = self._running.get(job_id)
        if task is None:
            task = self._running[job_id] = asyncio.create_task(self._run_logged(job_id))
            task.add_done_callback(lambda _: self._running.pop(job_id, None))
        return task

    async def execute(self, job_id: str) -> None:
        """Execute a job until it ends or has to wait, also if the caller does not wait any longer."""
        await asyncio.shield(self.start(job_id))

    async def close(self) -> None:
        """Stop executing, and release the jobs: other processes continue them."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- one job

    async def run(self, job_id: str) -> None:
        """Claim a job and execute its steps, until it is over, cancelled, or has to wait. Raises ``Unavailable``."""
        job = await self._claim(job_id)
        try:
            while job is not None and not job.is_over and job.owner == self._owner:
                job, next_s = await self._step_in_turn(job)
                if job is not None:
                    job = await self._pause(job, next_s)
        except asyncio.CancelledError:
            await self._release(job_id)
            raise

    async def _run_logged(self, job_id: str) -> None:
        try:
            await self.run(job_id)
        except Unavailable as error:
            _log.warning("job.interrupted", job=job_id, reason=str(error))
        except Exception:
            _log.exception("job.interrupted", job=job_id)

    async def _claim(self, job_id: str) -> Job | None:
        job, now_us = await self._jobs.get(job_id), self._clock.now_us()
        if job is None or job.kind not in self._steps or not job.is_free(now_us) or not self.may_claim():
            return None
        claimed = job.claimed(self._owner, now_us, LEASE_US)
        return claimed if await self._jobs.replace(job, claimed) else None

    async def _step_in_turn(self, job: Job) -> tuple[Job | None, float]:
        """Execute one step when the job has a place, and store the job.

        Returns the stored job (``None``: it was cancelled or lost), and when the next step may begin by the monotonic
        clock.
        """
        places = self._places.of(job.kind)
        held = await self._enter(places, job)
        if held is None:
            return None, 0.0
        try:
            began_s = self._clock.monotonic()
            moved, min_interval_s = await self._next(held)
            return await self._store(held, moved), began_s + min_interval_s
        finally:
            places.release()

    async def _enter(self, places: asyncio.Semaphore, job: Job) -> Job | None:
        """Wait for a place, and keep the lease. Returns ``None``, and holds no place, if the job was lost meanwhile."""
        if not places.locked():
            await places.acquire()
            return job
        held: Job | None = job
        turn, has_place = asyncio.create_task(places.acquire()), False
        try:
            while held is not None:
                pause = asyncio.ensure_future(self._sleep(CANCEL_CHECK_S))
                try:
                    await asyncio.wait((turn, pause), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    pause.cancel()
                if turn.done():
                    has_place = True
                    break
                reason = f"waits for a place: {STEPS_AT_ONCE} other jobs of this kind have their turn"
                held = await self._store(held, held.queued(self._clock.now_us(), LEASE_US, reason))
            return held
        finally:
            if not has_place and not turn.cancel():
                places.release()

    async def _next(self, job: Job) -> tuple[Job, float]:
        """Execute one step. Returns the job with its new state, which the caller must store, and ``min_interval_s``."""
        try:
            step = await self._steps[job.kind].step(job)
        except Unavailable as error:
            now_us = self._clock.now_us()
            return job.postponed(now_us + RETRY_US, now_us, str(error)), 0.0
        except Exception as error:
            _log.exception("job.failed", job=job.id, kind=job.kind)
            return job.ended(JobState.FAILED, self._clock.now_us(), f"{type(error).__name__}: {error}"), 0.0
        now_us = self._clock.now_us()
        moved = msgspec.structs.replace(job, cursor=step.cursor, done=step.done, total=step.total, result=step.result)
        if step.is_last:
            return moved.ended(JobState.DONE, now_us), 0.0
        if step.waits_for is not None:
            return moved.postponed(now_us + RETRY_US, now_us, step.waits_for), 0.0
        return moved.renewed(now_us, LEASE_US), step.min_interval_s

    async def _pause(self, job: Job, until_s: float) -> Job | None:
        """Keep the lease until a time by the monotonic clock. Returns ``None`` if the job was cancelled meanwhile."""
        held: Job | None = job
        while held is not None and (left_s := until_s - self._clock.monotonic()) > 0:
            await self._sleep(min(left_s, CANCEL_CHECK_S))
            if left_s > CANCEL_CHECK_S:
                held = await self._store(held, held.renewed(self._clock.now_us(), LEASE_US))
        return held

    async def _release(self, job_id: str) -> None:
        """End the lease at a stop of the process. If that fails, the lease ends by itself."""
        now_us = self._clock.now_us()
        with suppress(Unavailable):
            job = await self._jobs.get(job_id)
            if job is not None and job.owner == self._owner:
                await self._jobs.replace(job, job.postponed(now_us, now_us, "its process was stopped"))

    async def _store(self, old: Job, new: Job) -> Job | None:
        """Store the job after a step. Returns ``None`` if it was cancelled or claimed by another process meanwhile."""
        if not await self._jobs.replace(old, new):
            self._logged_waits.pop(old.id, None)
            _log.info("job.lost", job=old.id, kind=old.kind)
            return None
        if new.is_over:
            self._logged_waits.pop(new.id, None)
            self._count(new.kind, new.state.value)
            _log.info("job.ended", job=new.id, kind=new.kind, state=new.state.value, done=new.done, total=new.total)
        elif new.state is JobState.WAITING and old.state is not new.state:
            self._log_wait(new)
        return new

    def _log_wait(self, job: Job) -> None:
        """Log why a job waits, unless that was the reason of its last line."""
        # A job waits at each step while many are busy, and tries again every two seconds without its server.
        if self._logged_waits.get(job.id) == job.reason:
            return
        self._logged_waits[job.id] = job.reason
        if len(self._logged_waits) > MAX_LOGGED_WAITS:
            del self._logged_waits[next(iter(self._logged_waits))]
        _log.info("job.waits", job=job.id, kind=job.kind, reason=job.reason, done=job.done, total=job.total)


async def cancel_job(jobs: Jobs, job_id: str, now_us: int) -> Job | None:
    """Cancel a job, unless it is over. Its process stops after the running step. Returns ``None`` if it is unknown."""
    while True:  # until no process stores a step between the read and the write
        job = await jobs.get(job_id)
        if job is None or job.is_over:
            return job
        cancelled = job.ended(JobState.CANCELLED, now_us)
        if await jobs.replace(job, cancelled):
            return cancelled
