"""Memory of items in Redis: live with timers, gone without a body, and a user without live items."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from gregor.core.limits import Limits
from gregor.store.redis.store import RedisStore, open_store
from tests.bench.commit import NOW_US, creation, planned
from tests.bench.report import Result, print_result
from tests.bench.sockets import info
from tests.support.servers import BINARIES, Server, running_server

TIMES = {"expires": "+31536000", "remind_at": ["+345600", "+691200"]}
NO_BODIES = Limits(history_bodies=0)


def run(quick: bool = False) -> list[Result]:
    """Return the results for each kind of server that is installed."""
    return [result for binary in BINARIES for result in asyncio.run(measure(binary, 2_000 if quick else 5_000))]


async def measure(binary: str, users: int) -> list[Result]:
    name = Path(binary).name.split("-")[0]
    found = []
    with tempfile.TemporaryDirectory() as directory, running_server(binary, Path(directory)) as server:
        for live in (1, 5, 20):
            cost = await live_items(server, users, live) / live
            target = "≤ 700 bytes" if live >= 5 else "-"
            met = cost <= 700 if live >= 5 else None
            found.append(
                print_result(Result(f"memory, {name}: live item of {live} a user", cost, "bytes", target, met))
            )
        gone, empty = await gone_items(server, users)
        found.append(
            print_result(Result(f"memory, {name}: gone item, no body", gone, "bytes", "≤ 150 bytes", gone <= 150))
        )
        found.append(
            print_result(Result(f"memory, {name}: user, nothing live", empty, "bytes", "≤ 750 bytes", empty <= 750))
        )
    return found


async def live_items(server: Server, users: int, live: int) -> float:
    """Return bytes of a user with so many live items of 300 bytes, each with an expiry and two reminders."""
    async with AsyncExitStack() as stack:
        store, before = await fresh(stack, server)
        for first in range(0, users, 100):
            await store.users.commit_many(
                [
                    (f"u{number:016x}", creation(os.urandom(8).hex(), times=TIMES))
                    for number in range(first, min(users, first + 100))
                    for _ in range(live)
                ]
            )
        return (used(server) - before) / users


async def gone_items(server: Server, users: int) -> tuple[float, float]:
    """Return bytes of each further gone item without a body, and of a user with one gone item and no live item."""
    sizes = []
    for gone in (1, 41):
        async with AsyncExitStack() as stack:
            store, before = await fresh(stack, server)
            for number in range(users // 2):
                await leave(store, f"u{number:016x}", gone)
            sizes.append((used(server) - before) / (users // 2))
    return (sizes[1] - sizes[0]) / 40, sizes[0]


async def leave(store: RedisStore, uid: str, gone: int) -> None:
    """Create so many items for a user, dismiss them all, and let their bodies be collected."""
    ids = [os.urandom(8).hex() for _ in range(gone)]
    await store.users.commit_many([(uid, creation(*ids)), (uid, planned({"dismiss": {"ids": ids}}))])
    await store.users.collect(uid, NOW_US + 8 * 86_400_000_000)


async def fresh(stack: AsyncExitStack, server: Server) -> tuple[RedisStore, int]:
    """Return a store over an empty server, and the bytes that the server already uses.

    Each command runs once before the measurement: at its first use, the server allocates a latency histogram of about
    20 KiB (unless `latency-tracking` is off), which does not belong to a user.
    """
    server.say("FLUSHALL", "SYNC")
    store = await open_store(server.url, NO_BODIES)
    stack.push_async_callback(store.close)
    for gone in (1, 2):  # The fast path and the general path of a commit.
        await leave(store, f"warm{gone}", gone)
    await store.users.commit("warm", creation("warm", times=TIMES))
    return store, used(server)


def used(server: Server) -> int:
    return int(info(server.url, "memory")["used_memory"])
