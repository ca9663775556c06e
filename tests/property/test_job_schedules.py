"""A job ends whatever happens: schedulers die at any step, arq loses jobs or stops, the job is asked for twice.

``JobSchedule`` executes random schedules of two schedulers, one arq queue, and the clock. A process continues only as
far as the schedule lets it, so that it can die between any two calls of the store.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gregor.clock import ManualClock
from gregor.jobs.runner import LEASE_US, JobRunner, JobStep, cancel_job
from gregor.reference.jobs import MemoryJobs
from gregor.store.jobs import Job, JobState
from gregor_scheduler.job_watch import WATCH_S, JobWatch
from tests.support.builders import NOW_US

UNITS = 5
"""Steps of a job."""
RESTART_S = 15.0
"""A job is continued within this time, whatever died."""


class Effects:
    """The effects of all steps, by job."""

    def __init__(self) -> None:
        self.units: dict[str, Counter[int]] = {"a": Counter(), "b": Counter()}
        self.in_step: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.cancelled: set[str] = set()


class SchedulerProcess:
    """A scheduler that executes jobs. Each call of the store waits for the schedule before and after it."""

    def __init__(self, jobs: MemoryJobs, clock: ManualClock, effects: Effects, world: JobSchedule) -> None:
        self._stored, self._effects, self._clock = jobs, effects, clock
        self._calls, self._more_calls = 0.0, asyncio.Event()
        self.is_dead = False
        self.runner = JobRunner(self, clock, {"count": self}, self._count, self._sleep)
        self.watch = JobWatch(jobs, self.runner, clock, {"count"}, world.enqueue)
        self.tasks: list[asyncio.Task[None]] = []

    async def _sleep(self, seconds: float) -> None:
        await self._gate()

    async def _gate(self) -> None:
        await asyncio.sleep(0)
        if self.is_dead:
            await asyncio.Event().wait()
        while self._calls < 1:
            self._more_calls.clear()
            await self._more_calls.wait()
        self._calls -= 1

    def proceed(self, calls: float) -> None:
        self._calls += calls
        self._more_calls.set()

    # ---- the store, as this process sees it

    async def get(self, job_id: str) -> Job | None:
        await self._gate()
        found = await self._stored.get(job_id)
        await self._gate()
        return found

    async def replace(self, old: Job, new: Job) -> bool:
        await self._gate()
        is_written = await self._stored.replace(old, new)
        await self._gate()
        return is_written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stored, name)

    # ---- the work

    async def step(self, job: Job) -> JobStep:
        unit = job.cursor or 0
        await self._gate()
        if job.id in self._effects.cancelled:
            self._effects.late[f"{job.id} {id(self)} {job.claims}"] += 1
        self._effects.units[job.id][unit] += 1
        await self._gate()
        # The pace is slower than the lease.
        return JobStep(unit + 1, unit + 1, UNITS, is_last=unit + 1 == UNITS, min_interval_s=LEASE_US / 1e6 + 1)

    def _count(self, kind: str, outcome: str) -> None:
        self._effects.ended[outcome] += 1


class JobSchedule(RuleBasedStateMachine):
    """Random schedules of two schedulers, an arq queue, and the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.jobs, self.clock, self.effects = MemoryJobs(), ManualClock(NOW_US), Effects()
        self.arq: dict[str, str] = {}
        self.is_arq_up = True
        self.seen: dict[str, Job] = {}
        self.all_processes: list[SchedulerProcess] = []
        self.processes = [self.start_process() for _ in range(2)]

    def start_process(self) -> SchedulerProcess:
        async def make() -> SchedulerProcess:
            return SchedulerProcess(self.jobs, self.clock, self.effects, self)

        made = self.loop.run_until_complete(make())
        self.all_processes.append(made)
        return made

    def settle(self) -> None:
        async def run() -> None:
            for _ in range(60):
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    def enqueue(self, job: Job) -> bool:
        if self.is_arq_up:
            self.arq.setdefault(f"{job.id}:{job.claims}", job.id)
        return self.is_arq_up

    def stored(self, job_id: str) -> Job | None:
        return self.loop.run_until_complete(self.jobs.get(job_id))

    # ---- what callers do

    @rule(job_id=st.sampled_from("ab"))
    def request(self, job_id: str) -> None:
        self.loop.run_until_complete(self.jobs.create(job_id, "count", {}, self.clock.now_us()))

    @rule(job_id=st.sampled_from("ab"))
    def cancel(self, job_id: str) -> None:
        job = self.loop.run_until_complete(cancel_job(self.jobs, job_id, self.clock.now_us()))
        if job is not None and job.state is JobState.CANCELLED:
            self.effects.cancelled.add(job_id)

    # ---- what happens to schedulers and arq

    @rule(n=st.integers(0, 1))
    def look(self, n: int) -> None:
        self.loop.run_until_complete(self.processes[n].watch.start_free())

    @precondition(lambda self: self.arq)
    @rule(n=st.integers(0, 1))
    def take_from_arq(self, n: int) -> None:
        job_id = self.arq.pop(min(self.arq))
        process = self.processes[n]
        process.tasks.append(self.loop.create_task(process.runner.execute(job_id)))
        self.settle()

    @rule()
    def lose_arq_jobs(self) -> None:
        self.arq.clear()

    @rule(is_up=st.booleans())
    def switch_arq(self, is_up: bool) -> None:
        self.is_arq_up = is_up

    @rule(n=st.integers(0, 1), calls=st.integers(1, 8))
    def proceed(self, n: int, calls: int) -> None:
        self.processes[n].proceed(calls)
        self.settle()

    @rule(n=st.integers(0, 1))
    def kill(self, n: int) -> None:
        self.processes[n].is_dead = True
        self.processes[n] = self.start_process()

    @rule(n=st.integers(0, 1))
    def stop(self, n: int) -> None:
        stopped, self.processes[n] = self.processes[n], self.start_process()
        stopped.proceed(math.inf)
        self.loop.run_until_complete(stopped.runner.close())

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, LEASE_US / 1e6]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # ---- what always holds

    @invariant()
    def record_never_goes_back(self) -> None:
        for job_id in "ab":
            job, before = self.stored(job_id), self.seen.get(job_id)
            if job is None:
                continue
            if before is not None:
                assert job.claims >= before.claims
                # A job that is over has no cursor.
                assert job.cursor is None if job.is_over else (job.cursor or 0) >= (before.cursor or 0)
                assert not before.is_over or job == before
            self.seen[job_id] = job

    @invariant()
    def only_the_running_step_ends_after_a_cancel(self) -> None:
        assert all(count <= 1 for count in self.effects.late.values())

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            for process in self.all_processes:
                process.is_dead = False
                process.proceed(math.inf)
            self.settle()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.settle()
            self.loop.close()

    def finish(self) -> None:
        """Let the schedulers work, with arq as it is: each step is done within the restart time, and each job ends."""
        for job_id in "ab":
            progress, quiet_s = (-1, -1), 0.0
            while (job := self.stored(job_id)) is not None and not job.is_over:
                if (job.cursor or 0, job.claims) != progress:
                    progress, quiet_s = (job.cursor or 0, job.claims), 0.0
                assert quiet_s <= RESTART_S
                self.clock.advance(WATCH_S)
                quiet_s += WATCH_S
                for n in (0, 1):
                    self.look(n)
                    self.proceed(n, 100)
                while self.is_arq_up and self.arq:
                    self.take_from_arq(0)
            if job is not None and job.state is JobState.DONE:
                assert set(self.effects.units[job_id]) == set(range(UNITS))
        assert self.effects.ended[JobState.FAILED.value] == 0


JobSchedule.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_job_ends_whatever_dies = JobSchedule.TestCase
