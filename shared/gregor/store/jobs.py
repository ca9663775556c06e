"""The part of the store contract about jobs: long work for many users that survives the process that runs it.

A job is a record. A process claims it with a lease, executes a step, and stores the cursor after the step. If the
process dies, another one continues at the cursor when the lease has ended. Steps are idempotent, because the last one
may run again.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from gregor.core.errors import Problem
from gregor.core.limits import DAY_US

JOBS_KEPT_US: Final = 14 * DAY_US
"""How long a job is kept after its end. Until then, a repeated request with its id creates no second job."""
MIN_KEPT_US: Final = DAY_US
"""How long a job is kept after its end, however many others there are."""
MAX_JOBS: Final = 1_000
"""Limit of the stored jobs. Above it, those that ended first are deleted after ``MIN_KEPT_US``."""
MAX_OPEN_JOBS: Final = 100
"""Limit of the jobs that are not over. Further jobs are refused."""
RESERVE_FACTOR: Final = 2
"""A job that leaves a reserve is refused at the limits divided by this number."""


class JobLimits(NamedTuple):
    """The most jobs that are not over, and the most stored jobs."""

    open: int
    stored: int


def job_limits(*, leaves_reserve: bool) -> JobLimits:
    """Return the limits for a new job. ``leaves_reserve``: it must leave room for the jobs of administrators."""
    factor = RESERVE_FACTOR if leaves_reserve else 1
    return JobLimits(MAX_OPEN_JOBS // factor, MAX_JOBS // factor)


class JobState(Enum):
    """The state of a job; the value is the one on the wire."""

    WAITING = "waiting"
    """Not started, or to be continued: no process holds it, or its process executes other jobs first."""
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


OVER: Final = frozenset({JobState.DONE, JobState.CANCELLED, JobState.FAILED})


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job.

    ``number``: larger than that of each job created before. ``cursor``: the progress as JSON, in a form that the kind
    of the job defines; ``None`` before the first step, and after the end. ``done`` of ``total``: the progress for
    people. ``owner``: the process that holds the lease. No process claims the job before ``lease_until_us``.
    ``claims``: how often a process claimed the job. ``reason``: why the job waits or failed. ``result``: counts or
    findings so far, as JSON.
    """

    id: str
    kind: str
    params: dict[str, Any]
    number: int
    created_us: int
    changed_us: int
    state: JobState = JobState.WAITING
    owner: str = ""
    lease_until_us: int = 0
    cursor: Any = None
    done: int = 0
    total: int = 0
    reason: str | None = None
    claims: int = 0
    result: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the job is done, cancelled or failed."""
        return self.state in OVER

    def is_free(self, now_us: int) -> bool:
        """Return whether a process may claim the job now."""
        return not self.is_over and self.lease_until_us <= now_us

    def claimed(self, owner: str, now_us: int, lease_us: int) -> Job:
        """Return the job after a claim: running, with a lease of ``owner``."""
        claimed = msgspec.structs.replace(self, owner=owner, claims=self.claims + 1)
        return claimed.renewed(now_us, lease_us)

    def renewed(self, now_us: int, lease_us: int) -> Job:
        """Return the job, running, with a new lease of the same owner."""
        return msgspec.structs.replace(
            self, state=JobState.RUNNING, reason=None, changed_us=now_us, lease_until_us=now_us + lease_us
        )

    def queued(self, now_us: int, lease_us: int, reason: str) -> Job:
        """Return the job, waiting for a place in its process, with a new lease of the same owner."""
        return msgspec.structs.replace(self.renewed(now_us, lease_us), state=JobState.WAITING, reason=reason)

    def ended(self, state: JobState, now_us: int, reason: str | None = None) -> Job:
        """Return the job with a final state, without a lease and without a cursor."""
        return msgspec.structs.replace(
            self, state=state, owner="", lease_until_us=0, cursor=None, changed_us=now_us, reason=reason
        )

    def postponed(self, until_us: int, now_us: int, reason: str) -> Job:
        """Return the job without an owner. No process claims it before ``until_us``."""
        return msgspec.structs.replace(
            self, state=JobState.WAITING, owner="", lease_until_us=until_us, changed_us=now_us, reason=reason
        )


class JobPage(NamedTuple):
    """Jobs, newest first. ``before``: the argument that reads the next page; ``None`` after the last page."""

    jobs: list[Job]
    before: int | None


def too_many_open(most: int) -> Problem:
    """Return the error for one more job while ``most`` are open."""
    return Problem("too_many", f"The limit of {most} open jobs is reached. Wait for one, or cancel one.")


def too_many_stored(most: int) -> Problem:
    """Return the error for one more job while ``most`` are stored, and none of them can be deleted."""
    return Problem("too_many", f"{most} jobs are stored. Jobs can be deleted a day after their end: try later.")


class Jobs(Protocol):
    """The jobs of a deployment."""

    async def create(
        self, job_id: str, kind: str, params: dict[str, Any], now_us: int, *, leaves_reserve: bool = False
    ) -> tuple[Job, bool]:
        """Store a new job, unless there is one with this id. Returns the stored job, and whether it is new.

        Old jobs are deleted in the same step. Raises ``Problem`` ``too_many`` at ``MAX_OPEN_JOBS``, and at ``MAX_JOBS``
        if none can be deleted. ``leaves_reserve``: half of each limit stays free for the jobs of administrators.
        """
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return a job; ``None`` if it is unknown."""
        ...

    async def page(self, before: int | None, limit: int) -> JobPage:
        """Return at most ``limit`` jobs with a number below ``before``. Skips jobs that this release cannot read."""
        ...

    async def open(self) -> list[Job]:
        """Return the jobs that are not over, oldest first. Cheap: call it every second."""
        ...

    async def replace(self, old: Job, new: Job) -> bool:
        """Compare-and-set: write ``new`` if the stored job still equals ``old``. Returns whether it was written.

        Fields that a later release has added to the stored job stay.
        """
        ...
