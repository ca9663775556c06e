"""Isolation: while one provider hangs, is down or throttles, how long the others take, in one run."""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from gregor.core.notify.intents import Intent
from tests.bench.report import Result, percentile, print_result
from tests.support.cluster import Cluster
from tests.support.direct_scheduler import DirectScheduler, direct_scheduler
from tests.support.failure_modes import ASKING, DOWN, HANGING, WELL
from tests.support.flaky_provider_process import FlakyProviders, running
from tests.support.load_users import LoadUser, register_users

ILL, OTHERS = "apns", ("fcm", "webpush")
MOODS = (WELL, HANGING, DOWN, ASKING)
STEP_S = 0.25
USERS = 400
"""Users take turns over the steps, which keeps the number of items of each small."""
FAILING_PER_STEP, HEALTHY_PER_STEP = 20, 4
"""Intents published in a step: more than its places in flight for the failing channel, a few for the others."""
NOISE = 1.5
"""Spread of the p99s of one run while all providers are healthy."""


def run(quick: bool = False) -> list[Result]:
    """Return the p99 from publishing to arrival for two other channels, in each failure mode of the first."""
    rounds, seconds = (2, 5) if quick else (4, 10)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with running(directory / "providers", USERS) as providers:
            settings: dict[str, Any] = {**providers.settings, "log_level": "warning"}
            with Cluster(directory / "c", gateways=0, ingests=0, deliveries=1, **settings) as cluster:
                handed = asyncio.run(_measure(cluster, providers, rounds, seconds))
        arrived = {(each.channel, each.uid, item): each.at for each in providers.seen() for item in each.items}
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (channel, uid, item), (mood, at_s) in handed.items():
        found[channel, mood].append(arrived.get((channel, uid, item), float("inf")) - at_s)
    return [print_result(result) for channel in OTHERS for result in _results(channel, found)]


def _results(channel: str, found: dict[tuple[str, str], list[float]]) -> list[Result]:
    p99s_ms = {mood: 1_000 * percentile(sorted(found[channel, mood]), 0.99) for mood in MOODS}
    beside = f"p99 {p99s_ms[WELL]:.0f} ms where APNs is well"
    bound_ms = NOISE * p99s_ms[WELL]
    return [
        Result(
            f"isolation, {channel} p99 while APNs is {mood}",
            p99s_ms[mood],
            "ms",
            f"≤ {NOISE} ×",
            p99s_ms[mood] <= bound_ms,
            beside,
        )
        for mood in MOODS[1:]
    ]


async def _measure(
    cluster: Cluster, providers: FlakyProviders, rounds: int, seconds: float
) -> dict[tuple[str, str, str], tuple[str, float]]:
    """Map channel, user and item to the failure mode and the time of publishing (wall-clock seconds)."""
    handed: dict[tuple[str, str, str], tuple[str, float]] = {}
    people = [LoadUser(f"u{n}", (ILL, *OTHERS)) for n in range(USERS)]
    async with direct_scheduler(cluster) as scheduler:
        await register_users(scheduler.store, people, providers.browsers)
        for number in range(rounds):
            for mood in MOODS:
                providers.set_modes(**{ILL: mood})
                for step in range(round(seconds / STEP_S)):
                    item = f"{mood}-{number}-{step}"
                    people = [*people[FAILING_PER_STEP:], *people[:FAILING_PER_STEP]]
                    for intent in await _step(scheduler, people[:FAILING_PER_STEP], item):
                        handed[intent.channel, intent.uid, intent.item] = (mood, intent.at_us / 1e6)
                    await asyncio.sleep(STEP_S)
                _drop_failing_backlog(cluster)
    return handed


async def _step(scheduler: DirectScheduler, people: list[LoadUser], item: str) -> list[Intent]:
    await scheduler.create(people, item)
    ill = await scheduler.plan(people, item, ILL)
    others = [each for channel in OTHERS for each in await scheduler.plan(people[:HEALTHY_PER_STEP], item, channel)]
    await scheduler.enqueue(ill)
    return await scheduler.enqueue(others)


def _drop_failing_backlog(cluster: Cluster) -> None:
    """Drop the backlog of the failing provider, which would otherwise arrive at once when it recovers."""
    cluster.server.say("XTRIM", f"gregor:deliveries:{ILL}", "MAXLEN", "0")
    cluster.server.say("DEL", f"gregor:deliveries:retry:{ILL}")
