"""The table of all kinds of jobs: their names, the rights that they need, and their steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gregor.clock import Clock
from gregor.core.limits import Limits
from gregor.store.contract.store import Store

from .audit import AUDIT, AuditSteps
from .broadcast import BROADCAST, BroadcastSteps
from .reset_all import FLUSH, UserResetSteps
from .rewrite import REWRITE, RewriteSteps
from .runner import JobSteps
from .user_batch import CountUsers


@dataclass(frozen=True, slots=True)
class JobTools:
    """The objects that the steps of jobs need. ``count_users``: counts the served users by kind and outcome."""

    store: Store
    clock: Clock
    limits: Limits
    count_users: CountUsers = lambda kind, outcome, number: None


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job.

    ``scopes``: a service key with one of them may start, see and cancel such a job. ``steps``: makes its steps.
    """

    name: str
    scopes: frozenset[str]
    steps: Callable[[JobTools], JobSteps]


def _flush(tools: JobTools) -> JobSteps:
    return UserResetSteps(tools.store.users, tools.store.agenda)


def _broadcast(tools: JobTools) -> JobSteps:
    return BroadcastSteps(tools.store, tools.clock, tools.limits, tools.count_users)


def _rewrite(tools: JobTools) -> JobSteps:
    return RewriteSteps(tools.store.deployment, tools.store.rewriting)


def _audit(tools: JobTools) -> JobSteps:
    return AuditSteps(tools.store.users, tools.store.agenda, tools.clock, tools.count_users)


JOB_KINDS: Final = {
    kind.name: kind
    for kind in (
        JobKind(FLUSH, frozenset({"admin"}), _flush),
        JobKind(AUDIT, frozenset({"admin"}), _audit),
        JobKind(BROADCAST, frozenset({"admin", "broadcast"}), _broadcast),
        JobKind(REWRITE, frozenset({"admin"}), _rewrite),
    )
}
"""All kinds, by name. A process of an older release does not claim jobs of unknown kinds."""


def job_steps(tools: JobTools) -> dict[str, JobSteps]:
    """Return the work of each kind of job, by name."""
    return {name: kind.steps(tools) for name, kind in JOB_KINDS.items()}
