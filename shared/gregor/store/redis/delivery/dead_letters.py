"""Dead letters in Redis: one sorted set by time for each partition, beside the ledgers that it points to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, delivery_key, delivery_path, parse_delivery_path
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.dead_letters import DeadLetterPage, DeadLetterPosition
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of
from gregor.store.redis.keys import Keys

from .dead_letter_steps import DeadLetterRemoval, DeadLetterSearch
from .ledger_entries import decode_delivery, encode_delivery


class RedisDeadLetters:
    """``DeadLetters`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._keys = keys
        self._lifetime_us = limits.retention_us
        self._search = DeadLetterSearch(connection, keys, flags=flags)
        self._removal = DeadLetterRemoval(connection, flags=flags)
        self._replay = scripts.load("ledger/replay_dead", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (*self._search.all_scripts, *self._removal.all_scripts, self._replay)

    async def page(
        self, before: DeadLetterPosition | None, limit: int, channel: str | None, now_us: int
    ) -> DeadLetterPage:
        """See ``DeadLetters.page``."""
        found = await self._search.find(before, limit, _suffix(channel), now_us - self._lifetime_us)
        return DeadLetterPage(await self._read_deliveries(found.positions), found.after, found.is_partial)

    async def _read_deliveries(self, positions: Sequence[DeadLetterPosition]) -> tuple[DeliveryRecord, ...]:
        """Return the ledger entries of these positions; without those that the ledger no longer has."""
        intents = [parse_delivery_path(path) for _, path in positions]
        raws = await results_of(self._entry(intent) for intent in intents)
        found = (decode_delivery(intent, raw) for intent, raw in zip(intents, raws, strict=True) if raw is not None)
        return tuple(each for each in found if each.state is DeliveryState.DEAD)

    async def replay(self, intent: Intent, now_us: int) -> bool:
        """See ``DeadLetters.replay``. Written only if nothing changed since the entry was read."""
        raw = await result_of(self._entry(intent))
        if raw is None:
            return False
        dead = decode_delivery(intent, raw)
        planned = encode_delivery(
            DeliveryRecord(intent, DeliveryState.PLANNED, dead.n, 0, dead.history.replayed(now_us))
        )
        names = (delivery_path(intent), str(now_us), str(self._lifetime_us // 1_000), intent.uid, intent.item)
        arguments = (delivery_key(intent), raw, planned, *names, str(dead.history.planned_us))
        keys = (self._keys.deliveries(intent.uid, intent.item), *self._keys.of_user(intent.uid).replay)
        return bool(await result_of(self._connection.evalsha(self._replay, keys, arguments)))

    async def drop(self, intent: Intent) -> None:
        """See ``DeadLetters.drop``."""
        await result_of(self._connection.call("ZREM", self._keys.of_user(intent.uid).dead, delivery_path(intent)))

    async def purge(self, channel: str | None, before_us: int | None) -> int:
        """See ``DeadLetters.purge``."""
        before = "+inf" if before_us is None else f"({before_us}"
        keys = (self._keys.dead(partition) for partition in range(self._keys.partition_count))
        return await self._removal.remove(keys, before=before, suffix=_suffix(channel))

    def _entry(self, intent: Intent) -> asyncio.Future[Any]:
        return self._connection.call("HGET", self._keys.deliveries(intent.uid, intent.item), delivery_key(intent))


def _suffix(channel: str | None) -> str:
    """Return the suffix of the paths of a channel's deliveries."""
    return "" if channel is None else f"/{channel}"
