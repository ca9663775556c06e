"""Problems of callers that fail authentication or lack a permission, with the label of their metric."""

from __future__ import annotations

from dataclasses import dataclass

from gregor.core.errors import Problem

from .device_tokens import TokenExpired


@dataclass(eq=False)
class AccessProblem(Problem):
    """A request that fails authentication or lacks a permission. ``reason``: the label of its metric.

    ``key_id``: the service key, if it is valid but lacks the permission. It is logged.
    """

    reason: str = ""
    key_id: str | None = None


def failure_reason(problem: Problem, default: str) -> str:
    """Return the label of ``gregor_auth_failures_total``, also logged. ``default``: for problems of other kinds."""
    if isinstance(problem, AccessProblem):
        return problem.reason
    if problem.code == "unauthorised":
        return "token_expired" if isinstance(problem, TokenExpired) else "token_invalid"
    return default
