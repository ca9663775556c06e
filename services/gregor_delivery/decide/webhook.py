"""Decides whether a webhook is called for an event, and builds the call (docs/how-to/webhooks.md).

An event stays true whatever becomes of the item, so the user's state is not read: only the webhook, with its current
filter, and the health of its endpoint count.
"""

from __future__ import annotations

import random
from typing import Final

from gregor.clock import Clock
from gregor.core.limits import DAY_US, SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.notify.webhook_events import Webhook, is_wanted, webhook_and_call_id
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor_delivery.channels.contract import WebhookCall
from gregor_delivery.channels.verdict import RecipientGone, Retry
from gregor_delivery.throttle.webhook_endpoints import WebhookEndpoints

from .decision import Postpone, SendDecision, SendNow, Skip

RETRY_BUDGET_US: Final = DAY_US
"""How long an event waits for an endpoint that is down."""


class WebhookDecider:
    """`Decider` of webhook calls. `editor` disables a webhook whose endpoint answers 410."""

    def __init__(
        self, webhooks: WebhookRegistry, editor: WebhookEditor, clock: Clock, endpoints: WebhookEndpoints | None = None
    ) -> None:
        self._webhooks = webhooks
        self._editor = editor
        self._clock = clock
        self._endpoints = endpoints or WebhookEndpoints()

    async def decide(self, intent: Intent, now_us: int) -> SendDecision:
        """Decide from the registered webhooks and from the endpoint's recent responses. Raises `Unavailable`."""
        name, call_id = webhook_and_call_id(intent)
        webhook = self._webhooks.get(name)
        if webhook is None or webhook.disabled_us is not None or not is_wanted(webhook, intent):
            await self._webhooks.refresh()  # the scheduler may know a newer webhook than this process
            webhook = self._webhooks.get(name)
        if webhook is None or webhook.disabled_us is not None:
            self._endpoints.retain({each.id for each in self._webhooks.current})
            return Skip("webhook_gone")
        if not is_wanted(webhook, intent):
            return Skip("webhook_filter")
        wait_s = self._endpoints.wait_s(name, self._clock.monotonic(), intent.uid)
        if wait_s > 0.0:
            return self._postpone(name, intent, wait_s, now_us)
        return SendNow(
            compose=lambda _: _call(webhook, call_id, intent, now_us),
            on_gone=lambda gone: self._disable(webhook, gone),
            permit=self._endpoints.acquire(name, self._clock.monotonic(), intent.uid),
        )

    def _postpone(self, name: str, intent: Intent, wait_s: float, now_us: int) -> SendDecision:
        end_us = intent.at_us + RETRY_BUDGET_US
        if now_us + round(wait_s * SECOND_US) >= end_us:
            return Skip("budget", is_dead_letter=True)
        if self._endpoints.is_down(name):
            # Jitter: the calls that wait for one endpoint must not all return at once.
            shortest_s = self._endpoints.pause_s(name, self._clock.monotonic(), intent.uid)
            reason, pause_s = "receiver_down", random.uniform(shortest_s, 2 * shortest_s)
        else:
            reason, pause_s = "receiver_busy", self._endpoints.turn_s(name, self._clock.monotonic(), intent.uid)
        return Postpone(reason, min(now_us + round(pause_s * SECOND_US), end_us - 1))

    async def _disable(self, called: Webhook, gone: RecipientGone) -> bool | Retry:
        """Disable the webhook; retry the call if the webhook was moved or enabled again after the call began."""
        stored = await self._editor.disable(called, self._clock.now_us(), gone.status)
        await self._webhooks.refresh()
        if stored is not None and stored.disabled_us is None:
            return Retry(None, gone.status, "the webhook was changed during the call")
        return True


def _call(webhook: Webhook, call_id: str, intent: Intent, now_us: int) -> WebhookCall:
    return WebhookCall(webhook.id, webhook.url, webhook.signing(now_us), call_id, intent.event.encode())
