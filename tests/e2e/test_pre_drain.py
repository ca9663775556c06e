"""A service that was asked to stop serves on until load balancers have noticed that it is not ready."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster, Service
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

PRE_DRAIN_S = 3_600


async def test_stopping_services_serve_until_the_drain(tmp_path: Path) -> None:
    with Cluster(tmp_path, gateways=1, ingests=1, schedulers=1, deliveries=1, pre_drain_seconds=PRE_DRAIN_S) as cluster:
        for service in cluster.services:
            service.signal(signal.SIGTERM)
        for service in cluster.services:
            await wait_until(lambda service=service: _is_red(service), f"{service.name} is not ready")

        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "desk"), {}) as desk,
        ):
            await desk.synced()
            body = {"create": {"a": {"category": "mail", "times": {"remind_at": ["+0.2"]}}}}
            answer = await api.post("/v1/users/alice/messages", json={"system": "gregor", "body": body})

            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
            await wait_until(lambda: any("remind" in frame["body"] for frame in desk.live), "the reminder")

            for service in cluster.services:
                service.signal(signal.SIGTERM)
            for service in cluster.services:
                assert service.wait() == 0
            assert (await desk.closed())[0] == 4001
            with pytest.raises(httpx.ConnectError):
                await api.get("/v1/users/alice/state")


def _is_red(service: Service) -> bool:
    return httpx.get(service.probes[0]).status_code == 503
