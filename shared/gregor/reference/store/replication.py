"""Executable specification: never runs in production. Replicas of the memory store, as a test wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gregor.core.errors import Problem
from gregor.store.contract.replication import ReplicationMark


class MemoryReplication:
    """``Replication`` without replicas. A test sets ``replicas``, and ``confirming``: how many of them answer."""

    def __init__(self) -> None:
        self.required = 1
        self.replicas = 0
        self.confirming = 0
        self.waits = 0

    async def prepare(self, uids: Sequence[str]) -> ReplicationMark:
        """See ``Replication.prepare``."""
        if self.replicas < self.required:
            raise Problem("no_replicas", f"The store has {self.replicas} replicas, and {self.required} must confirm.")
        return tuple(uids)

    async def confirm(self, mark: ReplicationMark) -> Mapping[str, int]:
        """See ``Replication.confirm``."""
        self.waits += 1
        return dict.fromkeys(mark if isinstance(mark, tuple) else (), self.confirming)
