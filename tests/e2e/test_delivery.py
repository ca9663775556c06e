"""From a message to a push, with real processes and fake providers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.fake_providers import FakeProviders, running
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProviders]:
    """Run the fake providers in a separate process."""
    with running(tmp_path_factory.mktemp("fakes")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, providers: FakeProviders) -> Iterator[Cluster]:
    """Run a cluster with one scheduler and two delivery processes that use the fakes."""
    directory = tmp_path_factory.mktemp("delivery")
    entries = directory / "categories.toml"
    entries.write_text(
        '["user"]\ntitle = "{{ body.who }} joined"\npush = { after = "0s" }\n'
        '["slow"]\ntitle = "{{ body.who }} joined"\npush = { after = "1s" }\n'
        '["inbox"]\ntitle = "{{ body.count }} mails"\nlink = "app://inbox/{{ body.box }}"\n'
        'collapse = "{{ body.box }}"\npush = { after = "0s" }\n'
    )
    pushes = providers.options("APNS", "FCM", "VAPID", "WEBPUSH")
    with Cluster(
        directory / "c", ingests=1, gateways=1, schedulers=1, deliveries=2,
        categories=str(entries), log_level="debug", **pushes,
    ) as cluster:  # fmt: skip
        yield cluster


def joined(item_id: str, who: str, category: str = "user") -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {item_id: {"category": category, "body": {"who": who}}}}}


def phone_of(user: str) -> dict[str, Any]:
    """Return a registration with a push token of this user."""
    return {"platform": "ios", "push": {"provider": "apns", "token": user.encode().hex()}}


async def test_absent_device_gets_one_push(cluster: Cluster, providers: FakeProviders) -> None:
    async with cluster.api() as api:
        await api.put("/v1/users/away/devices/phone", json=phone_of("away"))
        await api.post("/v1/users/away/messages", json=joined("a", "kbob"))
        await api.post("/v1/users/away/messages", json=joined("b", "carol"))
        await wait_until(lambda: {"kbob joined", "carol joined"} <= set(providers.titles()), "both pushes arrive")

    assert providers.titles().count("kbob joined") == providers.titles().count("carol joined") == 1
    [last] = [line for line in providers.arrived if line["title"] == "carol joined"]
    assert (last["channel"], last["badge"]) == ("apns", 2)


async def test_link_collapse_and_badge_of_a_push(cluster: Cluster, providers: FakeProviders) -> None:
    tokens = {"apns": b"dialer".hex(), "fcm": "token-of-dialer", "webpush": providers.subscription}

    def came(channel: str) -> list[dict[str, Any]]:
        return [line for line in providers.of("dialer") if line["channel"] == channel]

    async with cluster.api() as api:
        for channel, token in tokens.items():
            push = {"provider": channel, "token": token}
            answer = await api.put(f"/v1/users/dialer/devices/{channel}", json={"platform": "web", "push": push})
            assert answer.status_code == 200, answer.text
        for count, box in ((1, "work"), (2, "work"), (3, "home")):
            body = {"create": {f"m{count}": {"category": "inbox", "body": {"count": count, "box": box}}}}
            await api.post("/v1/users/dialer/messages", json={"system": "gregor", "body": body})
            await wait_until(lambda: all(len(came(channel)) == count for channel in tokens), f"{count} each")  # noqa: B023

    for channel in tokens:
        assert [(line["title"], line["badge"]) for line in came(channel)] == [(f"{n} mails", n) for n in (1, 2, 3)]
        assert [line["link"] for line in came(channel)] == ["app://inbox/work"] * 2 + ["app://inbox/home"]
        first, second, third = (line["collapse"] for line in came(channel))
        assert first == second != third


async def test_background_device_gets_a_push(cluster: Cluster, providers: FakeProviders) -> None:
    async with cluster.api() as api:
        await api.put("/v1/users/idle/devices/phone", json=phone_of("idle"))
        async with WireDevice(cluster.gateway_urls[0], cluster.token("idle", "phone"), {}) as phone:
            await phone.synced()
            await api.post("/v1/users/idle/messages", json=joined("a", "idle"))
            await wait_until(lambda: "idle joined" in providers.titles(), "the push arrives")


async def test_seen_and_dismissed_items_are_not_pushed(cluster: Cluster, providers: FakeProviders) -> None:
    async with cluster.api() as api:
        for user in ("looks", "acks", "dismisses", "last"):
            await api.put(f"/v1/users/{user}/devices/phone", json=phone_of(user))
        url = cluster.gateway_urls[0]
        looking = WireDevice(url, cluster.token("looks", "phone"), {"foreground": True})
        acking = WireDevice(url, cluster.token("acks", "phone"), {})
        async with looking, acking:
            await looking.synced()
            await acking.synced()
            await api.post("/v1/users/looks/messages", json=joined("a", "seen"))
            await api.post("/v1/users/acks/messages", json=joined("a", "shown", "slow"))
            frame = await acking.until(lambda frame: "create" in frame.get("body", {}), "the item")
            await acking.send({"ack": frame["seq"]})
            await api.post("/v1/users/dismisses/messages", json=joined("a", "gone", "slow"))
            await api.post(
                "/v1/users/dismisses/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}}
            )
            await api.post("/v1/users/last/messages", json=joined("a", "last", "slow"))
            await wait_until(lambda: "last joined" in providers.titles(), "what came after them arrives")

    assert not {"seen joined", "shown joined", "gone joined"} & set(providers.titles())


async def test_deliveries_endpoint_reports_the_push(cluster: Cluster, providers: FakeProviders) -> None:
    async with cluster.api() as api:
        await api.put("/v1/users/curious/devices/phone", json=phone_of("curious"))
        await api.post("/v1/users/curious/messages", json=joined("a", "curious"))

        async def sent() -> dict[str, Any] | None:
            entries = (await api.get("/v1/users/curious/deliveries", params={"item": "a"})).json()["entries"]
            return next((entry for entry in entries if entry["state"] == "sent"), None)

        entry = await wait_until(sent, "it is sent")

    assert (entry["intent"], entry["channel"], entry["device"], entry["reason"]) == ("item", "apns", "phone", None)
    [tried] = entry["attempts"]
    assert tried["status"] == "200" and tried["provider_id"]


async def test_dead_token_is_deleted_and_never_logged(cluster: Cluster, providers: FakeProviders) -> None:
    endpoint = f"{providers.subscription['endpoint']}-that-its-browser-forgot"
    push = {"provider": "webpush", "token": {**providers.subscription, "endpoint": endpoint}}
    async with cluster.api() as api:
        await api.put("/v1/users/moved/devices/browser", json={"platform": "web", "push": push})
        await api.post("/v1/users/moved/messages", json=joined("a", "moved"))

        async def became() -> dict[str, Any] | None:
            entries = (await api.get("/v1/users/moved/deliveries", params={"item": "a"})).json()["entries"]
            return next((entry for entry in entries if entry["state"] == "dead"), None)

        entry = await wait_until(became, "it is dead")
        device = (await api.get("/v1/users/moved/devices/browser")).json()

    assert (entry["reason"], entry["attempts"][-1]["status"], device["push"]) == ("device_gone", "410", None)
    logs = cluster.logs()
    assert "the subscription is gone" in logs
    keys = providers.subscription["keys"]
    tokens = (user.encode().hex() for user in ("away", "idle", "dialer", "curious"))
    secrets = ("that-its-browser-forgot", keys["p256dh"], keys["auth"], "token-of-dialer", *tokens, cluster.key)
    assert not [secret for secret in secrets if secret in logs]


async def test_push_survives_a_killed_worker(cluster: Cluster, providers: FakeProviders) -> None:
    async with cluster.api() as api:
        await api.put("/v1/users/heir/devices/phone", json=phone_of("heir"))
        cluster.deliveries[0].kill()
        await api.post("/v1/users/heir/messages", json=joined("a", "heir"))
        await wait_until(lambda: "heir joined" in providers.titles(), "the other process sends it")
        cluster.deliveries[0].start()
        cluster.deliveries[0].wait_ready()
