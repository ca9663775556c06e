"""Redis at its ``maxmemory``: creations are refused, and everything else goes on, also after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

MAIL = {"category": "mail", "body": {}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A private cluster with one process of each service."""
    with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, deliveries=1) as cluster:
        yield cluster


async def test_restarted_services_free_the_memory_of_a_full_server(cluster: Cluster) -> None:
    async with cluster.api() as api:

        async def send(body: object, uid: str = "alice") -> int:
            return (await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})).status_code

        async def expired() -> bool:
            metrics = await api.get(cluster.schedulers[0].probes[0].replace("readyz", "metrics"))
            return 'gregor_timers_total{kind="expire",outcome="done"} 1.0' in metrics.text

        await asyncio.to_thread(cluster.schedulers[0].stop)
        assert await send({"create": {"read": MAIL}}) == 200
        assert await send({"create": {"short": {**MAIL, "times": {"expires": time.time() + 2}}}}, "bob") == 200
        cluster.server.say("CONFIG", "SET", "maxmemory", "1")
        for service in cluster.services:
            await asyncio.to_thread(service.stop)
            service.start()
        for service in cluster.services:
            await asyncio.to_thread(service.wait_ready)

        assert await send({"create": {"more": MAIL}}) == 503
        assert await send({"dismiss": {"ids": ["read"]}}) == 200

        await wait_until(expired, "the scheduler has expired the item of bob", 30)
        async with WireDevice(cluster.gateway_urls[0], cluster.token("alice", "new"), {}) as phone:
            await phone.synced()
            assert phone.mirror.items == {}
        cluster.server.say("CONFIG", "SET", "maxmemory", "0")
        assert await send({"create": {"more": MAIL}}) == 200
