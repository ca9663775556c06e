"""Fires a reminder: one commit announces it to the online devices of the user."""

from __future__ import annotations

from contextlib import suppress

from gregor.core.messages.model import Commit
from gregor.core.notify import escalation
from gregor.core.notify.intents import FRAME, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind
from gregor.store.contract.store import Unavailable
from gregor_scheduler.context import SchedulerContext


async def remind(context: SchedulerContext, uid: str, work: DueWork) -> tuple[CompletedWork | None, list[DueWork]]:
    """Commit a reminder. Returns as follow-ups the next reminder, if it is due too, and the push or e-mail of this one.

    The commit has no effect if the item is gone or the reminder was fired before, hence a repetition is harmless.
    """
    item, now_us = work.item, context.clock.now_us()
    if item is None:
        return CompletedWork(work), []
    policy = context.categories.current.resolve(item.category)
    # Without the categories, the follow-up is stored. It waits for them, and the devices do not.
    has_follow_up = not context.categories.is_known or escalation.has_channels(policy)
    commit = Commit(now_us, context.epoch_seed(), remind=(item.id, work.n), has_follow_up=has_follow_up)
    receipt = await context.store.users.commit(uid, commit)
    if receipt.is_unchanged:
        return CompletedWork(work), []
    await _record_reminder(context, uid, work, receipt.seq)
    follow_ups: list[DueWork] = []
    following = item.remind_at_us[work.n + 1 : work.n + 2]
    if following and following[0] <= now_us and (item.expires_us is None or following[0] < item.expires_us):
        follow_ups.append(DueWork(work.kind, work.name, following[0], work.entry, item, work.n + 1))
    # The commit stored this entry too; executing it now saves a claim.
    if has_follow_up:
        entry = f"n{item.id}\0{work.n}\0{receipt.seq}".encode()
        follow_ups.append(DueWork(WorkKind.FOLLOW, work.name, now_us, entry, item, work.n, receipt.seq))
    return None, follow_ups


async def _record_reminder(context: SchedulerContext, uid: str, work: DueWork, seq: int) -> None:
    """Record the reminder for the timeline. If the store is full, or the scheduler dies, only the timeline lacks it."""
    now_us = context.clock.now_us()
    fired = Intent(uid, work.name, IntentKind.REMIND, FRAME, "", work.n, seq, now_us)
    # It cannot be repeated: the reminder has fired.
    with suppress(Unavailable):
        await context.store.ledger.plan([fired], DeliveryState.SENT, None, now_us)
