"""A scheduler whose clock and that of Redis differ claims nothing, and is not ready."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.clock_guard import MAX_OFFSET_S, ClockGuard
from gregor.core.rate_limit import RateLimiter
from gregor.jobs.kinds import JOB_KINDS, JobTools, job_steps
from gregor.jobs.runner import JobRunner
from gregor.store.connections import ServerTime
from gregor.store.jobs import Job, JobState
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from gregor_scheduler.job_watch import JobWatch
from gregor_scheduler.metrics import SchedulerMetrics
from tests.support.builders import NOW_US

from .conftest import LEASE_US, SchedulerHarness

HOUR_S = 3_600.0


def reading(offset_s: float, error_s: float = 0.001) -> ServerTime:
    """Return the reading of a server that is ahead of a new clock by ``offset_s``."""
    return ServerTime(NOW_US + round(offset_s * 1e6), 0.0, error_s)


@pytest.mark.parametrize(
    ("found", "shift_s", "may_claim"),
    [
        (None, 0, False),
        (reading(0), 0, True),
        (reading(-4.9), 0, True),
        (reading(5.1), 0, False),
        (reading(-HOUR_S), 0, False),
        (reading(-HOUR_S), HOUR_S, True),
        (reading(0), HOUR_S, False),
    ],
    ids=["not read yet", "same", "a little ahead", "behind", "ahead", "shifted by the setting", "the setting lies"],
)
def test_scheduler_claims_only_with_a_right_clock(found: ServerTime | None, shift_s: float, may_claim: bool) -> None:
    assert ClockGuard(lambda: found, ManualClock(NOW_US), shift_s).may_claim() is may_claim


@pytest.mark.parametrize("before", [0.0, HOUR_S])
def test_slow_reply_decides_nothing(before: float) -> None:
    """Redis or the event loop took 20 s: the offset of 7 s may be an error of the reading."""
    readings = [reading(before)]
    guard = ClockGuard(lambda: readings[-1], ManualClock(NOW_US))
    was_right = guard.may_claim()

    readings.append(reading(7, error_s=10))

    assert guard.may_claim() is was_right is (before == 0)


def test_step_of_the_clock_counts_before_the_next_reading(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock(NOW_US)
    guard = ClockGuard(lambda: reading(0), clock)
    clock.advance(HOUR_S)
    assert guard.may_claim()

    clock.step(2 * MAX_OFFSET_S)
    assert not any(guard.may_claim() for _ in range(9))
    clock.step(-2 * MAX_OFFSET_S)
    assert guard.may_claim()

    output = capsys.readouterr().out
    assert (output.count("process.clock_off"), output.count("process.clock_right")) == (1, 1)


async def test_scheduler_an_hour_ahead_expires_nothing(harness: SchedulerHarness) -> None:
    """Its neighbour with a right clock executes the due work."""
    ahead = ManualClock(NOW_US + round(HOUR_S * 1e6))
    guard = ClockGuard(lambda: reading(0), ahead)
    handlers, metrics = DueHandlers(harness.context, RateLimiter(1e9, 1_000)), SchedulerMetrics(CollectorRegistry())
    wrong = DueLoop(harness.store.agenda, handlers, ahead, metrics, LEASE_US, may_claim=guard.may_claim)
    await harness.create("soon", expires="+5")
    await harness.create("later", expires="+600")

    assert await wrong.run_due() == 0
    assert sorted(await harness.live_ids()) == ["later", "soon"]
    await harness.advance(6)
    assert await harness.live_ids() == ["later"]


async def test_scheduler_an_hour_ahead_takes_no_job_of_another(harness: SchedulerHarness) -> None:
    jobs, clock = harness.store.jobs, ManualClock(NOW_US + round(HOUR_S * 1e6))
    job, _ = await jobs.create("j", "flush", {"spread": 0}, NOW_US)
    await jobs.replace(job, held := job.claimed("other", NOW_US, LEASE_US))
    guard = ClockGuard(lambda: reading(0), clock)
    tools = JobTools(harness.store, clock, harness.context.limits)
    runner = JobRunner(jobs, clock, job_steps(tools), may_claim=guard.may_claim)
    enqueued: list[str] = []

    def enqueue(job: Job) -> bool:
        enqueued.append(job.id)
        return True

    watch = JobWatch(jobs, runner, clock, JOB_KINDS, enqueue)

    watching = asyncio.create_task(watch.run())
    await runner.execute("j")
    watching.cancel()

    assert await jobs.get("j") == held and held.state is JobState.RUNNING
    assert enqueued == []
