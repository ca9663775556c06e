"""A broadcast reaches each user once, although its schedulers are killed and its queue is flushed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from gregor.core.limits import Limits
from gregor.store.redis.keys import Keys
from gregor.store.redis.store import open_store
from tests.support.cluster import Cluster
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

MESSAGE = {"system": "kbfs.favorites", "body": {"action": "reload"}}
RESTART_S = 15.0
"""A job is continued within this time after its scheduler was killed."""
CANCELLED_S = 2.0
AT_ONCE = 1_000


async def register(cluster: Cluster, count: int) -> list[str]:
    """Register a device of each of many users, as a connection does."""
    store = await open_store(cluster.server.url, Limits(), "gregor", partitions=1_024, service="test")
    uids = [f"user-{n}" for n in range(count)]
    now_us = round(time.time() * 1e6)
    try:
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(
                *(store.devices.ensure_device(uid, "phone", now_us) for uid in uids[start : start + AT_ONCE])
            )
    finally:
        await store.close()
    return uids


async def job_of(cluster: Cluster, job_id: str) -> dict[str, Any]:
    async with cluster.api() as api:
        job: dict[str, Any] = (await api.get(f"/v1/jobs/{job_id}")).json()
        return job


async def wait_for_job(cluster: Cluster, is_so: Callable[[dict[str, Any]], bool], what: str, within_s: float) -> None:
    async def check() -> bool:
        return is_so(await job_of(cluster, "b1"))

    await wait_until(check, what, within_s)


async def send(cluster: Cluster, **fields: Any) -> None:
    async with cluster.api() as api:
        answer = await api.post("/v1/broadcast", json={**MESSAGE, "id": "b1", "audience": "all", **fields})
        assert answer.status_code == 202, answer.text


def messages_of(cluster: Cluster, uids: list[str]) -> list[int]:
    """Return the number of external messages that each user got, by the number of stored ones."""
    keys = Keys("gregor")
    counts: list[int] = []
    with redis.Redis.from_url(cluster.server.url) as client:
        for start in range(0, len(uids), AT_ONCE):
            pipe = client.pipeline(transaction=False)
            for uid in uids[start : start + AT_ONCE]:
                pipe.zcard(keys.of_user(uid).external)
            counts += pipe.execute()
    return counts


async def kill_at(cluster: Cluster, share: float) -> None:
    """Kill all schedulers when the job has done a share of its work. It continues in time after their start."""
    await wait_for_job(cluster, lambda job: job["done"] >= share * 1_024, f"{share:.0%} of the job is done", 120)
    for scheduler in cluster.schedulers:
        scheduler.kill()
    done = (await job_of(cluster, "b1"))["done"]
    assert done < 1_024, "the job was over before the kill"
    for scheduler in cluster.schedulers:
        scheduler.start()
    for scheduler in cluster.schedulers:
        scheduler.wait_ready()
    await wait_for_job(cluster, lambda job: job["done"] > done, "the job continues", RESTART_S)


async def test_broadcast_survives_a_kill_and_a_flushed_queue(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, log_level="warning") as cluster:
        uids = await register(cluster, 300)
        async with WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as alice:
            await alice.synced()
            await send(cluster, spread=6)
            await kill_at(cluster, 0.3)
            with redis.Redis.from_url(cluster.server.url) as client:
                client.delete(*client.keys("gregor:scheduler:*"))
            await wait_for_job(cluster, lambda job: job["state"] == "done", "the job ends", 60)
            await wait_until(lambda: any("favorites" in str(frame) for frame in alice.frames), "alice gets it", 10)

        assert sum("favorites" in str(frame) for frame in alice.frames) == 1
        assert set(messages_of(cluster, uids)) == {1}
        assert (await job_of(cluster, "b1"))["result"] == {"sent": 301, "offline": 0, "refused": 0}


async def test_cancelled_broadcast_stops_within_two_seconds(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=0, ingests=1, schedulers=1, log_level="warning") as cluster:
        uids = await register(cluster, 300)
        await send(cluster, spread=60)
        await wait_until(lambda: sum(messages_of(cluster, uids)) > 0, "the job sends", 30)

        async with cluster.api() as api:
            assert (await api.delete("/v1/jobs/b1")).json()["state"] == "cancelled"
        await wait_for(CANCELLED_S)
        stopped_at = sum(messages_of(cluster, uids))
        await wait_for(CANCELLED_S)

        assert sum(messages_of(cluster, uids)) == stopped_at < len(uids)


async def wait_for(seconds: float) -> None:
    until_s = time.monotonic() + seconds
    await wait_until(lambda: time.monotonic() > until_s, "time passes", seconds + 10)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_broadcast_to_100_000_survives_three_kills(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=0, ingests=1, schedulers=2, log_level="warning") as cluster:
        uids = await register(cluster, 100_000)
        await send(cluster, spread=30)
        for share in (0.2, 0.5, 0.8):
            await kill_at(cluster, share)
        await wait_for_job(cluster, lambda job: job["state"] == "done", "the job ends", 120)

        assert set(messages_of(cluster, uids)) == {1}
        assert (await job_of(cluster, "b1"))["result"] == {"sent": 100_000, "offline": 0, "refused": 0}
