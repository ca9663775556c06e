"""Whether a webhook is still to be called, and the call (docs/how-to/webhooks.md).

What happened stays true: nothing of the user's state is looked at, only the webhook itself and how its receiver does.
"""

from __future__ import annotations

import random
from typing import Final

from gregor.clock import Clock
from gregor.core.limits import DAY_US, SECOND_US
from gregor.core.notify.intents import Intent
from gregor.core.notify.webhook_events import Webhook, webhook_and_call_id
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor_delivery.channels.contract import WebhookCall
from gregor_delivery.channels.verdict import RecipientGone
from gregor_delivery.throttle.webhook_endpoints import WebhookEndpoints

from .decision import SendDecision

USEFUL_US: Final = DAY_US
"""How long an event is tried to be told."""


class WebhookDecider:
    """`look.Decider` of webhooks. `editor` ends one whose receiver wants no more."""

    def __init__(
        self, webhooks: WebhookRegistry, editor: WebhookEditor, clock: Clock, receivers: WebhookEndpoints | None = None
    ) -> None:
        self._webhooks = webhooks
        self._editor = editor
        self._clock = clock
        self._receivers = receivers or WebhookEndpoints()

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """Decide from the webhooks of now, and from what became of the calls before. Raises `Unavailable`."""
        name, call_id = webhook_and_call_id(intent)
        webhook = self._webhooks.get(name)
        if webhook is None or webhook.disabled_us is not None:
            await self._webhooks.refresh()  # who handed it over knew of the webhook: it may be newer than ours
            webhook = self._webhooks.get(name)
        if webhook is None or webhook.disabled_us is not None:
            self._receivers.keep({each.id for each in self._webhooks.current})
            return SendDecision(skip_reasons="webhook_gone")
        wait_s = self._receivers.wait_s(name, self._clock.monotonic())
        if wait_s > 0.0:
            return self._wait(intent, wait_s, now_us)
        return SendDecision(
            compose=lambda _: _call(webhook, call_id, intent, now_us),
            forget=lambda gone: self._disable(webhook, gone),
            turn=self._receivers.began(name),
        )

    def _wait(self, intent: Intent, wait_s: float, now_us: int) -> SendDecision:
        """Later; not all that waits at once. What has waited for too long is somebody's to look at."""
        name, _ = webhook_and_call_id(intent)
        reason = "receiver_down" if self._receivers.is_down(name) else "receiver_busy"
        until_us = now_us + round((wait_s + random.uniform(0.0, wait_s)) * SECOND_US)
        if until_us >= intent.at_us + USEFUL_US:
            return SendDecision(skip_reasons="budget", is_dead=True)
        return SendDecision(skip_reasons=reason, until_us=until_us)

    async def _disable(self, webhook: Webhook, gone: RecipientGone) -> bool:
        await self._editor.disable(webhook.id, self._clock.now_us(), gone.status)
        await self._webhooks.refresh()
        return True


def _call(webhook: Webhook, call_id: str, intent: Intent, now_us: int) -> WebhookCall:
    return WebhookCall(webhook.id, webhook.url, webhook.signing(now_us), call_id, intent.event.encode())
