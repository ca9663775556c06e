"""Deletion of a user: complete in every process and store within a minute, and nothing is sent meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.dev.fakes.__main__ import Fakes
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.redis.client import RedisClient
from tests.support.cluster import Cluster
from tests.support.servers import open_client
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

LONG_S = 40
MINUTE_S = 60
CATEGORIES = """
["now"]
title = "{{ id }}"
push = { after = "0s" }
["slow"]
title = "{{ id }}"
push = { after = "3s" }
"""
TOKEN = "a11ce0"


@dataclass(frozen=True, slots=True)
class ForgettingHarness:
    """A cluster of all services with fake providers in this process."""

    cluster: Cluster
    api: httpx.AsyncClient
    fakes: Fakes

    async def register(self, user: str) -> None:
        """Register alice's phone for a user."""
        wish = {"push": {"provider": "apns", "token": TOKEN}}
        assert (await self.api.put(f"/v1/users/{user}/devices/phone", json=wish)).status_code == 200

    async def create(self, user: str, item: str, category: str, **members: Any) -> None:
        body = {"create": {item: {"category": category}}}
        message = {"system": "gregor", "body": body, **members}
        assert (await self.api.post(f"/v1/users/{user}/messages", json=message)).status_code == 200

    async def states(self, user: str) -> dict[str, str]:
        """Return the state of the delivery of each item."""
        entries = (await self.api.get(f"/v1/users/{user}/deliveries")).json()["entries"]
        return {each["item"]: each["state"] for each in entries if each["channel"] == "apns"}

    def shown(self, user: str) -> list[str]:
        """Return the items of a user's pushes on a phone."""
        told = [each.payload["gregor"] for each in self.fakes.apns.delivered()]
        return [each["id"] for each in told if each["uid"] == user]


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ForgettingHarness]:
    async with AsyncExitStack() as stack:
        (tmp_path / "fakes").mkdir()
        fakes = await Fakes.start(tmp_path / "fakes")
        stack.push_async_callback(fakes.close)
        entries = tmp_path / "categories.toml"
        entries.write_text(CATEGORIES)
        apns: dict[str, Any] = {
            name.removeprefix("GREGOR_"): value for name, value in fakes.settings().items() if "APNS" in name
        }
        made = Cluster(
            tmp_path / "c", ingests=1, gateways=1, schedulers=1, deliveries=1, categories=str(entries), **apns
        )
        cluster = stack.enter_context(made)
        yield ForgettingHarness(cluster, await stack.enter_async_context(cluster.api()), fakes)


async def send_everything(harness: ForgettingHarness) -> None:
    """Send traffic of the other kinds: limited messages of a device, a stream that ends for good, revocations."""
    api, cluster = harness.api, harness.cluster
    tablet = {"Authorization": f"Bearer {cluster.token('alice', 'tablet')}"}
    read = {"system": "gregor", "body": {"dismiss": {"ids": ["unknown"]}}}
    assert (await api.post("/v1/users/alice/messages", json=read, headers=tablet)).status_code == 200
    async with (
        httpx.AsyncClient(base_url=cluster.stream_urls[0], headers=tablet, trust_env=False) as client,
        client.stream("GET", "/v1/stream?session=tab") as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        assert (await api.post("/v1/users/alice/revoke", json={"device": "tablet"})).is_success
        async for _ in lines:
            pass


async def trace(link: RedisClient, uid: str) -> set[str]:
    """Return all keys whose name or value contains a user id."""
    commands = {b"string": ("GET",), b"hash": ("HGETALL",), b"stream": ("XRANGE", "-", "+"), b"list": ("LRANGE", 0, -1)}
    found = set()
    for key in await link.call("KEYS", "*"):
        kind = bytes(await link.call("TYPE", key))
        command, *bounds = commands.get(kind, ("ZRANGE", 0, -1))
        content = b"" if kind == b"none" else await link.call(command, key, *bounds)
        if uid in f"{key!r} {content!r}":
            found.add(key.decode())
    return found


async def test_deleted_user_leaves_no_trace_within_a_minute(harness: ForgettingHarness) -> None:
    api = harness.api
    await harness.register("alice")
    harness.fakes.apns.script(
        TOKEN, ApnsAction(429, "TooManyRequests", retry_after="3600"), ApnsAction(400, "PayloadEmpty")
    )
    await api.put("/v1/users/alice/contact", json={"email": "alice@example.com"})
    await api.post("/v1/contact/suppressions", json={"email": "alice@example.com"})
    for item, state in (("waits", "retry"), ("dead", "dead"), ("sent", "sent")):
        await harness.create("alice", item, "now")

        async def is_so(item: str = item, state: str = state) -> bool:
            return (await harness.states("alice")).get(item) == state

        await wait_until(is_so, f"{item} is {state}", LONG_S)
    async with (
        open_client(harness.cluster.server.url) as link,
        WireDevice(harness.cluster.gateway_urls[0], harness.cluster.token("alice", "laptop"), {}) as laptop,
    ):
        await laptop.synced()
        await harness.create("alice", "slow", "slow")
        await send_everything(harness)
        await harness.create("alice", "later", "now", not_before=time.time() + 3)

        assert (await api.delete("/v1/users/alice")).status_code == 204

        assert (await laptop.closed())[0] == 4502
        await harness.register("bob")
        await harness.create("bob", "b", "slow")
        await wait_until(lambda: harness.shown("bob") == ["b"], "who has the phone now is told", LONG_S)

        async def is_forgotten() -> bool:
            # A suppression holds the address, here with the same name, for all users with this address.
            return not {key for key in await trace(link, "alice") if "suppress" not in key}

        await wait_until(is_forgotten, f"nothing names the user: {await trace(link, 'alice')}", MINUTE_S)
    assert harness.shown("alice") == ["sent"]
    assert (await api.get("/v1/deliveries/dead")).json() == {"entries": []}
    assert len((await api.get("/v1/contact/suppressions")).json()["entries"]) == 1
    await harness.create("alice", "anew", "now")
    assert list((await api.get("/v1/users/alice/state")).json()["items"]) == ["anew"]
    assert await harness.states("alice") == {}
