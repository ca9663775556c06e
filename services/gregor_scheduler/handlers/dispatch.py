"""Dispatches due work to its handlers, and decides what is retried.

Every handler is idempotent. If a scheduler dies in the middle, the next one repeats the work when the lease expires.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.rate_limit import RateLimiter
from gregor.registries.versioned_cache import CacheUnavailable
from gregor.store.audience import AudiencePaced
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind
from gregor.store.contract.store import Unavailable
from gregor.telemetry import failure_log
from gregor_scheduler.context import SchedulerContext
from gregor_scheduler.delivery_publisher import QueueUnavailable

from .acknowledgements import publish_acknowledged
from .aggregation import DueWindows, end_window
from .delayed_messages import PaceExceeded, commit_delayed_message
from .escalation import escalate
from .failed_work import FailedWork
from .publishing import later_us
from .redelivery import republish_overdue
from .reminder_hold import ReminderHold
from .reminders import remind
from .webhook_events import publish_webhook_events
from .withdrawals import cancel_and_withdraw

# --- The bounds of one turn: a user with more work continues it behind the others who wait ---

MAX_WORK: Final = 64
"""Agenda entries of one user that are executed under one lease; the rest waits for the next claim."""
SLOW_TURN_S: Final = 0.3
"""A turn that takes longer ends after ``SLOW_TURN_WORK`` entries. Many users are then served, or a server is slow."""
SLOW_TURN_WORK: Final = 8
"""Fewer would cost more reads of the agenda than they save others time."""


@dataclass(slots=True)
class DueOutcome:
    """Completed work, and work that is retried at ``retry_us`` or later (0: none is).

    Work in neither list was removed from the agenda by the commit of its handler. ``attempts``: handlers that were
    called and could reach the store. ``paced_until_us``: time until which the delayed messages of the user wait (0:
    they do not wait). ``unavailable``: kinds of work that need what cannot be reached or is full; their other entries
    are not tried. ``is_user_away``: nothing of the user can be read. ``slow_at_s``: when the turn becomes slow
    (monotonic).
    """

    completed: list[CompletedWork] = field(default_factory=list)
    postponed: list[DueWork] = field(default_factory=list)
    retry_us: int = 0
    attempts: int = 0
    paced_until_us: int = 0
    unavailable: set[WorkKind] = field(default_factory=set)
    is_user_away: bool = False
    slow_at_s: float = float("inf")

    def is_turn_over(self, now_s: float) -> bool:
        """Return whether the other entries, also follow-up work, wait for the next claim of the user."""
        return self.attempts >= (SLOW_TURN_WORK if now_s >= self.slow_at_s else MAX_WORK)

    def postpone(self, work: DueWork, retry_us: int) -> None:
        """Leave an entry on the agenda until a time."""
        self.postponed.append(work)
        self.retry_us = min(self.retry_us or retry_us, retry_us)


class DueHandlers:
    """Executes due work.

    ``cleanup_limit`` throttles the cleanup of expired history. ``hold`` delays reminders after a reconnect.
    """

    def __init__(self, context: SchedulerContext, cleanup_limit: RateLimiter, hold: ReminderHold | None = None) -> None:
        self._context = context
        self._hold = hold
        self._cleanup_limit = cleanup_limit
        self._failed = FailedWork()
        self._logs = {kind: failure_log() for kind in WorkKind}

    async def handle(
        self, uid: str, works: Sequence[DueWork], lease_until_us: int, outcome: DueOutcome | None = None
    ) -> DueOutcome:
        """Execute the due work of a user in order of time. Work that failed before waits for the end of its backoff.

        A handler may return follow-up work that is due as well, for instance the next reminder of an item. It is
        executed at its place in that order. What is left when the turn is over stays on the agenda.

        ``outcome``: the outcome of earlier work under the same lease. The outcome of this work is added to it.
        """
        pending = [_ranked(work) for work in works]
        heapq.heapify(pending)
        outcome = DueOutcome() if outcome is None else outcome
        windows = DueWindows(self._context.store, uid, works)
        clock = self._context.clock
        while pending and not (outcome.is_user_away or outcome.is_turn_over(clock.monotonic())):
            work = heapq.heappop(pending)[-1]
            if retry_us := self._waits_until_us(uid, work, lease_until_us, outcome):
                outcome.postpone(work, retry_us)
                continue
            try:
                completed, follow_ups = await self._execute(uid, work, windows)
            except PaceExceeded as paced:
                self._count(work, "paced")
                outcome.paced_until_us = paced.retry_us
                outcome.postpone(work, paced.retry_us)
                continue
            except AudiencePaced as paced:
                self._count(work, "paced")
                # Moved, not postponed: each claim of the user reads the postponed entries, 200 of them in two seconds.
                # Presence before a mail then counts from a moment that is as much later.
                outcome.completed.append(CompletedWork(work, paced.retry_us))
                continue
            except Unavailable as error:
                outcome.postpone(work, lease_until_us)
                await self._note_unavailable(uid, work, error, outcome)
                continue
            except Exception:
                self._fail(uid, work, outcome, lease_until_us)
                continue
            self._complete(uid, work, completed, outcome)
            for follow_up in follow_ups:
                heapq.heappush(pending, _ranked(follow_up))
        return outcome

    async def _note_unavailable(self, uid: str, work: DueWork, error: Unavailable, outcome: DueOutcome) -> None:
        """Try no further entries of this kind, or none at all if the user's own data cannot be reached."""
        self._count(work, "unavailable")
        self._log(work, "due_work.postponed", "warning", reason=str(error))
        # Other entries, even of this kind, may not need the queue or the cache.
        if isinstance(error, QueueUnavailable | CacheUnavailable):
            return
        is_first = not outcome.unavailable
        outcome.unavailable.add(work.kind)
        if not is_first:
            return
        # Only another shard may be away, or the server may be full. What frees memory may be behind thousands of
        # entries that need some. This also finds out whether the user's own shard answers: each kind would wait for it.
        try:
            await self._context.store.users.commit_due(uid, self._context.clock.now_us())
        except Unavailable:
            outcome.is_user_away = True

    def _waits_until_us(self, uid: str, work: DueWork, lease_until_us: int, outcome: DueOutcome) -> int:
        """Return when this entry may be tried. 0: now.

        Otherwise at the end of the lease, at the end of its backoff, at the pace of its user, or after a reconnect.
        """
        if work.kind in outcome.unavailable:
            return lease_until_us
        if work.kind is WorkKind.DELAYED and outcome.paced_until_us:
            # A smaller message could pass, but the messages of a user stay in order.
            return outcome.paced_until_us
        if work.kind is WorkKind.REMIND and work.item is not None and self._hold is not None:
            held_us = self._hold.until_us(uid, work.item.expires_us)
            if held_us:
                return held_us
        retry_us = self._failed.retry_us(uid, work) if self._failed else 0
        return retry_us if retry_us > self._context.clock.now_us() else 0

    def _complete(self, uid: str, work: DueWork, completed: CompletedWork | None, outcome: DueOutcome) -> None:
        self._count(work, "done")
        late_us = max(0, self._context.clock.now_us() - work.at_us)
        self._context.metrics.lateness.labels(work.kind.name.lower()).observe(late_us / SECOND_US)
        outcome.attempts += 1
        if completed is not None:
            outcome.completed.append(completed)
        if self._failed:
            self._failed.discard(uid, work)

    def _fail(self, uid: str, work: DueWork, outcome: DueOutcome, lease_until_us: int) -> None:
        """Count and log the exception that is being handled, and postpone its work."""
        self._count(work, "failed")
        outcome.attempts += 1
        now_us = self._context.clock.now_us()
        retry_us = self._failed.add(uid, work, now_us, lease_until_us)
        outcome.postpone(work, retry_us)
        self._log(work, "due_work.failed", "error", retry_in_s=(retry_us - now_us) // SECOND_US, exc_info=True)

    def _log(self, work: DueWork, event: str, level: str, **fields: object) -> None:
        self._logs[work.kind].record(event, self._context.clock.monotonic(), level, kind=work.kind.name, **fields)

    def _count(self, work: DueWork, outcome: str) -> None:
        self._context.metrics.timers.labels(work.kind.name.lower(), outcome).inc()

    async def _execute(
        self, uid: str, work: DueWork, windows: DueWindows
    ) -> tuple[CompletedWork | None, list[DueWork]]:
        """Call the handler. Returns the completed work (``None``: a commit removed it) and follow-up work."""
        context = self._context
        match work.kind:
            case WorkKind.EXPIRE:
                await context.store.users.commit_due(uid, context.clock.now_us())
                return None, []
            case WorkKind.FORGET:
                return await self._clean_up(uid, work), []
            case WorkKind.DEVICES:
                next_us = await context.store.devices.forget_inactive(uid, context.clock.now_us())
                return CompletedWork(work, next_us), []
            case WorkKind.REMIND:
                return await remind(context, uid, work)
            case WorkKind.FOLLOW | WorkKind.PUSH | WorkKind.MAIL:
                return await escalate(context, uid, work), []
            case WorkKind.WINDOW:
                return await end_window(context, uid, work, windows), []
            case WorkKind.LEFT:
                both = [
                    await cancel_and_withdraw(context, uid, work),
                    await publish_webhook_events(context, uid, work),
                ]
                return CompletedWork(work, min((each.again_us for each in both if each.again_us), default=None)), []
            case WorkKind.OVERDUE:
                return await republish_overdue(context, uid, work), []
            case WorkKind.HIDDEN | WorkKind.SETTLED:
                return await publish_webhook_events(context, uid, work), []
            case WorkKind.ACKED:
                return await publish_acknowledged(context, uid, work), []
            case WorkKind.DELAYED:
                return await commit_delayed_message(context, uid, work), []

    async def _clean_up(self, uid: str, work: DueWork) -> CompletedWork | None:
        """Delete history beyond the retention, or postpone that if the rate limit of cleanups is reached."""
        clock = self._context.clock
        if not self._cleanup_limit.try_acquire(clock.monotonic()):
            return CompletedWork(work, later_us(clock.now_us()))
        await self._context.store.users.commit_due(uid, clock.now_us())
        return None


def _ranked(work: DueWork) -> tuple[bool, int, bytes, DueWork]:
    """Sort by due time; cleanup comes last, because its commit releases the lease."""
    return work.kind is WorkKind.FORGET, work.at_us, work.entry, work
