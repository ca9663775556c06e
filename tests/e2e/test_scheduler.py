"""Due work over the wire and in real time: two schedulers beside a gateway and an ingest."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.client import AsyncProducer
from tests.support.cluster import Cluster
from tests.support.machine import Waiting
from tests.support.wait import wait_until
from tests.support.wire_device import Frame, WireDevice

CATEGORIES = """
["fold"]
title = "{{ body.n }}"
aggregate = { window = "1s", at_least = 3, title = "{{ count }} of them" }
["told"]
title = "A word"
push = { after = "1s" }
"""


@pytest.fixture(scope="module")
def timed_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("timed")
    (directory / "categories.toml").write_text(CATEGORIES)
    with Cluster(
        directory / "c", gateways=1, ingests=1, schedulers=2, categories=directory / "categories.toml"
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(timed_cluster: Cluster) -> Cluster:
    """The cluster of this module."""
    return timed_cluster


def created(*ids: str, category: str = "mail", **times: Any) -> dict[str, Any]:
    items = {id_: {"category": category, "times": times, "body": {"n": id_}} for id_ in ids}
    return {"system": "gregor", "body": {"create": items}}


def words(frames: list[Frame]) -> list[str]:
    """Return the content of live frames as text, in order."""
    said = []
    for frame in frames:
        body = frame["body"]
        said += [f"created {id_}" for id_ in body.get("create", {})]
        said += [f"remind {id_}" for id_ in body.get("remind", {})]
        dismiss = body.get("dismiss", {})
        said += [f"{dismiss.get('reason', 'dismissed')} {id_}" for id_ in dismiss.get("ids", [])]
    return said


async def post(api: httpx.AsyncClient, uid: str, message: dict[str, Any]) -> Any:
    answer = await api.post(f"/v1/users/{uid}/messages", json=message)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_reminders_then_expiry(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        waiting = Waiting(cluster.pids)
        await post(api, uid, created("a", remind_at=["+1", "+2"], expires="+3"))
        await post(api, uid, created("b", remind_at=["+1"], expires="+2"))
        await post(api, uid, {"system": "gregor", "body": {"dismiss": {"ids": ["b"]}}})

        expired = await phone.until(lambda f: f.get("body", {}).get("dismiss", {}).get("reason") == "expired", "expiry")
        at = time.time()

        said = words(phone.live)
        assert said == ["created a", "created b", "dismissed b", "remind a", "remind a", "expired a"]
        assert [frame["seq"] for frame in phone.live] == [1, 2, 3, 4, 5, 6]
        (item,) = (frame["body"]["create"]["a"] for frame in phone.live if "a" in frame["body"].get("create", {}))
        reminded = [frame["body"]["remind"]["a"] for frame in phone.live if "remind" in frame["body"]]
        assert reminded == item["times"]["remind_at"]
        assert item["times"]["expires"] <= at <= item["times"]["expires"] + 2 + waiting.lost_s()
        assert expired["seq"] == 6 and phone.mirror.items == {}


async def test_delayed_message_and_cancelled_message(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        not_before = round(cluster.now_s() + 2, 3)
        kept = await post(api, uid, {**created("late"), "id": "m1", "not_before": not_before})
        await post(api, uid, {**created("never"), "id": "m2", "not_before": not_before - 0.5})
        answer = await api.delete(f"/v1/users/{uid}/messages/m2")
        told = await phone.submit(1, created("own")["body"], not_before=not_before + 0.5)

        assert kept == {"id": "m1", "not_before": not_before}
        assert answer.status_code == 204
        assert told["receipt"]["not_before"] == not_before + 0.5
        assert phone.live == []
        frame = await phone.until(lambda frame: "own" in frame.get("body", {}).get("create", {}), "the device's own")
        assert words(phone.live) == ["created late", "created own"]
        assert frame["body"]["create"]["own"]["times"]["created"] >= not_before + 0.5
        assert (await api.delete(f"/v1/users/{uid}/messages/m1")).status_code == 404


async def test_snoozed_item_comes_back(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    async with device_of("phone") as phone, AsyncProducer(cluster.ingest_urls[0], cluster.key) as producer:
        await phone.synced()
        await post(api, uid, created("a"))
        copy = await producer.snooze(uid, "a", round(cluster.now_s() + 1.5, 3))
        await phone.until(lambda frame: copy in frame.get("body", {}).get("create", {}), "the copy")

        assert words(phone.live) == ["created a", "dismissed a", f"created {copy}"]
        assert list(phone.mirror.items) == [copy]
        words_of_cli = json.loads(
            await asyncio.to_thread(
                cluster.gregor, "snooze", uid, copy, "--for", "2h", "--json", "--url", cluster.ingest_urls[0],
                "--key", cluster.key,
            )
        )  # fmt: skip
        await phone.until(lambda frame: copy in frame.get("body", {}).get("dismiss", {}).get("ids", []), "it leaves")
        assert await producer.cancel(uid, words_of_cli["id"])
        assert not await producer.cancel(uid, words_of_cli["id"])


async def test_summary_replaces_items_on_every_device(
    api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    async with device_of("phone") as phone:
        await phone.synced()
        await post(api, uid, created("x", "y", "z", category="fold"))

        frame = await phone.until(
            lambda f: f.get("body", {}).get("dismiss", {}).get("reason") == "aggregated", "a fold"
        )

        ((name, summary),) = frame["body"]["create"].items()
        assert sorted(frame["body"]["dismiss"]["ids"]) == ["x", "y", "z"]
        assert summary["body"]["summary"]["count"] == 3
        assert [each["id"] for each in summary["body"]["summary"]["sample"]] == ["z", "y", "x"]
        assert list(phone.mirror.items) == [name]


async def test_push_is_enqueued_in_the_stream_of_its_channel(
    cluster: Cluster, api: httpx.AsyncClient, uid: str
) -> None:
    device = {"platform": "ios", "push": {"provider": "apns", "token": f"t-{uid}", "topic": "x", "sandbox": False}}
    assert (await api.put(f"/v1/users/{uid}/devices/phone", json=device)).status_code == 200
    receipt = await post(api, uid, created("a", category="told"))

    def entry() -> dict[str, str] | None:
        lines = cluster.server.say("XREVRANGE", "gregor:deliveries:apns", "+", "-", "COUNT", "1").split("\r\n")
        words = [line for line in lines if line and line[0] not in "$*"]
        fields = dict(zip(words[1::2], words[2::2], strict=True))
        return fields if fields.get("uid") == uid else None

    found = await wait_until(entry, "an entry of the stream")

    assert {name: value for name, value in found.items() if name != "at_us"} == {
        "format": "1", "uid": uid, "item": "a", "intent": "item", "n": "0", "device": "phone",
        "seq": str(receipt["seq"]),
    }  # fmt: skip


async def test_missed_work_runs_in_order_after_restart(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    for scheduler in cluster.schedulers:
        scheduler.kill()
    try:
        async with device_of("phone") as phone:
            await phone.synced()
            await post(api, uid, created("a", remind_at=["+1", "+2.2"]))
            await post(api, uid, created("b", remind_at=["+1.6"]))
            due = time.time() + 2.5
            await wait_until(lambda: time.time() > due, "all of it is due")
            assert words(phone.live) == ["created a", "created b"]
            for scheduler in cluster.schedulers:
                scheduler.start()

            await phone.until(lambda frame: "remind" in frame.get("body", {}) and frame["seq"] == 5, "the last", 40)
            assert words(phone.live)[2:] == ["remind a", "remind b", "remind a"]
    finally:
        for scheduler in cluster.schedulers:
            if not scheduler.is_running:
                scheduler.start()
            scheduler.wait_ready()


async def test_probes_and_metrics_of_the_scheduler(cluster: Cluster) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        base = cluster.schedulers[0].probes[0].removesuffix("/readyz")
        ready = (await client.get(f"{base}/readyz")).json()
        alive = (await client.get(f"{base}/healthz")).json()
        figures = (await client.get(f"{base}/metrics")).text

    assert ready == {"ready": True, "checks": {"redis": "ok", "probe": "ok", "draining": False, "clock": "ok"}}
    assert alive == {"alive": True}
    assert "gregor_due_lag_seconds" in figures and "gregor_timer_lateness_seconds" in figures


async def test_connected_devices_get_the_reminders_of_a_store_outage(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, server_options=options) as cluster:
        async with cluster.api() as api, AsyncExitStack() as stack:
            phones = []
            for uid in (f"u{n}" for n in range(12)):
                phone = WireDevice(cluster.gateway_urls[0], cluster.token(uid, "phone"), {})
                phones.append(await stack.enter_async_context(phone))
                await phone.synced()
            due = time.time() + 5
            for number in range(len(phones)):
                await post(api, f"u{number}", created("a", remind_at=[due]))
            assert not any("remind" in frame.get("body", {}) for phone in phones for frame in phone.live)
            cluster.server.kill()
            await wait_until(lambda: time.time() > due, "all of them are due")

            # The gateway subscribes again some time after the scheduler: its longest pause between retries is 2 s.
            [gateway], [scheduler] = cluster.gateways, cluster.schedulers
            gateway.signal(signal.SIGSTOP)
            cluster.server.start()
            await wait_until(lambda: "redis.reconnected" in scheduler.said(), "the scheduler is connected again", 20)
            late = time.time() + 1.5
            await wait_until(lambda: time.time() > late, "overdue work without a hold is done")
            gateway.signal(signal.SIGCONT)

            # A reminder that fired before would be missing: a full copy contains none.
            for phone in phones:
                await phone.until(lambda frame: "remind" in frame.get("body", {}), "the reminder", 30)


async def test_scheduler_survives_a_store_outage(tmp_path: Path) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, server_options=options) as cluster:
        (scheduler,) = cluster.schedulers
        pid = scheduler.pid
        async with cluster.api() as api:
            await post(api, "alice", created("a", remind_at=["+2"], expires="+300"))
            cluster.server.kill()

            async def is_red() -> bool:
                return (await api.get(scheduler.probes[0])).status_code == 503

            await wait_until(is_red, "the scheduler says that it cannot work", 20)
            cluster.server.start()
            async with WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as phone:
                await phone.until(lambda frame: frame.get("seq") == 2, "the reminder, live or in the sync", 30)
            scheduler.wait_ready()
            assert scheduler.pid == pid and scheduler.is_running
