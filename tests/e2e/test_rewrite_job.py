"""The job that rewrites stored values after an upgrade: a killed scheduler repeats no page that it had finished."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.redis.client import RedisClient
from gregor.store.redis.keys import Keys
from tests.support.cluster import Cluster
from tests.support.next_release import HEAD_2, PAGE, VISITS, make_next_release, runs
from tests.support.servers import open_client
from tests.support.wait import wait_until

USERS = [f"user{n}" for n in range(300)]
JOB = "/v1/jobs/rewrite-2"


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_rewrite_goes_on_after_kill_9(tmp_path: Path) -> None:
    """Each value of format 1 is rewritten once; only the page of the kill is searched again."""
    code = make_next_release(tmp_path / "next", rewrites=True)
    with Cluster(tmp_path / "c", gateways=0, ingests=1, schedulers=1) as cluster:
        async with cluster.api() as api:
            for uid in USERS:
                answer = await api.post(f"/v1/users/{uid}/messages", json=created("a"))
                assert answer.status_code == 200, answer.text
        for service in cluster.services:
            service.stop()
            runs(service, code)
            service.start()
        for service in cluster.services:
            await asyncio.to_thread(service.wait_ready)
        async with cluster.api() as api, open_client(cluster.server.url) as client:
            finished = await api.post("/v1/upgrade/finish")
            assert finished.json()["written"] == 2, finished.text
            await kill_in_the_middle(cluster, api)
            await wait_until(lambda: is_done(api), "the job ends", 90)

            visits = await visits_by_key(client)
            heads = [await client.call("HGET", key, ".h") for key in state_keys()]
            oldest = await client.call("HGET", Keys("gregor").formats, "oldest")

    assert {head[:2] for head in heads} == {HEAD_2} and oldest == b"2"
    assert set(visits) == {key.encode() for key in state_keys()}
    assert {rewrites for rewrites, _ in visits.values()} == {1}
    # The first pass rewrites, and the second finds nothing: two visits. A job from the start would make three of most.
    assert sum(count > 2 for _, count in visits.values()) <= PAGE + len(USERS) // 10


async def kill_in_the_middle(cluster: Cluster, api: httpx.AsyncClient) -> None:
    """Kill the scheduler after a third of the search, and start it again once it is sure that nothing continues."""

    async def progress() -> int:
        return int((await api.get(JOB)).json()["done"])

    total = await wait_until(lambda: total_of(api), "the search begins", 60)
    await wait_until(lambda: is_more(api, total // 3), "a third is searched", 60)
    cluster.schedulers[0].kill()
    reached = await progress()
    assert reached < total
    cluster.schedulers[0].start()
    await asyncio.to_thread(cluster.schedulers[0].wait_ready)
    assert await progress() >= reached


async def total_of(api: httpx.AsyncClient) -> int:
    return int((await api.get(JOB)).json().get("total") or 0)


async def is_more(api: httpx.AsyncClient, count: int) -> bool:
    return int((await api.get(JOB)).json()["done"]) >= count


async def is_done(api: httpx.AsyncClient) -> bool:
    return bool((await api.get(JOB)).json()["state"] == "done")


def created(name: str) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {name: {"category": "mail", "body": {}}}}}


def state_keys() -> list[str]:
    keys = Keys("gregor")
    return [keys.of_user(uid).state for uid in USERS]


async def visits_by_key(client: RedisClient) -> dict[bytes, tuple[int, int]]:
    """Return for each key how often it was rewritten and visited."""
    flat = await client.call("HGETALL", VISITS)
    counts = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
    keys = {field.partition(b" ")[2] for field in counts}
    return {key: (counts.get(b"rewritten " + key, 0), counts[b"visited " + key]) for key in keys}
