"""The worst messages of a device: CPU ms of Redis for each, and for each unit of weight that the rate limit charges."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

from gregor.core.limits import Limits
from gregor.store.redis.store import open_store
from tests.bench.report import Result, print_result
from tests.support.servers import BINARIES, running_server
from tests.support.worst_messages import SCENES, Cost, measure_scene

TARGET_MS = 5.0
"""CPU of Redis for one unit of weight: at 10 units a second, a token uses at most 5 % of a core."""


def run(quick: bool = False) -> list[Result]:
    """Return the result of each scene: the least of several runs, because noise only adds time."""
    return [print_result(result(name, 1 if quick else 3)) for name in SCENES]


def result(name: str, rounds: int) -> Result:
    """Measure one scene. Removals have no target: each removed item weighed 0.1 when it was created."""
    cost = asyncio.run(worst(name, rounds))
    is_met = None if cost.removed else cost.ms_per_weight <= TARGET_MS
    target = "-" if cost.removed else f"≤ {TARGET_MS:.0f}"
    beside = f"{cost.ms:.1f} ms, longest script {cost.longest_ms:.1f} ms, weight {cost.weight}"
    if cost.removed:
        beside += f", {cost.removed} items removed"
    return Result(f"cost, {name}", cost.ms_per_weight, "ms/weight", target, is_met, beside)


async def worst(name: str, rounds: int) -> Cost:
    """Return the most expensive message of a scene for its weight; of several rounds, the round with the least."""
    found = []
    with tempfile.TemporaryDirectory() as directory, running_server(BINARIES[-1], Path(directory)) as server:
        store = await open_store(server.url, Limits(), "gregor")
        for _ in range(rounds):
            server.say("FLUSHDB")
            found.append(await measure_scene(name, store, server.url))
        await store.close()
    least = [
        replace(min(runs, key=lambda cost: cost.ms), longest_ms=min(cost.longest_ms for cost in runs))
        for runs in zip(*found, strict=True)
    ]
    return max(least, key=lambda cost: cost.ms_per_weight)
