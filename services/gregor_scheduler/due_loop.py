"""The loop over due work: claim users with a lease, execute their due work, complete it.

Each scheduler serves the partitions that it owns (``PartitionShares``). As a deputy, it also serves a partition of
another scheduler whose work is late. A claim gives a user to exactly one scheduler. If that scheduler dies, its users
become due again when their lease expires.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import structlog

from gregor.clock import Clock
from gregor.core.limits import SECOND_US
from gregor.store.contract.agenda import Agenda, DueTimes, PolledDueTimes
from gregor.store.contract.store import Unavailable

from .handlers.dispatch import MAX_WORK, SLOW_TURN_S, DueHandlers, DueOutcome
from .metrics import SchedulerMetrics
from .partition_shares import Share

_log = structlog.get_logger(__name__)

# --- Batch sizes: a round stays within a fraction of the lease, even with a slow Redis ---

MAX_USERS: Final = 500
"""The most users that are served at the same time, without the slow ones."""
MAX_SLOW_USERS: Final = 500
"""The most slow users that leave their places to others. They need a dead shard, or have thousands of reminders."""
MAX_PARTITIONS: Final = 32
"""Partitions from which one batch of users is claimed."""

# --- Pauses between two rounds ---

MIN_PAUSE_S: Final = 0.1
"""Pause while work is due. A round reads only the partitions that have changed."""
MAX_PAUSE_S: Final = 0.5
"""New work may become due before all work that this process knows of."""
TAKEOVER_US: Final = 400_000
"""The first deputy serves a partition if its work has been due for this long, the second one after twice this time.
By then, its owner must be dead, suspended or overloaded."""
ERROR_PAUSE_S: Final = 1.0
"""Pause after a failed round."""
SLOW_USER_S: Final = 0.5
"""A round waits this long for its users. Slower ones (a hanging aggregator, a slow queue) finish in the background."""
SLOW_CLAIM_S: Final = 0.5
"""A round waits this long for its claims. One server of a cluster that hangs must not delay the users of the others."""
MIN_CLAIM_S: Final = 0.05
"""Each further batch of claims waits at least this long. Servers that answer need a millisecond."""


class DueLoop:
    """Executes due work while it is triggered: each ``tick`` runs rounds for a limited time.

    ``lease_us`` is the duration of a claim. It is also the first delay before postponed work is tried again.
    ``due_times``: when each partition is due (default: poll the agenda).
    ``may_claim``: whether this process may claim now: not with a wrong clock.
    """

    def __init__(
        self,
        agenda: Agenda,
        handlers: DueHandlers,
        clock: Clock,
        metrics: SchedulerMetrics,
        lease_us: int,
        due_times: DueTimes | None = None,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        self._agenda = agenda
        self._due_times = due_times or PolledDueTimes(agenda)
        self._lease_us = lease_us
        self._handlers = handlers
        self._clock = clock
        self._metrics = metrics
        self._may_claim = may_claim
        self._deputy: Mapping[int, int] = {}
        self._slice = asyncio.Lock()
        self._serving: set[asyncio.Task[None]] = set()
        self._slow: set[asyncio.Task[None]] = set()
        # The end of the lease of each user that is served now (µs).
        self._leases: dict[str, int] = {}
        # Claims that a slow server has not answered yet, by partition.
        self._claiming: dict[int, asyncio.Task[list[asyncio.Task[None]]]] = {}
        self._until_s = float("-inf")
        self.is_stopping = False
        metrics.users_in_progress.read_from(lambda: {(): len(self._serving)})

    def use_share(self, share: Share) -> None:
        """Serve this share from now on. Before the first call, all partitions are served as owned ones."""
        self._deputy = share.deputy
        self._due_times.watch(share.owned, share.deputy)

    async def tick(self, for_s: float = 1.0) -> bool:
        """Execute work that is due now, or becomes due within ``for_s`` seconds.

        If a tick is running already, that tick is extended to the same end, and ``False`` is returned at once.
        """
        self._until_s = max(self._until_s, self._clock.monotonic() + for_s)
        if self._slice.locked():
            return False
        async with self._slice:
            while not self.is_stopping:
                pause_s = await self._round()
                left_s = self._until_s - self._clock.monotonic()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(pause_s, left_s))
        return True

    async def stop(self) -> None:
        """Claim no more users; return when the work of all claimed users is completed."""
        self.is_stopping = True
        async with self._slice:
            await self._finish_serving()

    async def run_due(self) -> int:
        """Execute all work that is due now. Returns the number of users that were claimed."""
        count = 0
        while True:
            claimed, _ = await self._claim_and_serve()
            await self._finish_serving()
            if not claimed:
                return count
            count += claimed

    @property
    def _places(self) -> int:
        """The number of users that may be claimed now."""
        return MAX_USERS - len(self._serving) + min(len(self._slow), MAX_SLOW_USERS)

    # --- One round: find due partitions, claim users, serve them ---

    async def _round(self) -> float:
        """Run one round and return the pause before the next one, in seconds."""
        try:
            with self._metrics.tick_seconds.time():
                claimed, pause_s = await self._claim_and_serve()
            return 0.0 if claimed >= MAX_USERS else pause_s
        except Unavailable as error:
            _log.warning("due_work.store_unavailable", reason=str(error), retry_in_s=ERROR_PAUSE_S)
        except Exception:
            _log.exception("due_work.round_failed", retry_in_s=ERROR_PAUSE_S)
        return ERROR_PAUSE_S

    async def _claim_and_serve(self) -> tuple[int, float]:
        """Claim and serve a batch of users. Returns their number, and the pause before the next round in seconds."""
        if not self._may_claim():
            return 0, MAX_PAUSE_S
        now_us = self._clock.now_us()
        due_times = await self._due_times.refresh()
        due, next_us = self._due_partitions(due_times, now_us)
        oldest_us = min((at_us for at_us in due_times.values() if at_us is not None), default=now_us)
        self._metrics.due_lag.set(max(0, now_us - oldest_us) / SECOND_US)
        self._metrics.due_unknown.set(self._due_times.unknown)
        self._metrics.due_polled.set(self._due_times.polled)
        if not due:
            next_s = MAX_PAUSE_S if next_us is None else (next_us - now_us) / SECOND_US
            return 0, min(MAX_PAUSE_S, max(MIN_PAUSE_S, next_s))
        # Schedulers that visit partitions in the same order would compete for the same users.
        random.shuffle(due)
        tasks: list[asyncio.Task[None]] = []
        errors: list[BaseException] = []
        slow_at_s = asyncio.get_running_loop().time() + SLOW_CLAIM_S
        for start in range(0, len(due), MAX_PARTITIONS):
            if self.is_stopping or len(tasks) >= MAX_USERS or self._places <= 0:
                break
            tasks += await self._claim_partitions(due[start : start + MAX_PARTITIONS], slow_at_s, errors)
        await self._wait_for_users(tasks, errors)
        # Raised after the other partitions were served. One error is enough to report: the users that failed become
        # due again when their lease expires.
        if errors:
            raise errors[0]
        return len(tasks), MIN_PAUSE_S

    def _due_partitions(self, due_times: Mapping[int, int | None], now_us: int) -> tuple[list[int], int | None]:
        """Return the partitions to serve now, and when the next one is to be served (``None``: none is known)."""
        deputy, due, next_us = self._deputy, [], None
        for partition, at_us in due_times.items():
            if at_us is None:
                continue
            serve_us = at_us + deputy.get(partition, 0) * TAKEOVER_US
            if next_us is None or serve_us < next_us:
                next_us = serve_us
            if serve_us <= now_us and partition not in self._claiming:
                due.append(partition)
                if partition in deputy:
                    self._metrics.takeovers.inc()
        return due, next_us

    async def _claim_partitions(
        self, partitions: Sequence[int], slow_at_s: float, errors: list[BaseException]
    ) -> list[asyncio.Task[None]]:
        """Claim users of these partitions, and begin to serve them. Returns the tasks that serve them.

        Adds to ``errors``. Stops waiting for claims at ``slow_at_s``, a time of the event loop.
        """
        now_us = self._clock.now_us()
        limit = max(1, self._places // len(partitions))
        claims = {each: asyncio.create_task(self._claim(each, now_us, limit)) for each in partitions}
        self._claiming |= claims
        left_s = slow_at_s - asyncio.get_running_loop().time()
        await asyncio.wait(claims.values(), timeout=max(MIN_CLAIM_S, left_s))
        tasks: list[asyncio.Task[None]] = []
        for partition, claim in claims.items():
            if not claim.done():
                claim.add_done_callback(partial(self._end_slow_claim, partition))
                continue
            del self._claiming[partition]
            error = claim.exception()
            if error is None:
                tasks += claim.result()
            else:
                errors.append(error)
        return tasks

    async def _wait_for_users(self, tasks: Sequence[asyncio.Task[None]], errors: list[BaseException]) -> None:
        """Wait for the users of a round, except for the slow ones, and add their ``errors``."""
        if not tasks:
            return
        finished, slow = await asyncio.wait(tasks, timeout=SLOW_USER_S)
        self._leave_places(slow)
        errors += (error for task in finished if (error := task.exception()) is not None)

    async def _claim(self, partition: int, now_us: int, limit: int) -> list[asyncio.Task[None]]:
        """Claim users of a partition, and begin to serve each. Returns the tasks that serve them.

        If a user is still being served after its lease, the claim renews this lease.
        """
        lease_until_us = now_us + self._lease_us
        uids = await self._agenda.claim(partition, now_us, lease_until_us, limit)
        new = [uid for uid in uids if uid not in self._leases]
        self._leases |= dict.fromkeys(uids, lease_until_us)
        tasks = [asyncio.create_task(self._serve_user(uid, lease_until_us)) for uid in new]
        for task in tasks:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        return tasks

    def _end_slow_claim(self, partition: int, claim: asyncio.Task[list[asyncio.Task[None]]]) -> None:
        """Forget a claim that the round did not wait for, and log its failure and those of its users."""
        del self._claiming[partition]
        _log_failure(claim)
        if not claim.cancelled() and claim.exception() is None:
            self._leave_places(claim.result())

    def _leave_places(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Let users for which no round waits leave their places to others, and log their failures."""
        for task in tasks:
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)
            task.add_done_callback(_log_failure)

    async def _finish_serving(self) -> None:
        while pending := [*self._claiming.values(), *self._serving]:
            await asyncio.wait(pending)

    async def _serve_user(self, uid: str, lease_until_us: int) -> None:
        """Execute the due work of one user under the lease. Postponed work does not delay other work."""
        try:
            await self._execute_due_work(uid, lease_until_us)
        finally:
            del self._leases[uid]

    async def _execute_due_work(self, uid: str, lease_until_us: int) -> None:
        # If the server is replaced meanwhile, the work is executed again: a failover may have lost its effects.
        server = self._agenda.server_of(uid)
        now_us = self._clock.now_us()
        outcome = DueOutcome(slow_at_s=self._clock.monotonic() + SLOW_TURN_S)
        while True:
            skip = len(outcome.completed) + len(outcome.postponed)
            batch = await self._agenda.due_work(uid, now_us, MAX_WORK, skip)
            await self._handlers.handle(uid, batch, lease_until_us, outcome)
            if outcome.is_user_away:
                return  # nothing can be completed: the user is due again when the lease ends
            if len(batch) < MAX_WORK or outcome.is_turn_over(self._clock.monotonic()):
                break
        lease_until_us = self._leases[uid]
        retry_us = outcome.retry_us or lease_until_us
        now_us = self._clock.now_us()
        await self._agenda.complete(uid, lease_until_us, outcome.completed, outcome.postponed, retry_us, now_us, server)


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Log the failure of a task whose round did not wait. Its users become due again when the lease expires."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.warning("due_work.task_failed", reason=f"{type(error).__name__}: {error}")
