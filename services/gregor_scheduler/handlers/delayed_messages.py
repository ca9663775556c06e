"""Commits a delayed message at its time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Final

from msgspec.structs import replace

from gregor.core.errors import Problem
from gregor.core.limits import SECOND_US
from gregor.core.messages.cost import REDIS_UNIT_NS, redis_units
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_message
from gregor.core.messages.model import Commit, IgnoredReason, Message, Receipt
from gregor.core.messages.plan import plan
from gregor.core.rate_limit import delayed_bucket
from gregor.cpu_meter import CpuMeter
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor.store.delayed_senders import may_still_send
from gregor_scheduler.context import SchedulerContext

MIN_WAIT_US: Final = SECOND_US
"""Shortest wait of a user above the pace. Each retry reads all waiting entries: 1,000 of them take 3 ms."""


class PaceExceeded(Exception):
    """The due delayed messages of a user used up their Redis time. They may be retried at ``retry_us``."""

    def __init__(self, retry_us: int) -> None:
        super().__init__(retry_us)
        self.retry_us = retry_us


async def commit_delayed_message(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork | None:
    """Commit a message with the current time as its time stamp. The message id makes a repetition harmless.

    A rejection is final. It is counted, and logged at most once in ten seconds; so is an ignored creation. Returns
    ``None`` if the message was cancelled meanwhile. Raises ``PaceExceeded`` if the message must wait; until its commit
    it can be cancelled.
    """
    context.categories.check_known()
    stored = await context.store.agenda.delayed(uid, work.name)
    if stored is None:
        return CompletedWork(work)
    delayed = decode_delayed_message(stored)
    may_send = await may_still_send(context.store, uid, delayed, context.sender_keys.key)
    # Once: nested brackets of 250 KB take 50 ms.
    parsed = _parse(context, delayed) if may_send else None
    units = redis_units(parsed) if isinstance(parsed, Message) else 1
    await _take_redis_time(context, uid, units)
    if parsed is None:
        # Not if it changed since it was read: a sender with rights may have repeated it.
        if not await context.store.agenda.cancel_delayed(uid, work.name, stored):
            return None
        context.metrics.delayed_refused.labels("forbidden").inc()
        reason = "each device token that sent it was revoked, and each service key was deleted"
        _log(context, "delayed_message.dropped", "forbidden", reason)
        return CompletedWork(work)
    # From here on the message cannot be cancelled: its sender would hear that it is not committed.
    if not await context.store.agenda.claim_delayed(uid, work.name, stored):
        return None
    meter = CpuMeter(lambda: 0)  # counts only the time of Redis
    await meter.run(_commit(context, uid, parsed, delayed))
    if (excess := (meter.used_ns + meter.commit_ns) // REDIS_UNIT_NS - units) > 0:
        await context.store.access.charge_all(uid, (delayed_bucket(uid),), excess, context.clock.now_us())
    return CompletedWork(work)


async def _take_redis_time(context: SchedulerContext, uid: str, units: int) -> None:
    """Take the Redis time of a message from the user's bucket, which all schedulers share. Raises ``PaceExceeded``."""
    access, bucket, now_us = context.store.access, delayed_bucket(uid), context.clock.now_us()
    # The costliest messages are above the burst: they need a full bucket, and leave a debt.
    first = min(units, bucket.burst)
    left = await access.take_all(uid, (bucket,), first, now_us)
    if left.wait_s > 0:
        raise PaceExceeded(now_us + max(MIN_WAIT_US, round(left.wait_s * SECOND_US)))
    if units > first:
        await access.charge_all(uid, (bucket,), units - first, now_us)


def _parse(context: SchedulerContext, delayed: DelayedMessage) -> Message | Problem:
    """Return the message, or the reason why it will be rejected."""
    try:
        return delayed.message(context.limits)
    except Problem as problem:
        return problem


async def _commit(context: SchedulerContext, uid: str, parsed: Message | Problem, delayed: DelayedMessage) -> None:
    try:
        if isinstance(parsed, Problem):
            raise parsed
        now_us, categories = context.clock.now_us(), context.categories.current
        commit = plan(parsed, delayed.sender, now_us, context.epoch_seed(), context.limits, categories)
        # The user may have been deleted since the message was read.
        receipt = await _commit_under_own_id(context, uid, replace(commit, is_for_known=True), delayed)
    except Problem as problem:
        context.metrics.delayed_refused.labels(problem.code).inc()
        _log(context, "delayed_message.rejected", problem.code, problem.detail)
        return
    ignored = Counter(reason.value for _, reason in receipt.ignored if reason is not IgnoredReason.DUPLICATE)
    for code, count in ignored.items():
        context.metrics.delayed_ignored.labels(code).inc(count)
        reason = f"{count} of {len(commit.creations)} creations left no live item"
        _log(context, "delayed_message.ignored", code, reason)


async def _commit_under_own_id(context: SchedulerContext, uid: str, commit: Commit, delayed: DelayedMessage) -> Receipt:
    """Commit a message, also if another one with other content has used its id while it waited."""
    try:
        return await context.store.users.commit(uid, commit)
    except Problem as problem:
        if problem.code != "id_reused" or commit.message_id is None:
            raise
        # Gregor has accepted the message. No message of a sender has "#" in its id, so this one is free, and a
        # repetition of this commit is recognised by it.
        key = f"{commit.message_id.key}#{delayed.fingerprint or commit.message_id.content.hex()}"
        own_id = dataclasses.replace(commit.message_id, key=key)
        return await context.store.users.commit(uid, replace(commit, message_id=own_id))


def _log(context: SchedulerContext, event: str, code: str, reason: str) -> None:
    # Limited: devices can cause any number of these lines.
    context.delayed_log.record(event, context.clock.monotonic(), "warning", code=code, reason=reason)
