"""Suppressed e-mail addresses in Redis, keyed by a hash: neither keys nor order reveal an address."""

from __future__ import annotations

from typing import Final

import msgspec

from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.suppressions import Suppression, hash_of
from gregor.store.documents import decode_document
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of
from gregor.store.redis.keys import Keys

_DECODER: Final = msgspec.json.Decoder(Suppression)


class RedisSuppressions:
    """``Suppressions`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys, *, allow_oom: bool = True) -> None:
        self._connection = connection
        self._keys = (keys.suppressed, keys.suppressed_order)
        self._suppress = scripts.load("deployment/suppress", flags="allow-oom" if allow_oom else "")
        self._list = scripts.load("deployment/list_suppressions", flags="allow-oom" if allow_oom else "")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._suppress, self._list)

    async def suppress(self, email: str, reason: str, now_us: int) -> Suppression:
        """See ``Suppressions.suppress``."""
        made = Suppression(email, reason, now_us)
        arguments = (hash_of(email), msgspec.json.encode(made), str(now_us))
        await result_of(self._connection.evalsha(self._suppress, self._keys, arguments))
        return made

    async def suppression(self, email: str) -> Suppression | None:
        """See ``Suppressions.suppression``."""
        raw = await result_of(self._connection.call("HGET", self._keys[0], hash_of(email)))
        return None if raw is None else decode_document(_DECODER, raw, "suppression")

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[Suppression]:
        """See ``Suppressions.listed``."""
        since, last = ("", "") if before is None else (str(before[0]), before[1])
        found = await result_of(self._connection.evalsha(self._list, self._keys, (str(limit), last, since)))
        return [decode_document(_DECODER, raw, "suppression") for raw in found if raw is not None]

    async def release(self, email: str) -> bool:
        """See ``Suppressions.release``."""
        return bool(await result_of(self._connection.evalsha(self._suppress, self._keys, (hash_of(email), "", "0"))))
