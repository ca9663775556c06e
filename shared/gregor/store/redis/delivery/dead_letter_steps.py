"""Search and removal of dead letters in Redis, in steps.

A partition may have hundreds of thousands of dead letters. One script that reads all of them would block the server, so
each call examines a part, and continues at a position.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from gregor.core.items.read_cost import DEAD_LETTER_NS
from gregor.cpu_meter import spend
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.reads import read_each_node
from gregor.store.contract.dead_letters import DeadLetterPosition
from gregor.store.redis import scripts
from gregor.store.redis.errors import results_of, results_of_reached
from gregor.store.redis.keys import Keys

_STEP_SIZE: Final = 500
"""Dead letters that the calls of one step examine, if they are those of few partitions."""
_LEAST_SIZE: Final = 20
"""Dead letters that each call of a step may examine, even if it is about many partitions."""
_FIRST_SIZE: Final = 2
"""Dead letters to read from each partition at first.

Few of one page are in the same partition, unless they are one user's.
"""
MOST_EXAMINED: Final = 10_000
"""Dead letters after which a search ends, even if it found too few."""


class FoundDeadLetters(NamedTuple):
    """Positions of dead letters, the latest first.

    ``after``: the position from which a search continues; ``None``: no other dead letter follows. ``is_partial``: see
    ``DeadLetterPage``.
    """

    positions: list[DeadLetterPosition]
    after: DeadLetterPosition | None
    is_partial: bool


class _Examined(NamedTuple):
    """The reply of one call. ``last``: the last position that was examined; ``None``: no other one follows."""

    entries: int
    last: DeadLetterPosition | None
    found: list[DeadLetterPosition]


class _Progress:
    """The state of a search.

    Attributes:
        found: The latest of the dead letters found so far.
        is_partial: A partition is missing.
        examined: Number of dead letters that were examined.
        unfinished: The partitions that may have more letters for the page, and the last position examined in each.
    """

    def __init__(self, partitions: Iterable[int], before: DeadLetterPosition | None, most: int) -> None:
        self._most = most
        self.found: list[DeadLetterPosition] = []
        self.is_partial = False
        self.examined = 0
        self.unfinished = dict.fromkeys(partitions, before or (sys.maxsize, ""))

    def add(self, asked: Iterable[int], replies: Mapping[int, _Examined]) -> None:
        """Add the replies of the partitions that were asked, if they have answered."""
        for partition in asked:
            reply = replies.get(partition)
            self.is_partial |= reply is None
            if reply is None or reply.last is None:
                del self.unfinished[partition]
            else:
                self.unfinished[partition] = reply.last
        self.examined += sum(reply.entries for reply in replies.values())
        found = chain(self.found, *(reply.found for reply in replies.values()))
        self.found = sorted(found, reverse=True)[: self._most]
        if len(self.found) == self._most:
            self.unfinished = {each: at for each, at in self.unfinished.items() if at > self.found[-1]}


class DeadLetterSearch:
    """Finds the latest dead letters of all partitions."""

    def __init__(self, connection: RedisCommands, keys: Keys, *, flags: str) -> None:
        self._connection = connection
        self._keys = keys
        self._page = scripts.load("ledger/dead_letter_rank", "ledger/dead_letter_page", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part."""
        return (self._page,)

    async def find(
        self, before: DeadLetterPosition | None, limit: int, suffix: str, oldest_us: int
    ) -> FoundDeadLetters:
        """Return up to ``limit`` dead letters after ``before`` and later than ``oldest_us``, whose names end so.

        They may be fewer, although others follow, if ``MOST_EXAMINED`` others come between them.
        """
        progress = _Progress(range(self._keys.partition_count), before, limit + 1)
        due, size = _latest_half(progress.unfinished), _LEAST_SIZE if suffix else _FIRST_SIZE
        while due and progress.examined < MOST_EXAMINED:
            # Without a suffix, each entry that is examined is found.
            most_examined = size if suffix else min(size, limit + 1)
            progress.add(due, await self._examine(due, limit + 1, str(oldest_us), suffix, str(most_examined)))
            due = _latest_half(progress.unfinished)
            size = max(_LEAST_SIZE, _STEP_SIZE // max(1, len(due)))
        spend(DEAD_LETTER_NS * progress.examined)
        found, is_partial = progress.found, progress.is_partial
        if due:
            # Dead letters before this position may be missing.
            after = max(progress.unfinished.values())
            return FoundDeadLetters([each for each in found if each >= after], after, is_partial)
        return FoundDeadLetters(found[:limit], found[limit - 1] if len(found) > limit else None, is_partial)

    async def _examine(
        self, positions: Mapping[int, DeadLetterPosition], most: int, *arguments: str
    ) -> dict[int, _Examined]:
        """Examine each partition from its position on. Return the replies of those whose server answers."""
        asked = list(positions)
        keys = [self._keys.dead(each) for each in asked]

        async def send(places: Sequence[int]) -> list[Any]:
            after = ((keys[n], *positions[asked[n]]) for n in places)
            calls = (
                self._connection.evalsha(self._page, (key,), (str(most), str(at_us), name, *arguments))
                for key, at_us, name in after
            )
            return await asyncio.gather(*calls, return_exceptions=True)

        reached = results_of_reached(await read_each_node(self._connection, keys, send))
        return {asked[place]: _decode(raw) for place, raw in reached.items()}


class DeadLetterRemoval:
    """Removes dead letters from the lists of partitions."""

    def __init__(self, connection: RedisCommands, *, flags: str) -> None:
        self._connection = connection
        self._drop = scripts.load("ledger/dead_letter_rank", "ledger/drop_dead_letters", flags=flags)

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part."""
        return (self._drop,)

    async def remove(self, keys: Iterable[str], *, before: str = "+inf", prefix: str = "", suffix: str = "") -> int:
        """Remove the dead letters of these lists whose names begin and end so. Return how many.

        ``before``: the bound of their times, as in ``ZCOUNT``.
        """
        due: dict[str, tuple[bytes | str, bytes | str]] = dict.fromkeys(keys, ("-inf", ""))
        removed = 0
        while due:
            size = max(_LEAST_SIZE, _STEP_SIZE // len(due))
            replies = await results_of(
                self._connection.evalsha(self._drop, (key,), (before, prefix, suffix, str(size), at, name))
                for key, (at, name) in due.items()
            )
            removed += sum(int(reply[0]) for reply in replies)
            spend(DEAD_LETTER_NS * sum(int(reply[1]) for reply in replies))
            due = {key: (reply[3], reply[2]) for key, reply in zip(due, replies, strict=True) if reply[2]}
        return removed


def _latest_half(positions: Mapping[int, DeadLetterPosition]) -> dict[int, DeadLetterPosition]:
    """Return the positions in the later half of their period: the next letters of a page are more likely after these.

    A search therefore does not read all partitions as far as one with many dead letters.
    """
    if not positions:
        return {}
    times = [at_us for at_us, _ in positions.values()]
    middle_us = (max(times) + min(times)) // 2
    return {each: position for each, position in positions.items() if position[0] >= middle_us}


def _decode(raw: Sequence[Any]) -> _Examined:
    entries, *names_and_times = raw
    last, *found = ((int(float(at or 0)), name.decode()) for name, at in _pairs(names_and_times))
    return _Examined(int(entries), last if last[1] else None, found)


def _pairs(raw: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(raw[::2], raw[1::2], strict=True)
