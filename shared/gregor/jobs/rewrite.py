"""The job that rewrites all stored values in the written format, after the end of an upgrade.

Commits rewrite what they touch. The job finds the rest, and a later release need not read the older formats.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gregor.store.formats import Deployment, RewritePosition, Rewriting
from gregor.store.jobs import Job

from .runner import JobStep

REWRITE: Final = "rewrite"
"""The kind of this job."""
PACE_S: Final = 0.02
"""Shortest time between two steps: a step of 500 keys uses about a millisecond of the server."""


class RewriteSteps:
    """The steps of the job: wait until every process writes the format, search all keys, and record the result."""

    def __init__(self, deployment: Deployment, rewriting: Rewriting) -> None:
        self._deployment = deployment
        self._rewriting = rewriting

    async def step(self, job: Job) -> JobStep:
        """See ``JobSteps.step``."""
        number = int(job.params["format"])
        position = RewritePosition() if job.cursor is None else msgspec.convert(job.cursor, RewritePosition)
        waits_for = None
        if position.left is None and (late := (await self._deployment.formats()).lagging):
            waits_for = f"{len(late)} processes do not write format {number} yet"
        else:
            position = await self._rewriting.rewrite_some(position)
        if position.is_complete:
            await self._deployment.raise_oldest_format(number)
        return JobStep(
            msgspec.to_builtins(position),
            position.searched,
            position.total,
            is_last=position.is_complete,
            waits_for=waits_for,
            min_interval_s=PACE_S,
        )
