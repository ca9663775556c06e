"""Records intents in the delivery ledger and publishes them to the delivery queue."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gregor.core.limits import SECOND_US
from gregor.core.notify.intents import WEBHOOK, Intent
from gregor.core.notify.ledger import DeliveryState
from gregor.core.notify.webhook_events import WebhookEvent, webhook_intents
from gregor.store.contract.agenda import CompletedWork, DueWork
from gregor.tracing import names
from gregor.tracing.tracer import NOT_SAMPLED, SpanKind
from gregor_scheduler.context import SchedulerContext

SPREAD_US: Final = 600 * SECOND_US
"""Postponed work is retried at a random moment within this time."""


async def event_intents(context: SchedulerContext, events: Sequence[WebhookEvent]) -> list[Intent]:
    """Return the intents of events, for all webhooks that want them.

    An event that an earlier release wrote to the ledger keeps its earlier key, so it is published only once.
    """
    webhooks, now_us = context.webhooks.current, context.clock.now_us()
    intents = webhook_intents(events, webhooks, now_us)
    if not intents:
        return []
    # The ledger is deleted with its user, so it has no events of a deleted user with the same id.
    earlier = webhook_intents(events, webhooks, now_us, has_earlier_keys=True)
    unknown = set(await context.store.ledger.unknown(earlier))
    return [new if old in unknown else old for new, old in zip(intents, earlier, strict=True)]


async def publish_intents(
    context: SchedulerContext, work: DueWork, intents: Sequence[Intent], *, has_share: bool = False
) -> CompletedWork:
    """Record and publish intents. If a stream is full, the work is retried later, and decided again then.

    ``has_share``: the caller took the user's share for them. Otherwise those above the share wait in the queue.
    """
    if not intents:
        return CompletedWork(work)
    tracer = context.tracer
    if work.trace:
        span = tracer.resume_packed(work.trace, names.DUE_WORK, SpanKind.PRODUCER)
    else:
        span = tracer.start(names.DUE_WORK, SpanKind.PRODUCER)
    if span is not None:
        span.attributes |= {names.WORK: work.kind.name.lower(), names.INTENTS: len(intents)}
        intents = [replace(intent, traceparent=span.context.traceparent) for intent in intents]
    with span or NOT_SAMPLED:
        return await _record_and_publish(context, work, intents, has_share)


async def _record_and_publish(
    context: SchedulerContext, work: DueWork, intents: Sequence[Intent], has_share: bool
) -> CompletedWork:
    # The ledger comes first: a worker must find the record of an intent, and a lost queue can be restored from it.
    planned = await context.store.ledger.plan(intents, DeliveryState.PLANNED, None, context.clock.now_us())
    for intent in planned.given_up:
        context.metrics.dead.labels(intent.channel).inc()
    if len(planned.new) < len(intents) and intents[0].channel != WEBHOOK:
        # An earlier attempt planned them. With another time, a delivery would have a second entry that waits in the
        # queue, and that the removal of its item does not find.
        records = await context.store.ledger.of_item(intents[0].uid, intents[0].item)
        times_us = {each.intent.key: each.intent.at_us for each in records}
        intents = [replace(intent, at_us=times_us.get(intent.key, intent.at_us)) for intent in intents]
    if has_share:
        full = await context.publisher.publish(intents, has_share=True)
    else:
        # If the work were refused, it would be planned and refused again and again. Its item would keep its deliveries.
        most_waiting = context.limits.delivered_waiting
        full = await context.publisher.publish_in_turn(intents, context.clock.now_us(), most_waiting)
    await context.publisher.remove_waiting(planned.given_up)
    for intent in intents:
        if intent not in full:
            context.metrics.published.labels(intent.channel).inc()
    # Publishing the others again is harmless: the delivery service deduplicates intents by key.
    return CompletedWork(work, later_us(context.clock.now_us()) if full else None)


def later_us(now_us: int) -> int:
    """Return a random time within ``SPREAD_US``, which spreads the retries of a backlog."""
    return now_us + random.randrange(SECOND_US, SPREAD_US)
