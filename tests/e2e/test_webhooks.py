"""From events of devices and timers to webhook calls, with real processes and a receiver in the test."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gregor.dev.fakes.webhook import FakeWebhookReceiver
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

LONG_S = 40


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a cluster whose webhooks may call this machine; pushes go to the console."""
    directory = tmp_path_factory.mktemp("webhooks")
    entries = directory / "categories.toml"
    entries.write_text('["pushed"]\ntitle = "hello"\npush = { after = "0s" }\n')
    with Cluster(
        directory / "c", ingests=1, gateways=1, schedulers=2, deliveries=2,
        webhook_loopback="true", delivery_console="true", categories=str(entries),
    ) as cluster:  # fmt: skip
        yield cluster


def receiver() -> FakeWebhookReceiver:
    """Run a receiver that checks signatures and recognizes repeated events by their id."""
    return FakeWebhookReceiver("", lambda: time.time_ns() // 1_000)


@asynccontextmanager
async def listening(cluster: Cluster, **wish: Any) -> AsyncIterator[FakeWebhookReceiver]:
    """Register a webhook for one category and run its receiver; deletes the webhook afterwards."""
    async with cluster.api() as api, AsyncExitStack() as stack:
        backend = receiver()
        await backend.start()
        stack.push_async_callback(backend.close)
        made = (await api.post("/v1/webhooks", json={"url": backend.url, **wish})).json()
        backend.secret = made["secret"]
        yield backend
        await api.delete(f"/v1/webhooks/{made['id']}")


def received_events(backend: FakeWebhookReceiver) -> list[tuple[Any, ...]]:
    """Return the distinct events of the receiver as text."""
    return [
        (event["type"], data["id"], data["device"], data["reason"])
        for event in backend.events.values()
        for data in [event["data"]]
    ]


def creating(*ids: str, category: str, **fields: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {id_: {"category": category, **fields} for id_ in ids}}}


async def test_ack_and_dismissal_events_arrive_once(cluster: Cluster) -> None:
    async with listening(cluster, category_prefix="seen") as backend, cluster.api() as api:
        await api.post("/v1/users/ann/messages", json=creating("a", "b", category="seen.first"))
        await api.post("/v1/users/ann/messages", json=creating("c", category="unseen"))
        async with WireDevice(cluster.gateway_urls[0], cluster.token("ann", "phone"), {"foreground": True}) as phone:
            await phone.synced()
            await phone.send({"ack": phone.syncs[-1]["seq"]})
            await wait_until(lambda: len(backend.events) == 2, "what was shown is told", LONG_S)
            await phone.send({"ref": 1, "system": "gregor", "body": {"dismiss": {"ids": ["a", "c"]}}})
            await wait_until(lambda: len(backend.events) == 3, "the dismissal is told", LONG_S)

    assert sorted(received_events(backend), key=str) == [
        ("item.acked", "a", "phone", None),
        ("item.acked", "b", "phone", None),
        ("item.dismissed", "a", "phone", "dismissed"),
    ]
    assert len(backend.calls) == len(backend.events)


async def test_expiry_event(cluster: Cluster) -> None:
    async with listening(cluster, events=["item.expired"], category_prefix="brief") as backend, cluster.api() as api:
        await api.post("/v1/users/bea/messages", json=creating("a", category="brief", times={"expires": "+1"}))
        await api.post("/v1/users/bea/messages", json=creating("b", category="brief"))
        await api.post("/v1/users/bea/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["b"]}}})
        await wait_until(lambda: backend.events, "it is told", LONG_S)

    assert received_events(backend) == [("item.expired", "a", None, "expired")]


async def test_delivery_event(cluster: Cluster) -> None:
    async with listening(cluster, events=["delivery.sent"]) as backend, cluster.api() as api:
        phone = {"platform": "ios", "push": {"provider": "apns", "token": "c0ffee"}}
        await api.put("/v1/users/cleo/devices/phone", json=phone)
        await api.post("/v1/users/cleo/messages", json=creating("a", category="pushed"))
        await wait_until(lambda: backend.events, "it is told", LONG_S)

    [event] = backend.events.values()
    data = event["data"]
    assert (event["type"], data["uid"], data["id"], data["category"]) == ("delivery.sent", "cleo", "a", "pushed")
    assert (data["channel"], data["device"], data["intent"], data["status"]) == ("apns", "phone", "item", "console")


async def test_recovered_endpoint_gets_missed_events_once(cluster: Cluster) -> None:
    port, backend = free_port(), receiver()
    async with cluster.api() as api:
        made = (
            await api.post("/v1/webhooks", json={"url": f"http://127.0.0.1:{port}/", "events": ["item.dismissed"]})
        ).json()
        backend.secret = made["secret"]
        await api.post("/v1/users/dora/messages", json=creating("a", category="late"))
        await api.post("/v1/users/dora/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}})

        async def failed() -> bool:
            listed = (await api.get("/v1/users/dora/deliveries", params={"item": "a"})).json()["entries"]
            return any(entry["webhook"] == made["id"] and entry["attempts"] for entry in listed)

        await wait_until(failed, "a call failed", LONG_S)
        await backend.start(port)
        try:
            await wait_until(lambda: backend.events, "it is told", LONG_S)
        finally:
            await backend.close()
            await api.delete(f"/v1/webhooks/{made['id']}")

    assert received_events(backend) == [("item.dismissed", "a", None, "dismissed")]
    assert len({call.headers["webhook-id"] for call in backend.calls}) == 1


async def test_event_survives_killed_processes(cluster: Cluster) -> None:
    async with listening(cluster, events=["item.dismissed"], category_prefix="crash") as backend, cluster.api() as api:
        ids = [f"i{n}" for n in range(60)]
        await api.post("/v1/users/eve/messages", json=creating(*ids, category="crash"))
        for n, id_ in enumerate(ids):
            await api.post("/v1/users/eve/messages", json={"system": "gregor", "body": {"dismiss": {"ids": [id_]}}})
            if n % 20 == 10:
                for service in (cluster.schedulers[n // 20 % 2], cluster.deliveries[n // 20 % 2]):
                    service.kill()
                    service.start()
        await wait_until(lambda: len(backend.events) == len(ids), "all is told", 120)

    assert {id_ for _, id_, _, _ in received_events(backend)} == set(ids)


async def test_webhook_never_calls_private_addresses(tmp_path: Path) -> None:
    """A URL is checked at registration and again before each call: DNS and settings may have changed."""
    cluster = Cluster(tmp_path, ingests=1, gateways=0, schedulers=1, deliveries=1, webhook_loopback="true")
    [delivery] = cluster.deliveries
    delivery.environ = {**delivery.environ, "GREGOR_WEBHOOK_LOOPBACK": "false"}
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(cluster)
        api = await stack.enter_async_context(cluster.api())
        for url in ("https://10.0.0.8/", "https://169.254.169.254/latest", "http://example.com/", "https://[fd00::1]/"):
            answer = await api.post("/v1/webhooks", json={"url": url})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        wish = {"url": f"https://localhost:{free_port()}/", "events": ["item.dismissed"]}
        made = (await api.post("/v1/webhooks", json=wish)).json()
        await api.post("/v1/users/flo/messages", json=creating("a", category="late"))
        await api.post("/v1/users/flo/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}})

        async def refused() -> Any:
            entries = (await api.get("/v1/users/flo/deliveries", params={"item": "a"})).json()["entries"]
            return next((entry for entry in entries if entry["webhook"] == made["id"] and entry["attempts"]), None)

        entry = await wait_until(refused, "it is refused", LONG_S)

    assert entry["state"] == "dead"
    assert [each["detail"] for each in entry["attempts"]] == ["the URL does not resolve to a public address"]
