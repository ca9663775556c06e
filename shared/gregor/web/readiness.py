"""Readiness of a process: the answer of ``/readyz`` (http.md, "Probes")."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from gregor.metrics.process import Metrics
from gregor.redis.pubsub import PubSub
from gregor.store.contract.store import Store, Unavailable

_log = structlog.get_logger(__name__)

FAILURES: Final = 3
"""Consecutive failures until the process is not ready: one lost packet must not remove it from the load balancer."""
PERIOD_S: Final = 4.0
"""Pause between two pings while the store answers."""
RETRY_S: Final = 0.5
"""Pause after a failure. With the timeouts, a store that hangs is noticed within 9 seconds."""
ANSWER_S: Final = 1.25
"""Timeout of one ping of the store."""


class Readiness:
    """Pings the store every four seconds. Not ready before the first success, after three failures, and when stopping.

    A process that stops is not ready, but serves until load balancers have noticed (``stopping``). Then it completes
    its work and accepts nothing new (``draining``). One shard of a cluster that answers is enough: the process is
    degraded then. If it were not ready, the users of all other shards would lose it, too.
    """

    def __init__(self, store: Store, metrics: Metrics, pubsub: PubSub | None = None) -> None:
        self._store = store
        self._metrics = metrics
        self._pubsub = pubsub
        self._failures = FAILURES
        self._shards: Mapping[str, float | None] = {}
        self._reads: dict[str, Callable[[], bool]] = {}
        self._needs: dict[str, Callable[[], bool]] = {}
        self.stopping = self.draining = False

    def expect(self, name: str, is_read: Callable[[], bool]) -> None:
        """Report data that every process reads at its start, until ``is_read`` is true.

        The process is ready without it: its shard of a cluster may be unreachable while others answer.
        """
        self._reads[name] = is_read

    def require(self, name: str, is_right: Callable[[], bool]) -> None:
        """Add a condition of this process: while ``is_right`` is false, it is not ready."""
        self._needs[name] = is_right

    @property
    def unread(self) -> list[str]:
        """The names of the data that was not read yet."""
        return [name for name, is_read in self._reads.items() if not is_read()]

    async def check(self) -> None:
        """Ping the store once and update the state."""
        try:
            async with asyncio.timeout(ANSWER_S):
                self._record(await self._store.ping())
        except (Unavailable, TimeoutError):
            self._failures += 1
            self._record(dict.fromkeys(self._shards))
        else:
            self._failures = 0
        self._metrics.ready.set(self.is_ready)
        if (own := self._store.deployment.own) is not None:
            formats = {"reads_from": own.reads[0], "reads_to": own.reads[1], "writes": own.writes}
            for use, number in formats.items():
                self._metrics.formats.labels(use).set(number)

    @property
    def pings(self) -> Mapping[str, float | None]:
        """The round trip of the last ping to each server, in seconds; ``None`` if the server did not answer."""
        return self._shards

    def _record(self, shards: Mapping[str, float | None]) -> None:
        """Keep which shards answer, publish it in the metrics, and log each change."""
        for server, answered_s in shards.items():
            is_there = answered_s is not None
            if (self._shards.get(server, 0.0) is not None) != is_there:
                _log.warning("redis.shard_back" if is_there else "redis.shard_away", server=server)
        self._shards = shards
        reachable = sum(answered_s is not None for answered_s in shards.values())
        self._metrics.shards_reachable.set(reachable)
        self._metrics.degraded.set(reachable < len(shards) or bool(self.unread))

    async def watch(self) -> None:
        """Check until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(RETRY_S if self._failures else PERIOD_S)

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer may send requests to this process."""
        is_subscribed = self._pubsub is None or self._pubsub.healthy
        return (
            self._failures < FAILURES
            and is_subscribed
            and not self.stopping
            and all(each() for each in self._needs.values())
        )

    def document(self) -> dict[str, Any]:
        """Return the body of ``/readyz``."""
        redis = "ok" if self._failures == 0 else "late" if self._failures < FAILURES else "down"
        probe = "ok" if self._pubsub is None else self._pubsub.status
        checks: dict[str, Any] = {"redis": redis, "probe": probe, "draining": self.stopping}
        checks |= {name: "ok" if is_right() else "off" for name, is_right in self._needs.items()}
        if len(self._shards) > 1:
            # In the order of their slots, without addresses: strangers may read this document. The log names them.
            checks["shards"] = ["away" if answered_s is None else "ok" for answered_s in self._shards.values()]
        if unread := self.unread:
            checks["unread"] = unread
        return {"ready": self.is_ready, "checks": checks}
