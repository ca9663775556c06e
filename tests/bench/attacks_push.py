"""H7 of `tests.bench attacks`: push subscriptions whose origin cannot be reached, beside those of other users."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from gregor.core.notify.intents import WEBPUSH
from tests.bench.machine import rss_bytes
from tests.support.cluster import Cluster
from tests.support.direct_scheduler import DirectScheduler, direct_scheduler
from tests.support.flaky_provider_process import running
from tests.support.load_users import LoadUser, register_users

STEP_S = 0.06
"""Time from one push of a well-behaved user to the next."""
ATTACKS = 3
"""Pushes to dead subscriptions in a step: 50 a second, more than all tokens of a user may cause with messages."""
UNREACHABLE = "localhost:9"
ALICES = [LoadUser(f"alice{n}", (WEBPUSH,)) for n in range(40)]
MALLORIES = [LoadUser(f"mallory{n}", (WEBPUSH,)) for n in range(64)]

Measured = tuple[list[float], list[float], float, float, dict[str, Any]]
"""Milliseconds from publishing to arrival without and with the attack, MiB of delivery before and after, a report."""


def measure(seconds: float) -> Measured:
    """Push to alice for a while, then as long beside mallory."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with running(directory / "providers", len(ALICES) + len(MALLORIES)) as providers:
            settings: dict[str, Any] = {**providers.settings, "log_level": "error"}
            settings["WEBPUSH_HOSTS"] += f",{UNREACHABLE}"
            with Cluster(directory / "c", gateways=0, ingests=0, deliveries=1, **settings) as cluster:
                published, memory = asyncio.run(_measure(cluster, providers.browsers, seconds))
        arrived = {(each.uid, item): each.at for each in providers.seen() for item in each.items}
    ms: dict[str, list[float]] = {"calm": [], "attack": []}
    for key, at_s in published.items():
        ms[key[1].partition("-")[0]].append(1_000 * (arrived.get(key, float("inf")) - at_s))
    return ms["calm"], ms["attack"], *memory, {"pushes": len(published)}


async def _measure(
    cluster: Cluster, browsers: list[dict[str, Any]], seconds: float
) -> tuple[dict[tuple[str, str], float], tuple[float, float]]:
    """Map user and item to the time of publishing; return the MiB of delivery before and after the attack, too."""
    published: dict[tuple[str, str], float] = {}
    dead = [each | {"endpoint": f"https://{UNREACHABLE}/push/{n}"} for n, each in enumerate(browsers)]
    async with direct_scheduler(cluster) as scheduler:
        await register_users(scheduler.store, ALICES, browsers)
        await register_users(scheduler.store, MALLORIES, dead)
        memory = []
        for phase, attackers in (("warm", []), ("calm", []), ("attack", MALLORIES)):
            memory.append(rss_bytes(cluster.deliveries[0].pid) / 2**20)
            for step in range(round((2 if phase == "warm" else seconds) / STEP_S)):
                item = f"{phase}-{step}"
                first = step * ATTACKS % (len(MALLORIES) - ATTACKS)
                await _publish(scheduler, attackers[first : first + ATTACKS], item)
                await asyncio.sleep(STEP_S / 2)
                [intent] = await _publish(scheduler, [user := ALICES[step % len(ALICES)]], item)
                if phase != "warm":
                    published[user.uid, item] = intent.at_us / 1e6
                await asyncio.sleep(STEP_S / 2)
        after = rss_bytes(cluster.deliveries[0].pid) / 2**20
        await asyncio.sleep(1)
    return published, (memory[-1], after)


async def _publish(scheduler: DirectScheduler, users: list[LoadUser], item: str) -> list[Any]:
    if not users:
        return []
    await scheduler.create(users, item)
    return await scheduler.enqueue(await scheduler.plan(users, item, WEBPUSH))
