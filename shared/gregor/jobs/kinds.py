"""The table of all kinds of jobs: their names, the rights that they need, and their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gregor.store.contract.store import Store

from .reset_all import FLUSH, UserResetSteps
from .runner import JobSteps


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job.

    ``scopes``: a service key with one of them may start, see and cancel such a job. ``steps``: makes the work of it.
    """

    name: str
    scopes: frozenset[str]
    steps: Callable[[Store], JobSteps]


JOB_KINDS: Final = {
    kind.name: kind
    for kind in (JobKind(FLUSH, frozenset({"admin"}), lambda store: UserResetSteps(store.users, store.agenda)),)
}
"""All kinds, by name. A process of an older release does not claim jobs of unknown kinds."""


def job_steps(store: Store) -> dict[str, JobSteps]:
    """Return the work of each kind of job, by name."""
    return {name: kind.steps(store) for name, kind in JOB_KINDS.items()}
