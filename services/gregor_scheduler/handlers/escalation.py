"""Decides which pushes and e-mails of an item are sent, from the state at this moment (semantics.md L15)."""

from __future__ import annotations

import asyncio

from gregor.core.notify import escalation
from gregor.core.notify.aggregation import is_summary
from gregor.core.notify.escalation import EscalationDecision, NotificationCause
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.agenda import CompletedWork, DueWork, WorkKind
from gregor_scheduler.context import SchedulerContext

from .publishing import later_us, publish_intents


async def escalate(context: SchedulerContext, uid: str, work: DueWork) -> CompletedWork:
    """Decide which devices and addresses are notified, record the skipped ones, and publish the others.

    Intents above the share of the user are neither recorded nor published. They are decided again later.
    Raises ``AudiencePaced`` if the decision must wait, because the user has much presence.
    """
    context.publisher.raise_if_paused()
    context.categories.check_known()
    again_us = later_us(context.clock.now_us())
    # A device can cause hundreds of reminders a second, and each decision may be about 64 devices.
    if work.item is not None and context.publisher.is_above_share(work.kind, uid):
        return CompletedWork(work, again_us)
    decision = await _decide(context, uid, work)
    # Before they are planned: a record takes 0.2 KB for a month.
    intents, above = context.publisher.split_by_share(work.kind, decision.intents)
    skipped = await _record_skipped(context, uid, decision)
    completed = await publish_intents(context, work, (*intents, *skipped), has_share=True)
    return CompletedWork(work, again_us) if above else completed


async def _decide(context: SchedulerContext, uid: str, work: DueWork) -> EscalationDecision:
    item, now_us = work.item, context.clock.now_us()
    if item is None:
        return EscalationDecision()
    policy = context.categories.current.resolve(item.category)
    if not escalation.has_channels(policy):
        # The process that scheduled this knew of a channel: its categories may be newer than ours.
        await context.categories.refresh()
        policy = context.categories.current.resolve(item.category)
    audience = await context.audiences.read(uid, work.at_us, now_us)
    if work.kind is WorkKind.FOLLOW:
        cause = NotificationCause(IntentKind.REMIND, work.seq, work.at_us, work.n)
        wanted = ((policy.push, escalation.decide_pushes), (policy.email, escalation.decide_email))
        decisions = [
            decide(uid, item, cause, policy, audience, now_us) for channel, decide in wanted if channel is not None
        ]
        return sum(decisions, EscalationDecision())
    kind = IntentKind.SUMMARY if is_summary(item.id) else IntentKind.ITEM
    channel, decide = (
        (policy.push, escalation.decide_pushes)
        if work.kind is WorkKind.PUSH
        else (policy.email, escalation.decide_email)
    )
    # Presence counts from the creation of the item, not from the end of the delay.
    since_us = work.at_us - (channel.after_us if channel is not None else 0)
    return decide(uid, item, NotificationCause(kind, work.seq, since_us), policy, audience, now_us)


async def _record_skipped(context: SchedulerContext, uid: str, decision: EscalationDecision) -> list[Intent]:
    """Record skipped notifications with their reasons. Returns those that an interrupted attempt planned before.

    A planned delivery stays planned: the delivery service decides again just before sending. Above the share of the
    user, nothing is recorded.
    """
    if not decision.refused or not context.publisher.take_share_of_skipped(uid, len(decision.refused)):
        return []
    by_reason: dict[str, list[Intent]] = {}
    for intent, reason in decision.refused:
        by_reason.setdefault(reason, []).append(intent)
    plan, now_us = context.store.ledger.plan, context.clock.now_us()
    recorded = await asyncio.gather(
        *(plan(intents, DeliveryState.CANCELLED, reason, now_us) for reason, intents in by_reason.items())
    )
    new = [intent for each in recorded for intent in each.new]
    return [intent for intent, _ in decision.refused if intent not in new]
