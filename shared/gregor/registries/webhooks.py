"""The webhooks that hold now, in every process: heard of within a second. And how they are made and changed.

Whoever commits asks the store to note what webhooks want to hear of; where nobody does, nothing is noted, and it costs
nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from gregor.core.ids import Prefixes
from gregor.core.notify.webhook_events import OF_DELIVERIES, OF_LEAVING, EventType, Webhook
from gregor.core.notify.webhook_signature import SECRET_BYTES, secret_of
from gregor.redis.pubsub.contract import Subscriptions
from gregor.store.contract.ledger import Ledger
from gregor.store.contract.store import Devices, Unavailable, Users
from gregor.store.contract.webhooks import Webhooks

from .versioned_cache import CHECK_S, VersionedCache

_TRIES: Final = 8
_ID_BYTES: Final = 6


class _Store(Protocol):
    """What the registry needs of a store."""

    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def webhooks_channel(self) -> str: ...
    @property
    def users(self) -> Users: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def ledger(self) -> Ledger: ...


class WebhookRegistry(VersionedCache):
    """What a process holds of the webhooks: ``current``; the store of the process notes what they want to hear of."""

    def __init__(self, store: _Store, feed: Subscriptions | None = None, *, check_s: float = CHECK_S) -> None:
        super().__init__(store.webhooks_channel, feed, check_s)
        self.version = 0
        self.current: Sequence[Webhook] = ()
        self._store = store
        self._looked_us = 0

    async def as_of(self, at_us: int, now_us: int) -> None:
        """Take over what held at ``at_us`` or later: of what happened then, some process knew who wants to hear of it.

        One look a moment, however much happened before it.
        """
        if at_us >= self._looked_us:
            await self.refresh()
            self._looked_us = now_us

    def get(self, webhook_id: str) -> Webhook | None:
        """One of them."""
        return next((webhook for webhook in self.current if webhook.id == webhook_id), None)

    def wants(self, *kinds: EventType) -> bool:
        """Whether any of them wants events of one of these types."""
        return any(webhook.wants(kind) for webhook in self.current for kind in kinds)

    async def _refresh(self) -> None:
        if await self._store.webhooks.version() == self.version:
            return
        self.version, self.current = await self._store.webhooks.all()
        self._store.users.is_watched = self.wants(*OF_LEAVING)
        self._store.devices.is_watched = self.wants(EventType.ACKED)
        self._store.ledger.is_watched = self.wants(*OF_DELIVERIES)


class WebhookEditor:
    """Changes of the webhooks. What a caller gets back is what is kept."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def create(
        self, url: str, events: Sequence[str] | None, prefixes: Prefixes, name: str | None, now_us: int
    ) -> Webhook:
        """A new webhook with a secret of its own. Raises ``Problem`` ``too_many``."""
        made = Webhook(
            id=f"wh_{secrets.token_hex(_ID_BYTES)}",
            url=url,
            secrets=((_new_secret(), None),),
            events=None if events is None else tuple(sorted(set(events))),
            prefixes=prefixes,
            name=name,
            created_us=now_us,
        )
        for _ in range(_TRIES):
            if await self._webhooks.put(made, await self._webhooks.version()):
                return made
        raise _restless()

    async def rotate(self, webhook_id: str, now_us: int, keep_us: int) -> Webhook | None:
        """A new secret, the first of its secrets; the old one signs ``keep_us`` more. ``None``: no such webhook.

        A secret that is already on its way out goes at once.
        """

        def rotated(webhook: Webhook) -> Webhook:
            old = tuple((known, now_us + keep_us) for known, until_us in webhook.secrets if until_us is None)
            return replace(webhook, secrets=((_new_secret(), None), *old))

        return await self.change(webhook_id, rotated)

    async def disable(self, webhook_id: str, now_us: int, why: str) -> Webhook | None:
        """It is called no more. ``None``: no such webhook."""

        def disabled(webhook: Webhook) -> Webhook:
            if webhook.disabled_us is not None:
                return webhook
            return replace(webhook, disabled_us=now_us, why_disabled=why)

        return await self.change(webhook_id, disabled)

    async def change(self, webhook_id: str, change: Callable[[Webhook], Webhook]) -> Webhook | None:
        """Put what ``change`` makes of it in its place. ``None``: no such webhook."""
        for _ in range(_TRIES):
            version, kept = await self._webhooks.all()
            known = next((webhook for webhook in kept if webhook.id == webhook_id), None)
            if known is None:
                return None
            changed = change(known)
            if changed == known or await self._webhooks.put(changed, version):
                return changed
        raise _restless()


def _new_secret() -> str:
    return secret_of(secrets.token_bytes(SECRET_BYTES))


def _restless() -> Unavailable:
    return Unavailable("the webhooks are being changed by others again and again")
