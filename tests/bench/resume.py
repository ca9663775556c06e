"""Resume: the bytes of a sync object without changes, with ten changes, and with all of 200 items."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.bench.report import Result, print_result
from tests.bench.sockets import body_of, redis_cpu_s
from tests.support.cluster import Cluster

ITEMS = 200
CHANGES = 10


def run(quick: bool = False) -> list[Result]:
    """Return the bytes of the three responses, and their cost in Redis."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster(Path(directory) / "c", gateways=0, ingests=1, log_level="warning") as cluster,
    ):
        return [print_result(result) for result in asyncio.run(measure(cluster, 200 if quick else 1_000))]


async def measure(cluster: Cluster, repeats: int) -> list[Result]:
    async with cluster.api() as api:
        for first in range(0, ITEMS, 50):
            await create(api, [f"i{number}" for number in range(first, first + 50)])
        at_once = await answer(api)
        same, same_us = await cost(cluster, api, repeats, cursor=at_once["cursor"], digest=at_once["digest"])
        for number in range(CHANGES // 2):
            await create(api, [f"new{number}"])
            await send(api, {"dismiss": {"ids": [f"i{number}"]}})
        delta, delta_us = await cost(cluster, api, repeats, cursor=at_once["cursor"])
        full, full_us = await cost(cluster, api, repeats // 4)
    assert [json.loads(raw)["sync"] for raw in (same, delta, full)] == ["unchanged", "delta", "full"]
    share = 100 * len(delta) / len(full)
    return [
        Result("resume, unchanged", len(same), "bytes", "≤ 100 bytes", len(same) <= 100, f"Redis {same_us:.0f} µs"),
        Result("resume, 10 changes", len(delta), "bytes", "-", None, f"Redis {delta_us:.0f} µs"),
        Result("resume, 10 changes, share of full", share, "%", "≤ 15 %", share <= 15, f"full {len(full):,} bytes"),
        Result("resume, full copy of 200 items", full_us, "µs Redis CPU", "-", None, f"{len(full):,} bytes"),
    ]


async def cost(cluster: Cluster, api: httpx.AsyncClient, repeats: int, **query: Any) -> tuple[bytes, float]:
    """Return the response, and CPU µs of Redis for it."""
    before = redis_cpu_s(cluster.server.url)
    for _ in range(repeats):
        got = await api.get("/v1/users/alice/sync", params=query)
        assert got.status_code == 200, got.text
    return got.content, 1e6 * (redis_cpu_s(cluster.server.url) - before) / repeats


async def answer(api: httpx.AsyncClient) -> dict[str, Any]:
    got: dict[str, Any] = (await api.get("/v1/users/alice/sync")).json()
    return got


async def create(api: httpx.AsyncClient, ids: list[str]) -> None:
    await send(api, {"create": {id_: {"category": "user.joined", "body": body_of(190)} for id_ in ids}})


async def send(api: httpx.AsyncClient, body: dict[str, Any]) -> None:
    got = await api.post("/v1/users/alice/messages", json={"system": "gregor", "body": body})
    assert got.status_code == 200, got.text
