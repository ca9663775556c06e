"""The kinds of jobs of a deployment, by name."""

from __future__ import annotations

from gregor.store.contract.store import Store

from .reset_all import FLUSH, UserResetSteps
from .runner import JobKind


def job_kinds(store: Store) -> dict[str, JobKind]:
    """Return the steps of each kind of job. A process of an older release does not claim jobs of unknown kinds."""
    return {FLUSH: UserResetSteps(store.users, store.agenda)}
