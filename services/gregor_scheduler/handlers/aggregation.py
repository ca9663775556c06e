"""Ends an aggregation window: one commit replaces many items by a summary (semantics.md, "Aggregation")."""

from __future__ import annotations

import secrets
from typing import Final

from gregor.core.errors import Problem
from gregor.core.notify.aggregation import aggregatable_items, aggregation_commit
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.aggregators import AggregatorFailed
from gregor_scheduler.context import SchedulerContext

_TRIES: Final = 4
"""Attempts if one of the items is removed between the read and the commit, or the summary is ignored."""


async def end_window(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Aggregate the items of a window. A new window opens only if newer items exist, or if the aggregation failed.

    If an aggregator fails, no item is lost: the items remain, and the next window includes them. If the summary is
    ignored, they wait for the window of a newer item.
    """
    context.categories.check_known()
    category, _, device = work.name.partition("\0")
    policy = context.categories.current.resolve(category)
    aggregate = policy.aggregate
    if aggregate is None:
        return CompletedWork(work)
    clock, log, salt = context.clock, context.aggregation_log, b""
    for _ in range(_TRIES):
        now_us = clock.now_us()
        next_window_us = now_us + aggregate.window_us
        seq, group = await context.store.agenda.category_items(uid, category, device or None)
        items = aggregatable_items(group, aggregate, now_us)
        if not items:
            return CompletedWork(work, next_window_us, seq)
        try:
            body = await context.aggregators.body(items, aggregate, context.limits)
            commit = aggregation_commit(items, body, policy, now_us, context.epoch_seed(), salt)
            receipt = await context.store.users.commit(uid, commit)
        except AggregatorFailed as error:
            context.metrics.aggregator_failures.labels(error.name).inc()
            log.record("aggregation.failed", clock.monotonic(), "error", category=category, reason=str(error))
            return CompletedWork(work, next_window_us)
        except Problem as problem:
            fields = {"category": category, "code": problem.code, "reason": problem.detail}
            log.record("aggregation.rejected", clock.monotonic(), "error", **fields)
            return CompletedWork(work, next_window_us)
        if not receipt.is_unchanged:
            context.metrics.folded.inc(len(items))
            # If another commit came between the read and this commit, its items need a new window.
            return CompletedWork(work, next_window_us, receipt.seq if receipt.seq == seq + 1 else None)
        if receipt.seq == seq:
            # All items are still there, so the summary was ignored: a client has used the derived id before. Or, if
            # the random id is ignored too, a dismissed interval includes the summary, but not its items.
            if salt:
                return CompletedWork(work, next_window_us, seq)
            salt = secrets.token_bytes(16)
    return CompletedWork(work, clock.now_us() + aggregate.window_us)
