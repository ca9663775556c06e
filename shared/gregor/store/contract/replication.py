"""Confirmation by replicas: whether a message that was committed also is in the memory of replicas (durability.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class ReplicationMark(Protocol):
    """The servers that execute the commits of some users, as they were before the commits. Opaque to callers."""


def replication_outcome(replicas: int, required: int) -> str:
    """Return the outcome of one confirmation: ``confirmed``, or ``not_replicated`` in time."""
    return "confirmed" if replicas >= required else "not_replicated"


class Replication(Protocol):
    """Waits for replicas. One call covers many users and costs one wait for each server, whatever their number.

    Call ``prepare`` before the commits and ``confirm`` after them.
    """

    @property
    def required(self) -> int:
        """How many replicas must have a message."""
        ...

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many confirmations had each outcome since the start, for metrics: see ``replication_outcome``.

        ``no_replicas`` counts the calls of ``prepare`` that were refused.
        """
        ...

    async def prepare(self, uids: Sequence[str]) -> ReplicationMark:
        """Remember the servers of these users. Raises ``Problem`` (``no_replicas``) if one has too few replicas.

        Raises ``Unavailable`` if a server cannot be asked; nothing has been committed then.
        """
        ...

    async def confirm(self, mark: ReplicationMark) -> Mapping[str, int]:
        """Return for each user how many replicas have everything that was committed before this call.

        0 if a server changed since ``prepare``, or if the replicas did not answer in time: the commits are valid, but
        nothing is known about replicas. Never raises for a server that does not answer.
        """
        ...
