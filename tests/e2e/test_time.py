"""Expiry is an event, and services share the clock offset of the setting `GREGOR_CLOCK_OFFSET`."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import Cluster, Service
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

HOUR_S = 3_600


def created(id_: str, **times: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {id_: {"category": "mail", "times": times}}}}


async def test_read_of_an_expired_item_causes_its_event(
    api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    async with device_of("phone") as phone, device_of("laptop", gateway=1) as laptop:
        await phone.synced()
        await laptop.synced()
        await api.post(f"/v1/users/{uid}/messages", json=created("a", expires="+1"))
        await api.post(f"/v1/users/{uid}/messages", json=created("b", expires="+3600"))

        async def is_gone() -> bool:
            return list((await api.get(f"/v1/users/{uid}/state")).json()["items"]) == ["b"]

        await wait_until(is_gone, "the read no longer shows it")
        for device in (phone, laptop):
            frame = await device.until(lambda frame: "dismiss" in frame.get("body", {}), "the event")
            assert frame["body"] == {"dismiss": {"ids": ["a"], "reason": "expired"}}
            assert list(device.mirror.items) == ["b"]
        gone = (await api.get(f"/v1/users/{uid}/items/a")).json()
        assert gone["gone"]["reason"] == "expired"
        assert gone["gone"]["at"] >= gone["item"]["times"]["expires"]


SHIFTED_CLOCK = """
import time
shift_ns, real_ns = {shift_s} * 10**9, time.time_ns
time.time_ns = lambda: real_ns() + shift_ns
time.time = lambda: (real_ns() + shift_ns) / 1e9
"""
"""Stands for a host whose clock is wrong: Python imports this file first."""


async def restart_with_wrong_clock(service: Service, directory: Path) -> None:
    (directory / "sitecustomize.py").write_text(SHIFTED_CLOCK.format(shift_s=HOUR_S))
    service.stop()
    search = os.pathsep.join((str(directory), service.environ["PYTHONPATH"]))
    service.environ = {**service.environ, "PYTHONPATH": search}
    service.start()
    await wait_until(lambda: "process.clock_off" in service.said(), "the process notices it", 20)


async def wait_not_ready(service: Service) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:

        async def is_refused() -> bool:
            with suppress(httpx.ConnectError):  # the probes start last
                found = await client.get(service.probes[0])
                return (found.status_code, found.json()["checks"].get("clock")) == (503, "off")
            return False

        await wait_until(is_refused, "the process is not ready")


async def test_delivery_with_a_wrong_host_clock_is_not_ready(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=0, ingests=0, deliveries=1, log_level="info") as cluster:
        [delivery] = cluster.deliveries
        await restart_with_wrong_clock(delivery, tmp_path)
        await wait_not_ready(delivery)


async def test_scheduler_with_a_wrong_host_clock_executes_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=0, ingests=1, schedulers=2, log_level="info") as cluster:
        wrong = cluster.schedulers[0]
        await restart_with_wrong_clock(wrong, tmp_path)
        async with cluster.api() as api:
            for id_, expires in (("soon", "+1"), ("later", "+600")):
                await api.post("/v1/users/alice/messages", json=created(id_, expires=expires))

            async def is_expired() -> bool:
                return (await api.get("/v1/users/alice/items/soon")).json().get("gone") is not None

            await wait_until(is_expired, "the other scheduler works", 10)
            assert list((await api.get("/v1/users/alice/state")).json()["items"]) == ["later"]
        await wait_not_ready(wrong)


async def test_clock_offset_expires_items(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=1, ingests=1) as cluster:
        async with cluster.api() as api:
            await api.post("/v1/users/alice/messages", json=created("a", expires="+1800"))
            await api.post("/v1/users/alice/messages", json=created("b", expires="+7200"))
            cursor = (await api.get("/v1/users/alice/sync", params={"device": "phone"})).json()["cursor"]
        cluster.clock_offset_s = HOUR_S
        for service in cluster.services:
            service.stop()
            service.environ = {**service.environ, "GREGOR_CLOCK_OFFSET": str(HOUR_S)}
            service.start()
        for service in cluster.services:
            service.wait_ready()

        async with WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {"cursor": cursor}) as phone:
            await phone.synced()

            assert phone.syncs[0]["sync"] in ("delta", "full")
            assert "a" not in phone.syncs[0]["body"].get("create", {})
        async with cluster.api() as api:
            assert list((await api.get("/v1/users/alice/state")).json()["items"]) == ["b"]
            now_s = cluster.now_s()
            past = await api.get("/v1/users/alice/state", params={"at": now_s - HOUR_S + 60})
            assert sorted(past.json()["items"]) == ["a", "b"]
            late = await api.post("/v1/users/alice/messages", json=created("c", created=int(now_s) + HOUR_S + 60))
            assert late.json()["code"] == "created_in_future"
