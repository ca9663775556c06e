"""The end of an aggregation window: many items become one, or stay as they are (semantics.md, "Aggregation")."""

from __future__ import annotations

from typing import Final

import structlog

from gregor.core.errors import Problem
from gregor.core.notify.aggregation import aggregatable_items, aggregation_commit
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.aggregators import AggregatorFailed
from gregor_scheduler.context import Parts

_log = structlog.get_logger(__name__)

_TRIES: Final = 4
"""How often a fold is planned anew because an item of it went meanwhile."""


async def end_window(parts: Parts, uid: str, work: DueWork) -> CompletedWork:
    """Fold what the window gathered. It opens again only for what came since, or where folding failed."""
    category, _, device = work.name.partition("\0")
    policy = parts.registry.current.resolve(category)
    aggregate = policy.aggregate
    if aggregate is None:
        return CompletedWork(work)
    for _ in range(_TRIES):
        now_us = parts.clock.now_us()
        again_us = now_us + aggregate.window_us
        seq, group = await parts.store.agenda.category_items(uid, category, device or None)
        items = aggregatable_items(group, aggregate, now_us)
        if not items:
            return CompletedWork(work, again_us, seq)
        try:
            body = await parts.aggregators.body(items, aggregate, parts.limits)
            receipt = await parts.store.users.commit(
                uid, aggregation_commit(items, body, policy, now_us, parts.epoch_seed())
            )
        except AggregatorFailed as failure:
            parts.figures.aggregator_failures.labels(failure.name).inc()
            _log.error("An aggregator failed; its items stay as they are.", category=category, reason=str(failure))
            return CompletedWork(work, again_us)
        except Problem as problem:
            _log.error("A summary is refused; its items stay as they are.", category=category, code=problem.code)
            return CompletedWork(work, again_us)
        if not receipt.is_unchanged:
            parts.figures.folded.inc(len(items))
            # Another commit between the reading and the fold may have brought what the fold did not see.
            return CompletedWork(work, again_us, receipt.seq if receipt.seq == seq + 1 else None)
    return CompletedWork(work, parts.clock.now_us() + aggregate.window_us)
