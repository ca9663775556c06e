"""The kinds of jobs of a deployment, by name."""

from __future__ import annotations

from gregor.store.contract.store import Store

from .reset_all import FLUSH, UserResetSteps
from .runner import JobKind


def job_kinds(store: Store) -> dict[str, JobKind]:
    """Return the work of each kind. A process of an older release leaves jobs of newer kinds to others."""
    return {FLUSH: UserResetSteps(store.users, store.agenda)}
