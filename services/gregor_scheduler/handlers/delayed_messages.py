"""Commits a delayed message at its time."""

from __future__ import annotations

from msgspec.structs import replace

from gregor.core.errors import Problem
from gregor.core.ids import BACKEND
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_message
from gregor.core.messages.plan import plan
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor_scheduler.context import SchedulerContext


async def commit_delayed_message(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork | None:
    """Commit a message with the current time as its time stamp. A rejection is final and counted.

    The log has one of them in ten seconds.

    The message id makes a repetition harmless. Returns ``None`` if the message was cancelled meanwhile.
    """
    context.categories.check_known()
    stored = await context.store.agenda.delayed(uid, work.name)
    if stored is None:
        return CompletedWork(work)
    delayed = decode_delayed_message(stored)
    may_send = await _may_still_send(context, uid, delayed)
    # From here on the message cannot be cancelled: its sender would hear that it is not committed.
    if not await context.store.agenda.claim_delayed(uid, work.name, stored):
        return None
    if not may_send:
        context.metrics.delayed_refused.labels("forbidden").inc()
        _log(context, "delayed_message.dropped", "forbidden", "the device or the service key of its sender was revoked")
        return CompletedWork(work)
    await _commit(context, uid, delayed)
    return CompletedWork(work)


async def _commit(context: SchedulerContext, uid: str, delayed: DelayedMessage) -> None:
    try:
        message = delayed.message(context.limits)
        now_us, categories = context.clock.now_us(), context.categories.current
        commit = plan(message, delayed.sender, now_us, context.epoch_seed(), context.limits, categories)
        # The user may have been deleted since the message was read.
        await context.store.users.commit(uid, replace(commit, is_for_known=True))
    except Problem as problem:
        context.metrics.delayed_refused.labels(problem.code).inc()
        _log(context, "delayed_message.rejected", problem.code, problem.detail)


def _log(context: SchedulerContext, event: str, code: str, reason: str) -> None:
    # Devices can cause any number of these.
    context.delayed_log.record(event, context.clock.monotonic(), "warning", code=code, reason=reason)


async def _may_still_send(context: SchedulerContext, uid: str, delayed: DelayedMessage) -> bool:
    """Return whether the token of the sender is not revoked, and its key still exists."""
    if delayed.key_id:
        return await context.store.access.key(delayed.key_id) is not None
    if delayed.sender.device == BACKEND:
        return True
    revoked_us = await context.store.devices.revoked_before(uid, delayed.sender.device)
    return revoked_us is None or not delayed.is_revoked(revoked_us)
