"""Webhooks in Redis: one hash with a version, and a publication after each change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gregor.core.notify.webhook_events import Webhook
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.webhooks import MAX_WEBHOOKS, too_many
from gregor.store.documents import decode_document
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

_WEBHOOK: Final = msgspec.json.Decoder(Webhook)
_VERSION: Final = b"version"
"""A field of the hash beside the webhooks; no webhook id has this form."""


class RedisWebhooks:
    """``Webhooks`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._put = scripts.load("deployment/put_webhook")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._put,)

    async def version(self) -> int:
        """See ``Webhooks.version``."""
        return int(await result_of(self._connection.call("HGET", self._keys.webhooks, _VERSION)) or 0)

    async def all(self) -> tuple[int, Sequence[Webhook]]:
        """See ``Webhooks.all``."""
        raw = await result_of(self._connection.call("HGETALL", self._keys.webhooks))
        fields = {bytes(raw[i]): bytes(raw[i + 1]) for i in range(0, len(raw), 2)}
        version = int(fields.pop(_VERSION, b"0"))
        return version, tuple(decode_document(_WEBHOOK, kept, "webhook") for _, kept in sorted(fields.items()))

    async def put(self, webhook: Webhook, expected: int) -> bool:
        """See ``Webhooks.put``."""
        written = await self._change(webhook.id, str(expected), msgspec.json.encode(webhook))
        if written < 0:
            raise too_many()
        return written == 1

    async def delete(self, webhook_id: str) -> bool:
        """See ``Webhooks.delete``."""
        return await self._change(webhook_id, "", b"") == 1

    async def _change(self, webhook_id: str, expected: str, after: bytes) -> int:
        arguments = (webhook_id, expected, after, str(MAX_WEBHOOKS), self._keys.webhooks_channel)
        return int(await result_of(self._connection.evalsha(self._put, (self._keys.webhooks,), arguments)))
