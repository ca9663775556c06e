"""All services run with the Redis user of docs/security.md, and each with its own of deploy/redis/users.acl."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gregor.clock import SystemClock
from gregor.dev.embedded_redis import HOST
from gregor.dev.fakes.http1 import FakeResponse
from gregor.dev.fakes.webhook import FakeWebhookReceiver
from tests.support.cluster import ROOT, Cluster
from tests.support.servers import BINARIES, exchange
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

pytestmark = pytest.mark.e2e


def documented_rules() -> list[str]:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    found = re.search(r"^ACL SETUSER gregor on >PASSWORD (.+)$", page, re.MULTILINE)
    assert found is not None
    return found[1].split()


class LimitedCluster(Cluster):
    """A cluster whose services log in as the user `gregor` with the documented rules."""

    def _environ(self, **more: str) -> dict[str, str]:
        url = f"redis://gregor:secret@{HOST}:{self.server.port}/0"
        return super()._environ(**{"GREGOR_REDIS_URL": url, **more})


SERVER_WIDE = (
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("FLUSHALL",),
    ("FUNCTION", "FLUSH"),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("SHUTDOWN",),
)
"""Commands that concern other applications on the same server."""


@pytest.mark.parametrize("binary", BINARIES)
async def test_documented_redis_rules_are_enough(binary: str, tmp_path: Path) -> None:
    """Creation, live frames, expiry, a delivery, a flush and the deletion of a user need no other permission."""
    options = ["--user", "gregor", "on", ">secret", *documented_rules()]
    with LimitedCluster(
        tmp_path / "c", server=binary, server_options=options, gateways=1, ingests=1, schedulers=1, deliveries=1
    ) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as device,
        ):
            item: dict[str, Any] = {"category": "mail", "body": 1, "times": {"expires": cluster.now_s() + 1.5}}
            answer = await api.post(
                "/v1/users/alice/messages", json={"system": "gregor", "body": {"create": {"aa": item}}}
            )
            assert answer.status_code == 200
            await wait_until(lambda: "expired" in str(device.frames), "the item expires", 20)
            assert (await api.post("/v1/users/alice/flush", json={})).is_success
            assert (await api.delete("/v1/users/alice")).is_success
        cluster.gregor("doctor", "--timeout", "20", "--redis", cluster._environ()["GREGOR_REDIS_URL"])
        assert cluster.server.say("ACL", "LOG") == "*0\r\n"
        for words in (*SERVER_WIDE, ("GET", "other:key")):
            denied = exchange(cluster.server.port, "ACL", "DRYRUN", "gregor", *words)
            assert "no permissions" in denied


SERVICES = ("ingest", "gateway", "scheduler", "delivery", "admin")
ACL_FILE = ROOT / "deploy" / "redis" / "users.acl"
FORBIDDEN = [
    ("gregor-gateway", "HSET", "gregor:keys", "id", "key"),
    ("gregor-gateway", "XADD", "gregor:{0}:x", "*", "field", "value"),
    ("gregor-gateway", "XLEN", "gregor:deliveries:apns"),
    ("gregor-scheduler", "HGETALL", "gregor:keys"),
    ("gregor-scheduler", "HSET", "gregor:webhooks", "id", "webhook"),
    ("gregor-delivery", "HGETALL", "gregor:keys"),
    ("gregor-delivery", "ZADD", "gregor:forgotten", "1", "hash"),
    ("gregor-ingest", "XADD", "gregor:deliveries:apns", "*", "field", "value"),
    ("gregor-backup", "GET", "gregor:keys"),
    *((f"gregor-{name}", *words) for name in (*SERVICES, "backup") for words in SERVER_WIDE),
    *((f"gregor-{name}", "GET", "other:key") for name in SERVICES),
]


class SeparateUsersCluster(Cluster):
    """A cluster whose services log in as the users of deploy/redis/users.acl. The test itself is `root`."""

    def __init__(self, directory: Path, server: str, acl: Path, **settings: str) -> None:
        super().__init__(
            directory,
            server=server,
            server_options=["--aclfile", str(acl)],
            gateways=1,
            ingests=1,
            schedulers=1,
            deliveries=1,
            **settings,
        )
        for service in self.services:
            name = service.name.partition("-")[0]
            service.environ = {**service.environ, **self._urls(f"gregor-{name}", f"{name.upper()}_PASSWORD")}

    def _urls(self, user: str, password: str) -> dict[str, str]:
        url = f"redis://{user}:{password}@{HOST}:{self.server.port}/0"
        return {"GREGOR_REDIS_URL": url, "GREGOR_QUEUE_URL": url}

    def _environ(self, **more: str) -> dict[str, str]:
        return super()._environ(**{**self._urls("gregor-admin", "ADMIN_PASSWORD"), **more})


@pytest.mark.parametrize("binary", BINARIES)
async def test_each_service_needs_only_its_own_user(binary: str, tmp_path: Path) -> None:
    """Keys, types, webhooks, tickets, timers, delayed messages, deliveries and deletions are permitted."""
    acl = tmp_path / "users.acl"
    # The server of a test has no password for the test itself.
    acl.write_text(ACL_FILE.read_text("utf-8").replace("user default off", "user default on nopass"))
    with SeparateUsersCluster(tmp_path / "c", binary, acl) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as device,
        ):
            webhook = {"url": "https://hooks.example/", "events": ["item.expired"]}
            assert (await api.post("/v1/webhooks", json=webhook)).status_code == 201
            assert (await api.post("/v1/keys", json={"scopes": ["ingest"]})).status_code == 201
            item: dict[str, Any] = {"category": "mail", "body": 1, "times": {"expires": cluster.now_s() + 1.5}}
            answer = await api.post(
                "/v1/users/alice/messages", json={"system": "gregor", "body": {"create": {"aa": item}}}
            )
            assert answer.status_code == 200
            later: dict[str, Any] = {
                "system": "gregor",
                "body": {"create": {"bb": {"category": "mail"}}},
                "not_before": cluster.now_s() + 1,
            }
            assert (await api.post("/v1/users/alice/messages", json=later)).is_success
            await wait_until(lambda: "expired" in str(device.frames), "the item expires", 20)
            await wait_until(lambda: "bb" in str(device.frames), "the delayed message is committed", 20)
            ticket = (await api.post("/v1/tickets", json={"uid": "alice", "observe": True})).json()["ticket"]
            async with StreamDevice(cluster.stream_urls[0], {"ticket": ticket}) as observer:
                await observer.until('"sync"')
            assert (await api.post("/v1/users/alice/flush", json={})).is_success
            assert (await api.delete("/v1/users/alice")).is_success
        cluster.gregor("doctor", "--timeout", "20", "--redis", cluster._environ()["GREGOR_REDIS_URL"])
        assert cluster.server.say("ACL", "LOG") == "*0\r\n"
        for user, *words in FORBIDDEN:
            denied = exchange(cluster.server.port, "ACL", "DRYRUN", user, *words)
            assert "no permissions" in denied, (user, words)


@pytest.mark.parametrize("binary", BINARIES)
async def test_delivery_disables_a_webhook_with_its_own_user(binary: str, tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text(ACL_FILE.read_text("utf-8").replace("user default off", "user default on nopass"))
    receiver = FakeWebhookReceiver("", SystemClock().now_us)
    await receiver.start()
    receiver.answers.append(FakeResponse(410))
    with SeparateUsersCluster(tmp_path / "c", binary, acl, webhook_loopback="true") as cluster:
        async with cluster.api() as api:
            created = (await api.post("/v1/webhooks", json={"url": receiver.url, "events": ["item.dismissed"]})).json()
            receiver.secret = created["secret"]
            for body in ({"create": {"a": {"category": "mail"}}}, {"dismiss": {"ids": ["a"]}}):
                message = {"system": "gregor", "body": body}
                assert (await api.post("/v1/users/alice/messages", json=message)).is_success

            async def is_disabled() -> bool:
                return not (await api.get(f"/v1/webhooks/{created['id']}")).json()["enabled"]

            await wait_until(is_disabled, "delivery disables the webhook", 20)
        assert cluster.server.say("ACL", "LOG") == "*0\r\n"
    await receiver.close()
