"""Dead letters in Redis: one sorted set by time for each partition, beside the ledgers that it points to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, delivery_key, delivery_path, parse_delivery_path
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.reads import read_each_node
from gregor.store.contract.dead_letters import DeadLetterPage, DeadLetterPosition
from gregor.store.redis import scripts
from gregor.store.redis.errors import result_of, results_of, results_of_reached
from gregor.store.redis.keys import Keys

from .ledger_entries import decode_delivery, encode_delivery

_FIRST_READ: Final = 2
"""Dead letters to read from each partition at first.

Few of one page are in the same partition, unless they are one user's.
"""


class RedisDeadLetters:
    """``DeadLetters`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._keys = keys
        self._lifetime_us = limits.retention_us
        self._page = scripts.load("ledger/dead_letter_page", flags=flags)
        self._drop = scripts.load("ledger/drop_dead_letters", flags=flags)
        self._replay = scripts.load("ledger/replay_dead", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._page, self._drop, self._replay)

    async def page(
        self, before: DeadLetterPosition | None, limit: int, channel: str | None, now_us: int
    ) -> DeadLetterPage:
        """See ``DeadLetters.page``. Partitions that may have more letters for the page are read a second time."""
        at_us, path = ("+inf", "") if before is None else (str(before[0]), before[1])
        arguments = (at_us, path, str(now_us - self._lifetime_us), _suffix(channel))
        most = limit + 1
        first_read = min(most, _FIRST_READ)
        positions = await self._read_partitions(range(self._keys.partition_count), first_read, arguments)
        shown = _merge(positions.values(), most)
        # If a partition returned all that was asked for, it may hold more letters that belong on this page.
        exhausted = [
            each for each, known in positions.items() if len(known) == first_read < most and known[-1] >= shown[-1]
        ]
        second = await self._read_partitions(exhausted, most, arguments)
        shown = _merge((positions | second).values(), most)
        is_partial = len(positions) < self._keys.partition_count or len(second) < len(exhausted)
        letters = await self._read_deliveries(shown[:limit])
        return DeadLetterPage(letters, shown[limit - 1] if len(shown) > limit else None, is_partial)

    async def _read_partitions(
        self, partitions: Iterable[int], most: int, arguments: Sequence[str]
    ) -> dict[int, list[DeadLetterPosition]]:
        """Return the latest dead letters of each partition whose server answers, at most ``most``."""
        asked = list(partitions)
        if not asked:
            return {}
        keys = [self._keys.dead(each) for each in asked]

        async def send(places: Sequence[int]) -> list[Any]:
            calls = (self._connection.evalsha(self._page, (keys[n],), (str(most), *arguments)) for n in places)
            return await asyncio.gather(*calls, return_exceptions=True)

        reached = results_of_reached(await read_each_node(self._connection, keys, send))
        return {
            asked[place]: [(int(float(raw[i + 1])), raw[i].decode()) for i in range(0, len(raw), 2)]
            for place, raw in reached.items()
        }

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
        arguments = ("+inf" if before_us is None else f"({before_us}", "", _suffix(channel))
        dropped = await results_of(
            self._connection.evalsha(self._drop, (self._keys.dead(partition),), arguments)
            for partition in range(self._keys.partition_count)
        )
        return sum(map(int, dropped))

    def _entry(self, intent: Intent) -> asyncio.Future[Any]:
        return self._connection.call("HGET", self._keys.deliveries(intent.uid, intent.item), delivery_key(intent))


def _suffix(channel: str | None) -> str:
    """Return the suffix of the paths of a channel's deliveries."""
    return "" if channel is None else f"/{channel}"


def _merge(positions: Iterable[Sequence[DeadLetterPosition]], most: int) -> list[DeadLetterPosition]:
    """Return the latest positions of all, at most ``most``."""
    return sorted(chain.from_iterable(positions), reverse=True)[:most]
