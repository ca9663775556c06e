"""Commits and reads in Redis: CPU µs of its main thread for each operation, beside seven plain calls in the same run.

The shapes take turns, and the minimum over the rounds counts, because noise only adds time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from gregor.core.items.sync import Cursor, View, parse_cursor
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.store.redis.keys import Keys
from gregor.store.redis.store import RedisStore, open_store
from tests.bench.machine import BESIDE, UNDER_TEST, pin
from tests.bench.report import Result, print_result
from tests.bench.sockets import body_of, redis_cpu_s
from tests.support.servers import BINARIES, Server, running_server

from . import seqzset

LIMITS = Limits()
IN_FLIGHT = 16
CONNECTIONS = 8
USERS = 500
LIVE = 20
ITEM_BYTES = 300
NOW_US = 1_780_000_000_000_000
EPOCH = b"abc"
Job = tuple[str, Commit]
Act = Callable[[RedisStore, int], Awaitable[Any]]
_ids = (f"{number:016x}" for number in itertools.count(1))


def run(quick: bool = False) -> list[Result]:
    """Return the results of every shape on each kind of server that is installed."""
    return [result for binary in BINARIES for result in asyncio.run(measure(binary, 1 if quick else 5))]


async def measure(binary: str, rounds: int) -> list[Result]:
    least: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory, running_server(binary, Path(directory)) as server:
        pin(server.pid, UNDER_TEST)
        pin(os.getpid(), BESIDE)
        async with AsyncExitStack() as stack:
            stores = [await opened(stack, server) for _ in range(CONNECTIONS)]
            bench = Bench(server, stores)
            for _ in range(rounds):
                for name, shape in SHAPES.items():
                    server.say("FLUSHALL")
                    cost = await shape(bench)
                    least[name] = min(cost, least.get(name, cost))
    return [print_result(result) for result in judged(Path(binary).name.split("-")[0], least)]


async def opened(stack: AsyncExitStack, server: Server) -> RedisStore:
    store = await open_store(server.url, LIMITS)
    stack.push_async_callback(store.close)
    return store


class Bench:
    """A server, connections to it, and a meter of its CPU."""

    def __init__(self, server: Server, stores: Sequence[RedisStore]) -> None:
        self.server = server
        self.stores = stores
        self.users = [f"u{number:016x}" for number in range(USERS)]

    async def commits(self, jobs: Sequence[Job]) -> float:
        """Return CPU µs of Redis for each commit."""
        return await self.metered(len(jobs), lambda store, number: store.users.commit(*jobs[number]))

    async def metered(self, count: int, act: Act) -> float:
        """Return CPU µs of Redis for each of `count` calls, with a fixed number in flight on each connection."""
        numbers = iter(range(count))
        before = redis_cpu_s(self.server.url)
        await asyncio.gather(*(self._work(store, numbers, act) for store in self.stores))
        return 1e6 * (redis_cpu_s(self.server.url) - before) / count

    async def fill(self, live: int = LIVE, **members: Any) -> dict[str, list[str]]:
        """Create so many live items for each user, and return their ids."""
        ids: dict[str, list[str]] = {uid: [next(_ids) for _ in range(live)] for uid in self.users}
        jobs = [
            (uid, creation(*ids[uid][at : at + 100], **members)) for uid in self.users for at in range(0, live, 100)
        ]
        await self.commits(jobs)
        return ids

    async def _work(self, store: RedisStore, numbers: Iterable[int], act: Act) -> None:
        for first in numbers:
            chunk = [first, *itertools.islice(numbers, IN_FLIGHT - 1)]
            await asyncio.gather(*(act(store, number) for number in chunk))


def planned(body: dict[str, Any], sender: Sender | None = None) -> Commit:
    message = parse_message({"system": "gregor", "body": body}, LIMITS)
    return plan(message, sender or Sender(), NOW_US, EPOCH, LIMITS)


def creation(*ids: str, **members: Any) -> Commit:
    """Return a creation of items of 300 bytes, as announced."""
    item: dict[str, Any] = {"category": "user.joined", "body": body_of(0), **members}
    bare = planned({"create": {"i": item}}).creations[0].json
    item["body"] = body_of(ITEM_BYTES - len(bare))
    return planned({"create": dict.fromkeys(ids, item)})


async def yardstick(bench: Bench) -> float:
    text = creation("i").creations[0].json
    keys = Keys("gregor")
    channels = [keys.of_user(uid).channel for uid in bench.users]
    calls = [([channel], [next(_ids), text, 1_800_000_000]) for _ in range(LIVE + 15) for channel in channels]
    before, measured = calls[: LIVE * USERS], calls[LIVE * USERS :]
    # Both use the connections of the stores, which makes reading and writing cost the same.
    links = {id(store): store._connection for store in bench.stores}
    for chosen in (before, measured):
        cost = await bench.metered(
            len(chosen), lambda store, n, chosen=chosen: links[id(store)].evalsha(seqzset.SCRIPT, *chosen[n])
        )
    return cost


async def creates(bench: Bench, **members: Any) -> float:
    await bench.fill()
    return await bench.commits([(uid, creation(next(_ids), **members)) for _ in range(15) for uid in bench.users])


async def creates_with_timers(bench: Bench) -> float:
    return await creates(bench, times={"expires": "+86400", "remind_at": ["+3600", "+7200"]})


async def creates_for_a_device(bench: Bench) -> float:
    return await creates(bench, for_device="phone")


async def dismissals(bench: Bench) -> float:
    ids = await bench.fill()
    return await bench.commits([(uid, planned({"dismiss": {"ids": [ids[uid][n]]}})) for n in range(15) for uid in ids])


async def duplicates(bench: Bench) -> float:
    await bench.fill()
    again = [(uid, creation(next(_ids))) for uid in bench.users]
    await bench.commits(again)
    return await bench.commits(again * 15)


async def interval_hits(bench: Bench) -> float:
    await bench.fill(200)
    return await bench.commits([(uid, interval("user.joined")) for uid in bench.users]) / 200


async def interval_looks(bench: Bench) -> float:
    await bench.fill(200)
    jobs = [(uid, interval(f"other{n}")) for n in range(4) for uid in bench.users]
    return await bench.commits(jobs) / 200


def interval(category: str) -> Commit:
    return planned({"dismiss": {"intervals": [{"category": category}]}})


async def resumed(bench: Bench, changes: int | None) -> float:
    """Sync the backend's view after so many changes of 200 items; with None, read a full copy without a cursor."""
    await bench.fill(200)
    cursors = await heads(bench) if changes is not None else {}
    for _ in range(changes or 0):
        await bench.commits([(uid, creation(next(_ids))) for uid in bench.users])
    count = USERS * (8 if changes == 0 else 2)
    return await bench.metered(
        count,
        lambda store, n: store.users.sync(
            bench.users[n % USERS], View(), cursors.get(bench.users[n % USERS]), None, NOW_US
        ),
    )


async def heads(bench: Bench) -> dict[str, Cursor | None]:
    found = await bench.stores[0].users.heads(bench.users)
    return {
        uid: parse_cursor(f"{head.epoch.hex()}-{head.seq}")
        for uid, head in zip(bench.users, found, strict=True)
        if head
    }


async def unchanged(bench: Bench) -> float:
    return await resumed(bench, 0)


async def deltas(bench: Bench) -> float:
    return await resumed(bench, 10)


async def fulls(bench: Bench) -> float:
    return await resumed(bench, None) / 200


SHAPES: dict[str, Callable[[Bench], Awaitable[float]]] = {
    "seven plain calls": yardstick,
    "create": creates,
    "dismiss one id": dismissals,
    "duplicate": duplicates,
    "create with expiry, 2 reminders": creates_with_timers,
    "create for one device": creates_for_a_device,
    "interval, an item hit": interval_hits,
    "interval, an item looked at": interval_looks,
    "sync unchanged": unchanged,
    "sync delta of 10": deltas,
    "sync full, an item": fulls,
}
RATIOS = {
    "create": 1.3,
    "dismiss one id": 1.3,
    "duplicate": 1.0,
    "create with expiry, 2 reminders": 2.5,
    "create for one device": 2.5,
}
MICROSECONDS = {
    "interval, an item hit": 8.0,
    "interval, an item looked at": 0.5,
    "sync unchanged": 10.0,
    "sync delta of 10": 55.0,
    "sync full, an item": 2.2,
}


def judged(server: str, least: dict[str, float]) -> Iterable[Result]:
    yard = least["seven plain calls"]
    for name, most in RATIOS.items():
        target = f"≤ {most} × seven calls"
        beside = f"seven calls {yard:.1f} µs: {least[name] / yard:.2f} ×"
        yield Result(
            f"commit, {server}: {name}", least[name], "µs Redis CPU", target, least[name] <= most * yard, beside
        )
    for name, most in MICROSECONDS.items():
        yield Result(f"commit, {server}: {name}", least[name], "µs Redis CPU", f"≤ {most} µs", least[name] <= most)
