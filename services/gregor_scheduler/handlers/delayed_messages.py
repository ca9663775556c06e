"""Commits a delayed message at its time."""

from __future__ import annotations

import structlog

from gregor.core.errors import Problem
from gregor.core.messages.delayed import decode_delayed_message
from gregor.core.messages.plan import plan
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext

_log = structlog.get_logger(__name__)


async def commit_delayed_message(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Commit a message with the current time as its time stamp. A rejection is final, logged and counted.

    The message id makes a repetition harmless.
    """
    stored = await context.store.agenda.delayed(uid, work.name)
    if stored is None:
        return CompletedWork(work)
    delayed = decode_delayed_message(stored)
    try:
        message = delayed.message(context.limits)
        now_us, categories = context.clock.now_us(), context.categories.current
        commit = plan(message, delayed.sender, now_us, context.epoch_seed(), context.limits, categories)
        await context.store.users.commit(uid, commit)
    except Problem as problem:
        context.metrics.delayed_refused.labels(problem.code).inc()
        _log.error("delayed_message.rejected", code=problem.code, reason=problem.detail)
    return CompletedWork(work)
