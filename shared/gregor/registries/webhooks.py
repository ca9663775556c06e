"""The webhooks of a deployment: a cache in every process, and the editor that creates and changes them.

A store records webhook events only if some webhook wants them. The cache therefore switches the recording on and off.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from gregor.core.ids import Prefixes
from gregor.core.notify.webhook_events import DELIVERY_EVENTS, REMOVAL_EVENTS, Webhook, WebhookEventType
from gregor.core.notify.webhook_signature import SECRET_BYTES, encode_secret
from gregor.redis.pubsub.contract import PubSub
from gregor.store.contract.store import ChangeTracker, Contended
from gregor.store.contract.webhooks import RecordedEvents, Webhooks
from gregor.store.service_keys import add_secret

from .versioned_cache import POLL_S, VersionedCache

_TRIES: Final = 8
_ID_BYTES: Final = 6


class _WebhookStore(Protocol):
    """The part of a store that the webhook registry uses."""

    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def webhooks_channel(self) -> str: ...
    @property
    def tracker(self) -> ChangeTracker | None: ...
    @property
    def recorded_events(self) -> RecordedEvents: ...

    async def ping(self) -> Mapping[str, float | None]: ...


class WebhookRegistry(VersionedCache):
    """The webhooks as this process knows them: ``current``. Switches the recording of webhook events in its store."""

    def __init__(self, store: _WebhookStore, subscriptions: PubSub | None = None, *, poll_s: float = POLL_S) -> None:
        super().__init__(store.webhooks_channel, store.ping, subscriptions, poll_s, store.tracker)
        self.version = 0
        self.current: Sequence[Webhook] = ()
        self._store = store
        self._refreshed_us = 0

    async def refresh_if_older_than(self, at_us: int, now_us: int) -> None:
        """Refresh unless the cache was refreshed after ``at_us``. Raises ``Unavailable``.

        Call this before an event of time ``at_us`` is matched: the process that recorded it knew at least the webhooks
        of that time. A refresh serves all events that happened before it.
        """
        if at_us >= self._refreshed_us:
            await self.refresh()
            self._refreshed_us = now_us

    def get(self, webhook_id: str) -> Webhook | None:
        """Return the webhook with this id, or ``None`` if the id is unknown."""
        return next((webhook for webhook in self.current if webhook.id == webhook_id), None)

    def wants(self, *types: WebhookEventType) -> bool:
        """Return whether at least one webhook wants events of at least one of these types."""
        return any(webhook.wants(event_type) for webhook in self.current for event_type in types)

    async def _load(self, *, is_forced: bool) -> None:
        if not is_forced and self.is_read and await self._store.webhooks.version() == self.version:
            return
        self.version, self.current = await self._store.webhooks.all()
        recorded = self._store.recorded_events
        recorded.removals = self.wants(*REMOVAL_EVENTS)
        recorded.acknowledgements = self.wants(WebhookEventType.ACKED)
        recorded.deliveries = self.wants(*DELIVERY_EVENTS)

    def _start_without_data(self) -> None:
        """Record every event. A scheduler drops those that no webhook wants, when the webhooks can be read."""
        recorded = self._store.recorded_events
        recorded.removals = recorded.acknowledgements = recorded.deliveries = True


class WebhookEditor:
    """Creates and changes webhooks. Each method returns the webhook as it is stored afterwards."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def create(
        self, url: str, events: Sequence[str] | None, prefixes: Prefixes, name: str | None, now_us: int
    ) -> Webhook:
        """Store a new webhook with a fresh signing secret. Raises ``Problem`` ``too_many``."""
        created = Webhook(
            id=f"wh_{secrets.token_hex(_ID_BYTES)}",
            url=url,
            secrets=((_new_secret(), None),),
            events=None if events is None else tuple(sorted(set(events))),
            prefixes=prefixes,
            name=name,
            created_us=now_us,
        )
        for _ in range(_TRIES):
            if await self._webhooks.put(created, await self._webhooks.version()):
                return created
        raise _contended()

    async def rotate(self, webhook_id: str, now_us: int, overlap_us: int) -> Webhook | None:
        """Add a new signing secret; the old one continues to sign for ``overlap_us``. ``None``: unknown webhook.

        Earlier secrets keep their expiry, so repeating a rotation does not cut off a receiver. At most
        ``service_keys.MAX_SECRETS`` sign at once; another rotation removes the oldest.
        """

        def rotated(webhook: Webhook) -> Webhook:
            return replace(webhook, secrets=add_secret(_new_secret(), webhook.secrets, now_us, overlap_us))

        return await self.change(webhook_id, rotated)

    async def disable(self, called: Webhook, now_us: int, why: str) -> Webhook | None:
        """Stop the calls of a webhook. ``None``: unknown webhook.

        ``called``: the webhook as it was called. If its URL was changed since, or it was enabled again, it stays
        enabled, because the reason concerns its earlier state.
        """

        def disabled(webhook: Webhook) -> Webhook:
            is_as_called = (webhook.url, webhook.enabled_us) == (called.url, called.enabled_us)
            if webhook.disabled_us is not None or not is_as_called:
                return webhook
            return replace(webhook, disabled_us=now_us, why_disabled=why)

        return await self.change(called.id, disabled)

    async def change(self, webhook_id: str, change: Callable[[Webhook], Webhook]) -> Webhook | None:
        """Replace a webhook by the result of ``change``. ``None``: unknown webhook. Raises ``Unavailable``.

        If another process changes the webhooks meanwhile, ``change`` is called again with the newer state.
        """
        for _ in range(_TRIES):
            version, stored = await self._webhooks.all()
            known = next((webhook for webhook in stored if webhook.id == webhook_id), None)
            if known is None:
                return None
            changed = change(known)
            if changed == known or await self._webhooks.put(changed, version):
                return changed
        raise _contended()


def _new_secret() -> str:
    return encode_secret(secrets.token_bytes(SECRET_BYTES))


def _contended() -> Contended:
    return Contended(f"The webhooks were changed by other processes {_TRIES} times in a row; try again.")
