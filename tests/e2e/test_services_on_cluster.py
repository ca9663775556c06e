"""All services on a real Redis Cluster: the core tests of the other modules, and every failure of a shard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from gregor.store.redis.partitions import SLOTS, partitions_of
from tests.e2e.test_delivery import (
    test_absent_device_gets_one_push,
    test_deliveries_endpoint_reports_the_push,
    test_link_collapse_and_badge_of_a_push,
    test_seen_and_dismissed_items_are_not_pushed,
)
from tests.e2e.test_many_writers import test_batch_for_many_users_has_a_result_for_each
from tests.e2e.test_scenarios import (
    test_delta_omits_items_created_and_dismissed,
    test_past_state_shows_later_dismissed_items,
    test_repeated_message_sends_no_frame,
    test_reset_sends_full_copy_without_empty_screen,
    test_resume_delivers_missed_external_messages,
)
from tests.e2e.test_scheduler import (
    CATEGORIES,
    test_delayed_message_and_cancelled_message,
    test_reminders_then_expiry,
    test_summary_replaces_items_on_every_device,
)
from tests.e2e.test_sessions import (
    test_connection_replaces_only_its_own_session,
    test_deleted_device_is_closed_and_loses_its_items,
    test_deleted_user_is_closed_and_starts_again,
    test_revocation_closes_at_once,
)
from tests.e2e.test_transports import (
    auth,
    stream_api,
    test_poll_with_current_cursor_waits,
    test_posted_message_appears_on_the_stream,
    test_presence_is_the_or_over_connections,
    test_stream_resumes_on_another_gateway,
    test_ticket_opens_one_stream,
)
from tests.support.cluster import Cluster
from tests.support.fake_providers import FakeProviders, running
from tests.support.machine import Waiting
from tests.support.redis_cluster import RedisCluster, running_redis_cluster, slot_of
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

__all__ = [
    "auth",
    "stream_api",
    "test_absent_device_gets_one_push",
    "test_batch_for_many_users_has_a_result_for_each",
    "test_connection_replaces_only_its_own_session",
    "test_delayed_message_and_cancelled_message",
    "test_deleted_device_is_closed_and_loses_its_items",
    "test_deleted_user_is_closed_and_starts_again",
    "test_deliveries_endpoint_reports_the_push",
    "test_delta_omits_items_created_and_dismissed",
    "test_link_collapse_and_badge_of_a_push",
    "test_past_state_shows_later_dismissed_items",
    "test_poll_with_current_cursor_waits",
    "test_posted_message_appears_on_the_stream",
    "test_presence_is_the_or_over_connections",
    "test_reminders_then_expiry",
    "test_repeated_message_sends_no_frame",
    "test_reset_sends_full_copy_without_empty_screen",
    "test_resume_delivers_missed_external_messages",
    "test_revocation_closes_at_once",
    "test_seen_and_dismissed_items_are_not_pushed",
    "test_stream_resumes_on_another_gateway",
    "test_summary_replaces_items_on_every_device",
    "test_ticket_opens_one_stream",
]

PUSHED = """
["user"]
title = "{{ body.who }} joined"
push = { after = "0s" }
["inbox"]
title = "{{ body.count }} mails"
link = "app://inbox/{{ body.box }}"
collapse = "{{ body.box }}"
push = { after = "0s" }
["slow"]
title = "{{ body.who }} joined"
push = { after = "1s" }
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Run a cluster of three primaries with a replica each."""
    with running_redis_cluster(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProviders]:
    """Run the fake providers in a separate process."""
    with running(tmp_path_factory.mktemp("fakes")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, redis: RedisCluster, providers: FakeProviders
) -> Iterator[Cluster]:
    """Run all services on the cluster; the queue has its own server."""
    directory = tmp_path_factory.mktemp("services")
    (directory / "categories.toml").write_text(CATEGORIES + PUSHED)
    with Cluster(
        directory / "c", ingests=2, gateways=2, schedulers=2, deliveries=1, state_url=redis.url, flush_spread=1,
        device_rate=1_000, device_burst=1_000, categories=directory / "categories.toml", log_level="debug",
        **providers.options("APNS", "FCM", "VAPID", "WEBPUSH"),
    ) as cluster:  # fmt: skip
        yield cluster


# ---- failures of a shard


LOST = 1
"""The shard that fails, by the order of the slots. It has the agreement on partitions, but not the service keys."""
USERS = [f"user{n}" for n in range(60)]


def shard_of(uid: str) -> int:
    partitions = partitions_of(1_024)
    return partitions.of_user(uid) * (SLOTS // partitions.count) * 3 // SLOTS


HIT = [uid for uid in USERS if shard_of(uid) == LOST]
OTHERS = [uid for uid in USERS if shard_of(uid) != LOST]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisCluster]:
    with running_redis_cluster(tmp_path / "redis") as redis:
        yield redis


@pytest.fixture
def own_cluster(tmp_path: Path, own_redis: RedisCluster) -> Iterator[Cluster]:
    """Run one of each service on its own Redis cluster."""
    with Cluster(
        tmp_path / "c", ingests=1, gateways=1, schedulers=1, deliveries=1, state_url=own_redis.url, device_rate=1_000
    ) as cluster:
        yield cluster


class Traffic:
    """Sends messages to every user, one after the other, until the end of the ``with``. Keeps each answer."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self._api = api
        self._numbers = dict.fromkeys(USERS, 0)
        self.answers: list[tuple[str, int, float]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._send_all(uids)) for uids in (HIT, OTHERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task

    async def _send_all(self, uids: list[str]) -> None:
        while True:
            for uid in uids:
                await self.send(uid)
                await asyncio.sleep(0.01)

    async def send(self, uid: str, **times: Any) -> int:
        self._numbers[uid] += 1
        item = {"category": "mail", "body": {}, "times": times}
        body = {"create": {f"i{self._numbers[uid]}": item}}
        answer = await self._api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})
        self.answers.append((uid, answer.status_code, time.monotonic()))
        return answer.status_code

    def statuses(self, uids: list[str]) -> set[int]:
        """Return the statuses that messages of these users got."""
        return {status for uid, status, _ in self.answers if uid in uids}

    def accepted(self, uids: list[str], since_s: float) -> list[float]:
        """Return the times of the accepted messages of these users."""
        return [at_s for uid, status, at_s in self.answers if uid in uids and status == 200 and at_s > since_s]


async def test_killed_primary_costs_its_users_seconds(own_redis: RedisCluster, own_cluster: Cluster) -> None:
    phone = WireDevice(own_cluster.gateway_urls[0], own_cluster.token(HIT[0], "phone"), {})
    async with own_cluster.api() as api, phone:
        await phone.synced()
        traffic = Traffic(api)
        async with traffic.running():
            await wait_until(lambda: len(traffic.answers) > 100, "messages flow")
            waiting, killed_s = Waiting([*own_redis.pids, *own_cluster.pids]), time.monotonic()
            own_redis.primaries()[LOST].kill()
            await asyncio.sleep(1)  # what was accepted before the death was answered
            await wait_until(lambda: traffic.accepted(HIT, killed_s + 1), "its users commit again", 15)
            again_s = traffic.accepted(HIT, killed_s + 1)[0]
            live = len(phone.live)
            await wait_until(lambda: len(phone.live) > live, "its device receives again", 15)
            received_s = time.monotonic()

        lost_s = waiting.lost_s()
        assert again_s - killed_s <= 5 + lost_s and received_s - killed_s <= 7 + lost_s
        assert traffic.statuses(OTHERS) == {200}
        assert traffic.statuses(HIT) <= {200, 503}
        state = (await api.get(f"/v1/users/{HIT[0]}/state")).json()
        await wait_until(lambda: set(phone.mirror.items) == set(state["items"]), "the device has the state")


async def test_services_start_while_a_shard_is_away(own_redis: RedisCluster, own_cluster: Cluster) -> None:
    primary = own_redis.primaries()[LOST]
    replica = own_redis.replica_of(primary)
    for node in (replica, primary):
        node.kill()
    for service in own_cluster.services:
        service.stop()
        service.start()
    for service in own_cluster.services:
        service.wait_ready()

    phone = WireDevice(own_cluster.gateway_urls[0], own_cluster.token(OTHERS[0], "phone"), {})
    async with own_cluster.api() as api, phone:
        await phone.synced()
        traffic = Traffic(api)
        for uid in OTHERS:
            assert await traffic.send(uid) == 200
        waiting, began_s = Waiting([*own_redis.pids, *own_cluster.pids]), time.monotonic()
        assert await traffic.send(OTHERS[0], remind_at=["+1"]) == 200
        await phone.until(lambda frame: "remind" in frame.get("body", {}), "the reminder of another shard")
        assert time.monotonic() - began_s <= 1 + 1.5 + waiting.lost_s()
        answer = await api.get(f"/v1/users/{HIT[0]}/state")
        assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
        presence = (await api.post("/v1/presence", json={"uids": USERS})).json()
        assert presence[OTHERS[0]] == {"online": True, "foreground": False, "last_seen": ANY}
        assert [uid for uid in USERS if "unknown" in presence[uid]] == HIT
        letters = await api.get("/v1/deliveries/dead")
        assert (letters.status_code, letters.json()) == (200, {"entries": [], "partial": True})
        for service in own_cluster.services:
            document = httpx.get(service.probes[0], trust_env=False).json()
            assert document["ready"] and document["checks"]["shards"] == ["ok", "away", "ok"], service.name
        for node in (primary, replica):
            node.start()
        waiting, back_s = Waiting([*own_redis.pids, *own_cluster.pids]), time.monotonic()

        async def all_returned() -> bool:
            documents = [httpx.get(service.probes[0], trust_env=False).json() for service in own_cluster.services]
            statuses = [await traffic.send(uid) for uid in HIT[:3]]
            return statuses == [200] * 3 and all("away" not in each["checks"]["shards"] for each in documents)

        while not await all_returned():
            assert time.monotonic() - back_s <= 5 + waiting.lost_s()
            await asyncio.sleep(0.1)


GLOBAL_KEYS = {
    0: {"gateways", "forgotten", "keys_used", "{mail}:suppressed"},
    1: {"partitions", "formats", "jobs"},
    2: {"categories", "webhooks", "keys", "audit", "processes"},
}
"""The keys that belong to no user, by the shard that has them. ``LOST`` is tested above."""


@pytest.mark.parametrize("lost", [0, 2])
async def test_services_start_without_global_keys(lost: int, own_redis: RedisCluster, own_cluster: Cluster) -> None:
    assert all(slot_of(f"gregor:{key}") * 3 // SLOTS == shard for shard in GLOBAL_KEYS for key in GLOBAL_KEYS[shard])
    unread = [name for name in ("categories", "webhooks") if name in GLOBAL_KEYS[lost]]
    primary = own_redis.primaries()[lost]
    replica = own_redis.replica_of(primary)
    # One process is dead, the other hangs.
    replica.kill()
    primary.suspend()
    for service in own_cluster.services:
        service.stop()
        service.start()
    for service in own_cluster.services:
        service.wait_ready()

    others = [uid for uid in USERS if shard_of(uid) != lost]
    phone = WireDevice(own_cluster.gateway_urls[0], own_cluster.token(others[0], "phone"), {})
    async with httpx.AsyncClient(base_url=own_cluster.ingest_urls[0], trust_env=False, timeout=20) as api, phone:
        await phone.synced()
        for uid in others[:10]:
            assert await create(api, own_cluster.token(uid, "tablet"), uid) == 200
        waiting, began_s = Waiting([*own_redis.pids, *own_cluster.pids]), time.monotonic()
        assert await create(api, own_cluster.token(others[0], "tablet"), others[0], remind_at=["+1"]) == 200
        await phone.until(lambda frame: "remind" in frame.get("body", {}), "a reminder")
        assert time.monotonic() - began_s <= 1 + 1.5 + waiting.lost_s()
        for service in own_cluster.services:
            document = httpx.get(service.probes[0], trust_env=False).json()
            assert document["ready"] and document["checks"]["shards"][lost] == "away", service.name
            assert document["checks"].get("unread", []) == unread, service.name

        primary.resume()
        waiting, back_s = Waiting([*own_redis.pids, *own_cluster.pids]), time.monotonic()

        async def all_returned() -> bool:
            documents = [httpx.get(service.probes[0], trust_env=False).json() for service in own_cluster.services]
            async with own_cluster.api() as by_key:
                known = (await by_key.get("/v1/categories")).status_code == 200
            return known and not any("away" in str(each) or "unread" in str(each) for each in documents)

        while not await all_returned():
            assert time.monotonic() - back_s <= 5 + waiting.lost_s()
            await asyncio.sleep(0.1)


async def test_flush_of_all_ends_after_crash_and_outage(own_redis: RedisCluster, own_cluster: Cluster) -> None:
    async with own_cluster.api() as api:
        before = await _epochs(api, own_cluster, USERS)
        # The shard of the jobs is another one: without it, a flush gets 503.
        primary = own_redis.primaries()[0]
        others = [uid for uid in USERS if shard_of(uid) != 0]
        own_redis.replica_of(primary).kill()
        primary.suspend()
        request = asyncio.create_task(_flush(api))
        await asyncio.sleep(0.3)  # the process dies in the middle of the request
        [ingest] = [service for service in own_cluster.services if service.name.startswith("ingest")]
        ingest.kill()
        with suppress(httpx.TransportError):
            await request
        ingest.start()
        ingest.wait_ready()
        for _ in range(2):
            answer = await _flush(api)
            assert (answer.status_code, answer.json(), answer.headers["Location"]) == (
                202,
                {"spread": 1},
                "/v1/jobs/f1",
            )
        await wait_until(lambda: _job_state(api, "waiting"), "the other shards are flushed", 30)
        reached = await _epochs(api, own_cluster, others)
        assert all(reached[uid] == _next(before[uid]) for uid in others)

        primary.resume()

        await wait_until(lambda: _job_state(api, "done"), "a scheduler flushes the rest", 30)
        await _flush(api)
        after = await _epochs(api, own_cluster, USERS)
        assert after == {uid: _next(epoch) for uid, epoch in before.items()}


async def _flush(api: httpx.AsyncClient) -> httpx.Response:
    return await api.post("/v1/flush", json={"spread": 1}, headers={"Idempotency-Key": "f1"})


async def _job_state(api: httpx.AsyncClient, state: str) -> bool:
    job = (await api.get("/v1/jobs/f1")).json()
    return job.get("state") == state and (state == "done" or job["done"] > 0)


async def _epochs(api: httpx.AsyncClient, cluster: Cluster, uids: list[str]) -> dict[str, int]:
    """Return the epochs of users, after a message of each: a reset changes only users that exist."""
    for uid in uids:
        assert await create(api, cluster.token(uid, "tablet"), uid) == 200
    cursors = {uid: (await api.get(f"/v1/users/{uid}/state")).json()["cursor"] for uid in uids}
    return {uid: int(cursor[:6], 16) for uid, cursor in cursors.items()}


def _next(epoch: int) -> int:
    return (epoch + 1) % (1 << 24) or 1


async def create(api: httpx.AsyncClient, token: str, uid: str, **times: Any) -> int:
    """Create an item by a device of its user, because service keys may be unknown. Returns the status."""
    body = {"create": {f"i{time.monotonic_ns()}": {"category": "mail", "body": {}, "times": times}}}
    answer = await api.post(
        f"/v1/users/{uid}/messages",
        json={"system": "gregor", "body": body},
        headers={"Authorization": f"Bearer {token}"},
    )
    return answer.status_code
