"""Starts the audit job once a day, at the time of the setting ``AUDIT_AT``.

Every scheduler tries to create the job. Its id contains the date, so only one job is created. If no scheduler runs in
the hour after that time, the audit of that day is skipped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog

from gregor.clock import Clock
from gregor.core.errors import Problem
from gregor.core.limits import DAY_US, SECOND_US
from gregor.store.jobs import Jobs

from .audit import AUDIT

_log = structlog.get_logger(__name__)

WINDOW_US: Final = 3_600 * SECOND_US
"""A scheduler that starts later than this after the time of day waits for the next day."""


class DailyAudit:
    """Creates the audit job of each day. ``at``: the time of day in UTC, as ``HH:MM``."""

    def __init__(self, jobs: Jobs, clock: Clock, at: str) -> None:
        self._jobs = jobs
        self._clock = clock
        hours, minutes = at.split(":")
        self._at_us = (int(hours) * 60 + int(minutes)) * 60 * SECOND_US
        # The latest due time for which this process has created or skipped the job.
        self._served_us = 0

    async def start_if_due(self) -> None:
        """Create the job if its time has come. Call it every second: it reads nothing at other times.

        Raises ``Unavailable`` if the jobs cannot be read or written; the next call then tries again.
        """
        now_us = self._clock.now_us()
        late_us = (now_us - self._at_us) % DAY_US
        due_us = now_us - late_us
        if late_us >= WINDOW_US or due_us == self._served_us:
            return
        job_id = f"{AUDIT}-{datetime.fromtimestamp(due_us / SECOND_US, UTC):%Y-%m-%d}"
        running = [job for job in await self._jobs.open() if job.kind == AUDIT and job.id != job_id]
        if running:
            _log.warning("audit.skipped", job=job_id, reason=f"the audit {running[0].id} still runs")
        else:
            try:
                await self._jobs.create(job_id, AUDIT, {}, now_us)
            except Problem as problem:
                _log.warning("audit.skipped", job=job_id, reason=problem.detail)
        self._served_us = due_us
