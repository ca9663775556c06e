"""Dead letters in Redis: a set by time for each partition, beside the ledgers that it names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final

from gregor.core.limits import Limits
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState, delivery_key, delivery_path, parse_delivery_path
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.dead_letters import DeadPage, Place
from gregor.store.redis import scripts
from gregor.store.redis.errors import answer, answers
from gregor.store.redis.keys import PARTITIONS, Keys

from .ledger import read_entry, write_entry

AT_FIRST: Final = 2
"""So many are asked of each partition at first: a page has few of one, unless many are of one user."""


class RedisDeadLetters:
    """``dead_letters.DeadLetters`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys, limits: Limits, *, allow_oom: bool = True) -> None:
        flags = "allow-oom" if allow_oom else ""
        self._connection = connection
        self._keys = keys
        self._life_us = limits.retention_us
        self._page = scripts.load("ledger/dead_letter_page", flags=flags)
        self._drop = scripts.load("ledger/drop_dead_letters", flags=flags)
        self._replay = scripts.load("ledger/replay_dead", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """Every script, for a process that loads them before it serves."""
        return (self._page, self._drop, self._replay)

    async def page(self, before: Place | None, limit: int, channel: str | None, now_us: int) -> DeadPage:
        """See ``dead_letters.DeadLetters.page``: partitions of which so much is shown that there may be more are asked
        a second time."""
        at_us, path = ("+inf", "") if before is None else (str(before[0]), before[1])
        arguments = (at_us, path, str(now_us - self._life_us), _end(channel))
        most = limit + 1
        few = min(most, AT_FIRST)
        places = await self._latest(range(PARTITIONS), few, arguments)
        shown = _merged(places.values(), most)
        hidden = [each for each, known in places.items() if len(known) == few < most and known[-1] >= shown[-1]]
        shown = _merged((places | await self._latest(hidden, most, arguments)).values(), most)
        return DeadPage(await self._letters(shown[:limit]), shown[limit - 1] if len(shown) > limit else None)

    async def _latest(self, partitions: Iterable[int], most: int, arguments: Sequence[str]) -> dict[int, list[Place]]:
        """Of each partition the latest, at most so many."""
        asked = list(partitions)
        found = await answers(
            self._connection.evalsha(self._page, (self._keys.dead(each),), (str(most), *arguments)) for each in asked
        )
        return {
            partition: [(int(float(raw[i + 1])), raw[i].decode()) for i in range(0, len(raw), 2)]
            for partition, raw in zip(asked, found, strict=True)
        }

    async def _letters(self, places: Sequence[Place]) -> tuple[DeliveryRecord, ...]:
        """What the ledger has of them; nothing where it forgot one."""
        intents = [parse_delivery_path(path) for _, path in places]
        raws = await answers(self._entry(intent) for intent in intents)
        found = (read_entry(intent, raw) for intent, raw in zip(intents, raws, strict=True) if raw is not None)
        return tuple(each for each in found if each.state is DeliveryState.DEAD)

    async def replay(self, intent: Intent, now_us: int) -> bool:
        """See ``dead_letters.DeadLetters.replay``: written only where nothing has changed since it was read."""
        raw = await answer(self._entry(intent))
        if raw is None:
            return False
        dead = read_entry(intent, raw)
        planned = write_entry(DeliveryRecord(intent, DeliveryState.PLANNED, dead.n, 0, dead.history.replayed(now_us)))
        names = (delivery_path(intent), str(now_us), str(self._life_us // 1_000), intent.uid, intent.item)
        arguments = (delivery_key(intent), raw, planned, *names, str(dead.history.planned_us))
        keys = (self._keys.deliveries(intent.uid, intent.item), *self._keys.of_user(intent.uid).replay)
        return bool(await answer(self._connection.evalsha(self._replay, keys, arguments)))

    async def drop(self, intent: Intent) -> None:
        """See ``dead_letters.DeadLetters.drop``."""
        await answer(self._connection.call("ZREM", self._keys.of_user(intent.uid).dead, delivery_path(intent)))

    async def purge(self, channel: str | None, before_us: int | None) -> int:
        """See ``dead_letters.DeadLetters.purge``."""
        arguments = ("+inf" if before_us is None else f"({before_us}", "", _end(channel))
        dropped = await answers(
            self._connection.evalsha(self._drop, (self._keys.dead(partition),), arguments)
            for partition in range(PARTITIONS)
        )
        return sum(map(int, dropped))

    def _entry(self, intent: Intent) -> asyncio.Future[Any]:
        return self._connection.call("HGET", self._keys.deliveries(intent.uid, intent.item), delivery_key(intent))


def _end(channel: str | None) -> str:
    """What the names of a channel's end with."""
    return "" if channel is None else f"/{channel}"


def _merged(places: Iterable[Sequence[Place]], most: int) -> list[Place]:
    """The latest of all, at most so many."""
    return sorted(chain.from_iterable(places), reverse=True)[:most]
