"""Delivery end to end: from the stream over the ledger to a provider in another process, and back."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, cpu_s, pin
from tests.bench.report import Result, print_result
from tests.bench.sockets import redis_cpu_s
from tests.support.cluster import Cluster
from tests.support.direct_scheduler import DirectScheduler, direct_scheduler
from tests.support.flaky_provider_process import running
from tests.support.load_users import LoadUser, register_users
from tests.support.wait import wait_until

TARGETS = {"apns": 3_000, "fcm": 1_000, "email": 300, "webpush": None}
COUNTS = {"apns": 10_000, "fcm": 5_000, "email": 2_000, "webpush": 2_000}
WARM = 200
LONGEST_S = 300


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of one channel. `own_s`, `redis_s`: CPU seconds of the delivery process and of Redis."""

    count: int
    wall_s: float
    own_s: float
    redis_s: float


def run(quick: bool = False) -> list[Result]:
    """Return intents for each CPU second of delivery, by channel."""
    found = []
    for channel, target in TARGETS.items():
        count = COUNTS[channel] // (5 if quick else 1)
        best = min((measure(channel, count) for _ in range(1 if quick else 2)), key=lambda each: each.own_s)
        a_core = best.count / best.own_s
        beside = f"{best.count / best.wall_s:,.0f}/s, Redis {1e6 * best.redis_s / best.count:.0f} µs each"
        words, is_met = ("-", None) if target is None else (f"≥ {target:,}", a_core >= target)
        found.append(
            print_result(Result(f"whole way of {channel}, a core", a_core, "intents/CPU-s", words, is_met, beside))
        )
    return found


def measure(channel: str, count: int) -> Run:
    """Run one process with one channel and one item for each user. Raises RuntimeError if a message did not arrive."""
    people = [LoadUser(f"u{n}", (channel,)) for n in range(count + WARM)]
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with running(directory / "providers", len(people) if channel == "webpush" else 0) as providers:
            settings: dict[str, Any] = {**providers.settings, "log_level": "warning"}
            with Cluster(directory / "c", gateways=0, ingests=0, deliveries=1, **settings) as cluster:
                pin(cluster.deliveries[0].pid, UNDER_TEST)
                pin(providers.process.pid, BESIDE)
                found = asyncio.run(_measure(cluster, channel, people, providers.browsers))
        arrived = {each.uid for each in providers.seen() if each.fate == "arrived"}
    if len(arrived) != len(people):
        raise RuntimeError(f"{len(people)} intents, {len(arrived)} arrived")
    return found


async def _measure(cluster: Cluster, channel: str, people: list[LoadUser], browsers: list[dict[str, object]]) -> Run:
    delivery, url = cluster.deliveries[0].pid, cluster.server.url
    async with direct_scheduler(cluster) as scheduler:
        await register_users(scheduler.store, people, browsers)
        await scheduler.create(people, "a")
        intents = await scheduler.plan(people, "a", channel)
        await scheduler.enqueue(intents[:WARM])
        await _over(scheduler, channel)
        own_s, redis_s, began = cpu_s(delivery), redis_cpu_s(url), time.perf_counter()
        await scheduler.enqueue(intents[WARM:])
        await _over(scheduler, channel)
        wall_s = time.perf_counter() - began
        return Run(len(intents) - WARM, wall_s, cpu_s(delivery) - own_s, redis_cpu_s(url) - redis_s)


async def _over(scheduler: DirectScheduler, channel: str) -> None:
    await wait_until(lambda: scheduler.open_entries(channel) == 0, "all is sent", LONGEST_S)
