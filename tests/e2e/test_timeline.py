"""The timeline of an item and its deliveries, with real processes and fake providers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from tests.support.cluster import Cluster
from tests.support.fake_providers import FakeProviders, running
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster that uses fakes of APNs and FCM."""
    directory = tmp_path_factory.mktemp("timeline")
    entries = directory / "categories.toml"
    entries.write_text(
        '["soon"]\ntitle = "{{ id }}"\npush = { after = "0s" }\n'
        '["later"]\ntitle = "{{ id }}"\npush = { after = "4s" }\n'
    )
    (directory / "fakes").mkdir()
    with running(directory / "fakes") as providers, cluster_of(directory, str(entries), providers) as cluster:
        yield cluster


def cluster_of(directory: Any, entries: str, providers: FakeProviders) -> Cluster:
    options = providers.options("APNS", "FCM")
    return Cluster(directory / "c", ingests=1, gateways=1, schedulers=1, deliveries=1, categories=entries, **options)


def created(item_id: str, category: str, **fields: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {item_id: {"category": category, **fields}}}}


DISMISSED = {"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}}


async def register(api: httpx.AsyncClient, user: str) -> None:
    """Register a phone with APNs and a tablet with FCM."""
    for device, provider in (("phone", "apns"), ("tablet", "fcm")):
        push = {"provider": provider, "token": f"{user}-{device}".encode().hex()}
        assert (await api.put(f"/v1/users/{user}/devices/{device}", json={"push": push})).status_code == 200


async def timeline(api: httpx.AsyncClient, user: str, item: str = "a", **params: str) -> list[str]:
    """Return the events as text (event, device, reason); checks that they are in order of time."""
    answer = await api.get(f"/v1/users/{user}/items/{item}", params=params)
    events = answer.json()["timeline"]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    return [" ".join(str(event[name]) for name in ("event", "device", "detail") if event.get(name)) for event in events]


def of(device: str, events: list[str]) -> list[str]:
    return [event for event in events if event.split()[1:2] == [device]]


async def decided(api: httpx.AsyncClient, user: str, device: str) -> tuple[str, str | None] | None:
    """Return state and reason of the delivery to a device."""
    entries = (await api.get(f"/v1/users/{user}/deliveries", params={"item": "a"})).json()["entries"]
    found = [(entry["state"], entry["reason"]) for entry in entries if entry["device"] == device]
    return found[0] if found else None


async def test_timeline_of_a_push(cluster: Cluster) -> None:
    async with cluster.api() as api:
        await register(api, "story")
        async with WireDevice(cluster.gateway_urls[0], cluster.token("story", "laptop"), {}) as laptop:
            await laptop.synced()
            await api.post("/v1/users/story/messages", json=created("a", "soon"))
            frame = await laptop.until(lambda frame: "create" in frame.get("body", {}), "the item")
            await laptop.send({"ack": frame["seq"]})

            async def are_sent() -> bool:
                events = await timeline(api, "story")
                return {"acked laptop", "sent phone 200", "sent tablet 200"} <= set(events)

            await wait_until(are_sent, "the pushes are sent")
            await laptop.submit(1, DISMISSED["body"])

        async def are_withdrawn() -> bool:
            return {"withdrawn phone 200", "withdrawn tablet 200"} <= set(await timeline(api, "story"))

        await wait_until(are_withdrawn, "the pushes are withdrawn")
        events = await timeline(api, "story")
        own = ["planned phone", "sent phone 200", "withdrawn phone 200"]
        assert of("phone", events) == own
        assert events.index("sent phone 200") < events.index("dismissed laptop dismissed") < len(events) - 2

        async with cluster.api(cluster.token("story", "phone")) as phone:
            assert await timeline(phone, "story") == [
                "created",
                *own[:2],
                "dismissed laptop dismissed",
                own[2],
            ]
        assert await timeline(api, "story", device="phone") == [
            "created",
            *own[:2],
            "dismissed laptop dismissed",
            own[2],
        ]
        async with cluster.api(cluster.token("story", "laptop")) as seen:
            assert await timeline(seen, "story") == ["created", "acked laptop", "dismissed laptop dismissed"]


def waiting_entries(cluster: Cluster) -> int:
    """Return the number of deliveries that wait in the queues of both providers."""
    with redis.Redis.from_url(cluster.server.url) as client:
        return sum(client.zcard(f"gregor:deliveries:retry:{channel}") for channel in ("apns", "fcm"))


async def test_push_is_sent_when_quiet_hours_are_lifted(cluster: Cluster) -> None:
    hours = [time.strftime("%H:%M", time.gmtime(time.time() + hours * 3_600)) for hours in (-2, 2)]
    quiet = {"timezone": "UTC", "quiet_hours": {"from": hours[0], "to": hours[1]}}
    async with cluster.api() as api:
        await register(api, "early")
        assert (await api.put("/v1/users/early/contact", json=quiet)).status_code == 200
        await api.post("/v1/users/early/messages", json=created("a", "soon"))

        async def stands(*state: str | None) -> bool:
            return await decided(api, "early", "phone") == state

        await wait_until(lambda: stands("waiting", "quiet_hours"), "it waits")
        assert (await api.patch("/v1/users/early/contact", json={"quiet_hours": None})).status_code == 200
        await wait_until(lambda: stands("sent", None), "it goes out, hours before their end")

        told = ["planned phone", "waiting phone quiet_hours", "sent phone 200"]
        assert of("phone", await timeline(api, "early")) == told
        await api.post("/v1/users/early/messages", json=DISMISSED)
        await wait_until(lambda: waiting_entries(cluster) == 0, "the entries of the first wait leave the queue")


async def test_dismissal_cancels_a_push_in_quiet_hours(
    cluster: Cluster,
) -> None:
    hours = [time.strftime("%H:%M", time.gmtime(time.time() + hours * 3_600)) for hours in (-2, 2)]
    quiet = {"timezone": "UTC", "quiet_hours": {"from": hours[0], "to": hours[1]}}
    async with cluster.api() as api:
        await register(api, "sleeper")
        assert (await api.put("/v1/users/sleeper/contact", json=quiet)).status_code == 200
        await api.post("/v1/users/sleeper/messages", json=created("a", "soon"))

        async def stands(state: str, reason: str) -> bool:
            return await decided(api, "sleeper", "phone") == (state, reason)

        await wait_until(lambda: stands("waiting", "quiet_hours"), "it waits")
        await wait_until(lambda: waiting_entries(cluster) == 2, "both pushes wait in the queue")
        await api.post("/v1/users/sleeper/messages", json=DISMISSED)
        await wait_until(lambda: stands("cancelled", "dismissed"), "it is cancelled")

        assert of("phone", await timeline(api, "sleeper")) == [
            "planned phone",
            "waiting phone quiet_hours",
            "cancelled phone dismissed",
        ]
        await wait_until(lambda: waiting_entries(cluster) == 0, "nothing waits in the queue until the quiet hours end")


async def test_timeline_of_an_acknowledged_reminder(cluster: Cluster) -> None:
    async with cluster.api() as api:
        await register(api, "shown")
        async with WireDevice(cluster.gateway_urls[0], cluster.token("shown", "phone"), {}) as phone:
            await phone.synced()
            await api.post("/v1/users/shown/messages", json=created("a", "later"))
            await api.post("/v1/users/shown/messages", json=created("b", "plain", times={"remind_at": ["+1"]}))
            frame = await phone.until(lambda frame: "a" in frame.get("body", {}).get("create", {}), "the item")
            await phone.send({"ack": frame["seq"]})

        async def is_decided() -> bool:
            return (await decided(api, "shown", "tablet") or ("", ""))[0] == "sent"

        await wait_until(is_decided, "the other device is told", timeout_s=20)
        assert await decided(api, "shown", "phone") == ("cancelled", "acked")
        assert of("phone", await timeline(api, "shown")) == ["acked phone", "cancelled phone acked"]
        assert of("tablet", await timeline(api, "shown")) == ["planned tablet", "sent tablet 200"]
        assert await timeline(api, "shown", "b") == ["created", "reminded"]
