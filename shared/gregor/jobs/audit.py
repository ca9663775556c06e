"""The job that compares the stored digests of all known users with their items, slowly, and reports differences.

It only reads. A difference is a fault of Gregor or of the storage: no sequence of messages causes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.store.contract.agenda import Agenda
from gregor.store.contract.store import Unavailable, UnreadableValue, Users
from gregor.store.jobs import Job

from .partition_cursor import UserCursor
from .runner import JobStep
from .user_batch import CountUsers, next_batch

AUDIT: Final = "audit"
"""The kind of this job."""
PARTITIONS_AT_ONCE: Final = 8
USERS_AT_ONCE: Final = 100
STEP_S: Final = 0.5
"""A step reads no further user after this time: users with thousands of items take long."""
SHARE: Final = 0.1
"""The share of the time in which the job works. It uses less than this share of one core of Redis."""
NAMED_USERS: Final = 20
"""A job names at most this many users in the log."""

OUTCOMES: Final = ("checked", "wrong_digest", "unreadable")
"""The counts of a job, in its result and in ``gregor_job_users_total``."""

_log = structlog.get_logger(__name__)


class AuditCursor(UserCursor):
    """The progress of the job.

    It counts users so far: ``checked``, and those of them with a wrong digest, or with a record that this release
    cannot read.
    """

    checked: int = 0
    wrong_digest: int = 0
    unreadable: int = 0


class AuditSteps:
    """The steps of the job: read some users, and compare."""

    def __init__(self, users: Users, agenda: Agenda, clock: Clock, count: CountUsers) -> None:
        self._users = users
        self._agenda = agenda
        self._clock = clock
        self._count = count

    async def step(self, job: Job) -> JobStep:
        """See ``JobSteps.step``."""
        began_s = self._clock.monotonic()
        total = self._agenda.partition_count
        cursor = AuditCursor.load(job.cursor, total)
        tried = cursor.first(PARTITIONS_AT_ONCE)
        try:
            users = await self._agenda.known_users(tried)
        except Unavailable as error:
            # All partitions of a step may be on one server that is down: another pass tries them again.
            cursor.postpone(tried, error)
            users = {}
        batch = next_batch(tried, users, cursor.places, USERS_AT_ONCE)
        checked = await self._check(job, batch.users, began_s + STEP_S, cursor)
        if checked < len(batch.users):
            batch = next_batch(tried, users, cursor.places, checked)
        cursor.complete_batch(tried, users, batch)
        return cursor.end_step(
            total,
            min_interval_s=(self._clock.monotonic() - began_s) / SHARE,
            result={name: getattr(cursor, name) for name in OUTCOMES},
        )

    async def _check(self, job: Job, users: Sequence[str], until_s: float, cursor: AuditCursor) -> int:
        """Check users one after the other until a time, and count. Returns the number of checked users."""
        counts = dict.fromkeys(OUTCOMES, 0)
        findings: list[tuple[str, str, list[str]]] = []
        for uid in users:
            if counts["checked"] and self._clock.monotonic() > until_s:
                break
            counts["checked"] += 1
            try:
                if devices := await self._users.wrong_digests(uid):
                    findings.append(("wrong_digest", uid, devices))
            except UnreadableValue:
                findings.append(("unreadable", uid, []))
        named = cursor.wrong_digest + cursor.unreadable
        for outcome, uid, devices in findings:
            counts[outcome] += 1
            if named < NAMED_USERS:
                _log.error(f"audit.{outcome}", job=job.id, uid=uid, devices=devices[:NAMED_USERS])
                named += 1
        for outcome, number in counts.items():
            setattr(cursor, outcome, getattr(cursor, outcome) + number)
            self._count(AUDIT, outcome, number)
        return counts["checked"]
