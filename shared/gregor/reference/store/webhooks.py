"""Executable specification: never runs in production. Webhooks."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.notify.webhook_events import Webhook
from gregor.store.contract.webhooks import MAX_WEBHOOKS, too_many

from .data import MemoryData


class MemoryWebhooks:
    """``contract.Webhooks`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data
        self._version = 0
        self._webhooks: dict[str, Webhook] = {}

    async def version(self) -> int:
        """See ``contract.Webhooks.version``."""
        return self._version

    async def all(self) -> tuple[int, Sequence[Webhook]]:
        """See ``contract.Webhooks.all``."""
        return self._version, tuple(webhook for _, webhook in sorted(self._webhooks.items()))

    async def put(self, webhook: Webhook, expected: int) -> bool:
        """See ``contract.Webhooks.put``."""
        if expected != self._version:
            return False
        if len(self._webhooks.keys() - {webhook.id}) >= MAX_WEBHOOKS:
            raise too_many()
        self._webhooks[webhook.id] = webhook
        self._changed()
        return True

    async def delete(self, webhook_id: str) -> bool:
        """See ``contract.Webhooks.delete``."""
        if self._webhooks.pop(webhook_id, None) is None:
            return False
        self._changed()
        return True

    def _changed(self) -> None:
        self._version += 1
        self._data.announce_webhooks(self._version)
