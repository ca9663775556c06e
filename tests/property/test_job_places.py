"""Law: no job keeps a place from another one, whatever the others do: pause for hours, never pause, or hang.

A scheduler executes up to a hundred jobs of all kinds in virtual time, and gets one more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gregor.jobs.runner import LEASE_US, STEPS_AT_ONCE, JobRunner, JobStep, cancel_job
from gregor.reference.jobs import MemoryJobs
from gregor.store.jobs import Job, JobState
from gregor_scheduler.job_watch import WATCH_S, JobWatch
from tests.support.builders import NOW_US
from tests.support.manual_loop import ManualLoop

KINDS = ("audit", "broadcast", "flush", "rewrite")
PAUSES, BUSY, HANGS, WAITS = "pauses", "busy", "hangs", "waits"
STEP_S = {PAUSES: 0.02, BUSY: 0.02, HANGS: 4.0, WAITS: 0.02, "new": 0.02}
PAUSE_S = 84.0
"""The pause between two partitions of a broadcast over a day."""
UNITS = 1_000_000


@dataclass
class LoopClock:
    """The time of a loop."""

    loop: ManualLoop

    def now_us(self) -> int:
        return NOW_US + round(self.loop.time() * 1_000_000)

    def monotonic(self) -> float:
        return self.loop.time()

    def cpu_ns(self) -> int:
        return 0


@dataclass
class Scheduler:
    """A scheduler without arq, and the jobs that it executes. The id of a job begins with its behaviour."""

    loop: ManualLoop
    jobs: MemoryJobs = field(default_factory=MemoryJobs)
    running: dict[str, int] = field(default_factory=dict)
    most_running: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    waits_for: str = "an old process"

    def __post_init__(self) -> None:
        clock = LoopClock(self.loop)
        self.clock = clock
        self.runner = JobRunner(self.jobs, clock, dict.fromkeys(KINDS, self))
        self.watch = JobWatch(self.jobs, self.runner, clock, KINDS, lambda job: False)

    async def step(self, job: Job) -> JobStep:
        """See ``JobSteps.step``."""
        behaviour = job.id.split("-")[0]
        self.running[job.kind] = self.running.get(job.kind, 0) + 1
        self.most_running[job.kind] = max(self.most_running.get(job.kind, 0), self.running[job.kind])
        await asyncio.sleep(STEP_S[behaviour])
        self.running[job.kind] -= 1
        count = self.done[job.id] = self.done.get(job.id, 0) + 1
        pause_s = PAUSE_S if behaviour == PAUSES else 0.0
        waits_for = self.waits_for if behaviour == WAITS else None
        is_last = behaviour == "new"
        return JobStep(count, count, UNITS, is_last=is_last, min_interval_s=pause_s, waits_for=waits_for)

    def create(self, job_id: str, kind: str) -> None:
        self.loop.complete(self.jobs.create(job_id, kind, {}, self.clock.now_us()))

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds / WATCH_S)):
            self.loop.complete(self.watch.start_free())
            self.loop.advance(WATCH_S)

    def stored(self, job_id: str) -> Job:
        job = self.loop.complete(self.jobs.get(job_id))
        assert job is not None
        return job


@contextmanager
def scheduler() -> Iterator[Scheduler]:
    loop = ManualLoop()
    try:
        yield Scheduler(loop)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()


others = st.lists(st.tuples(st.sampled_from([PAUSES, BUSY, HANGS]), st.sampled_from(KINDS)), max_size=30)


@settings(max_examples=40, deadline=None)
@given(others=others, kind=st.sampled_from(KINDS))
@example(others=[(PAUSES, "broadcast")] * 50, kind="audit")
@example(others=[(PAUSES, "broadcast")] * 50, kind="broadcast")
@example(others=[(BUSY, "broadcast")] * 50, kind="broadcast")
@example(others=[(HANGS, "broadcast")] * 50, kind="flush")
def test_new_job_gets_a_place_whatever_others_do(others: list[tuple[str, str]], kind: str) -> None:
    with scheduler() as world:
        names = [f"{behaviour}-{n}" for n, (behaviour, _) in enumerate(others)]
        for name, (_, each) in zip(names, others, strict=True):
            world.create(name, each)
        world.run_for(10)
        turns_s = [STEP_S[behaviour] for behaviour, each in others if each == kind]
        world.create("new-1", kind)

        # The others of its kind have one turn each before it, some of them at the same time.
        limit_s = 3 + sum(turns_s) / STEPS_AT_ONCE + max(turns_s, default=0)
        waited_s = 0.0
        while not (job := world.stored("new-1")).is_over:
            assert waited_s <= limit_s, job
            assert waited_s <= 3 or (job.state is JobState.WAITING and "place" in (job.reason or "")), job
            world.run_for(WATCH_S)
            waited_s += WATCH_S

        assert max(world.most_running.values()) <= STEPS_AT_ONCE
        assert all(world.stored(name).claims == 1 for name in names), "a job that waits keeps its lease"


def test_jobs_of_a_kind_take_turns() -> None:
    with scheduler() as world:
        for n in range(20):
            world.create(f"busy-{n}", "broadcast")
        world.run_for(30)

        assert max(world.done.values()) - min(world.done.values()) <= 2


@pytest.mark.parametrize("behaviour", [PAUSES, HANGS])
def test_waiting_job_is_cancelled(behaviour: str) -> None:
    with scheduler() as world:
        for n in range(6):
            world.create(f"{behaviour}-{n}", "broadcast")
        world.run_for(6)
        before = world.done.get(f"{behaviour}-5", 0)
        world.loop.complete(cancel_job(world.jobs, f"{behaviour}-5", world.clock.now_us()))
        world.run_for(PAUSE_S)

        assert world.done.get(f"{behaviour}-5", 0) == before
        assert len(world.runner._running) == 5


@pytest.mark.parametrize("behaviour", [PAUSES, BUSY, HANGS])
def test_stopped_process_releases_its_jobs(behaviour: str) -> None:
    """Also those that pause, or wait for a place: another process continues them at once."""
    with scheduler() as world:
        for n in range(6):
            world.create(f"{behaviour}-{n}", "broadcast")
        world.run_for(LEASE_US / 1e6 + 4)

        world.loop.complete(world.runner.close())

        assert all(world.stored(f"{behaviour}-{n}").is_free(world.clock.now_us()) for n in range(6))


@pytest.mark.parametrize("behaviour", [HANGS, WAITS])
def test_waiting_job_is_logged_once_for_each_reason(behaviour: str) -> None:
    """A job may wait at each of its turns, or try again every two seconds for hours."""
    with scheduler() as world, capture_logs() as logs:
        for n in range(6):
            world.create(f"{behaviour}-{n}", "broadcast")
        world.run_for(60)
        logged = [each["job"] for each in logs if each["event"] == "job.waits"]
        assert logged and len(logged) == len(set(logged))

        world.waits_for = "an unreachable server"
        logs.clear()
        world.run_for(60)
        logged = [each["job"] for each in logs if each["event"] == "job.waits"]
        assert sorted(logged) == ([f"{WAITS}-{n}" for n in range(6)] if behaviour == WAITS else [])


def test_ended_job_is_not_remembered() -> None:
    with scheduler() as world:
        for n in range(6):
            world.create(f"{HANGS}-{n}", "broadcast")
        world.run_for(30)
        for n in range(6):
            world.loop.complete(cancel_job(world.jobs, f"{HANGS}-{n}", world.clock.now_us()))
        world.run_for(30)

        assert world.runner.logged_waits == 0
