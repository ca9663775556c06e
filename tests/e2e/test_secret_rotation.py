"""Token secret, link secret, service key, password of Redis and login of the relay are rotated under load: no request
fails, and no process restarts (docs/how-to/rotate-secrets.md).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.auth.device_tokens import mint
from gregor.core.notify.unsubscribe_token import derive_key, make_token
from gregor.dev.embedded_redis import HOST
from gregor.dev.fakes.smtp import FakeSmtp
from tests.support.cluster import Cluster
from tests.support.servers import BINARIES
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

CATEGORIES = '[mail]\ntitle = "about {{ id }}"\nemail = { after = "0s", unless = "foreground" }\n'


class RotatingCluster(Cluster):
    """A cluster whose secrets are in files."""

    in_files: tuple[str, ...] = ("REDIS_URL", "TOKEN_SECRET", "LINK_SECRET", "SMTP_URL")

    def write(self, name: str, *lines: str) -> None:
        """Replace a file of secrets as a whole."""
        path = self.directory / f"{name}.secret"
        path.with_suffix(".new").write_text("".join(f"{line}\n" for line in lines))
        path.with_suffix(".new").replace(path)

    def redis_url(self, password: str) -> str:
        return f"redis://gregor:{password}@{HOST}:{self.server.port}/0"

    async def reloaded(self, setting: str, times: int) -> None:
        """Wait until all services use the `times`-th change of a setting."""

        def is_reloaded() -> bool:
            logs = [service.log.read_text("utf-8").splitlines() for service in self.services]
            return all(sum("secret.reloaded" in line and setting in line for line in lines) >= times for lines in logs)

        await wait_until(is_reloaded, f"all services have reloaded {setting}", 30)

    def _environ(self, **more: str) -> dict[str, str]:
        environ = super()._environ(**more)
        for name in self.in_files:
            environ.pop(f"GREGOR_{name}", None)
            environ[f"GREGOR_{name}_FILE"] = str(self.directory / f"{name}.secret")
        return environ


class Load:
    """Requests of backends and devices until `stop`, with the credentials that a test changes meanwhile."""

    def __init__(self, cluster: Cluster, key: str, token_secret: str) -> None:
        self.key, self.token_secret = key, token_secret
        self.links: list[str] = []
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, api: httpx.AsyncClient) -> None:
        for act in (self._create, self._read, self._connect, self._unsubscribe):
            self._tasks.append(asyncio.create_task(self._repeat(act, api)))

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def progress(self) -> None:
        """Wait until each kind of request has begun and ended with the current credentials."""
        before = self.done.copy()
        await wait_until(lambda: all(self.done[name] >= before[name] + 3 for name in before), "the load goes on", 30)

    def token(self, device: str = "phone") -> str:
        return mint(self.token_secret, "alice", device, 3_600, now_us=round(self._cluster.now_s() * 1e6))

    async def _repeat(self, act: Callable[[httpx.AsyncClient], Awaitable[object]], api: httpx.AsyncClient) -> None:
        name = act.__name__
        while not self._stopping:
            try:
                await act(api)
            except (AssertionError, OSError, httpx.HTTPError) as error:
                self.failures.append(f"{name}: {type(error).__name__} {error}")
            self.done[name] += 1

    async def _create(self, api: httpx.AsyncClient) -> None:
        item = {"category": "badge", "body": 1, "times": {"expires": "+60"}}
        # Twenty items at most: the cost of a read is charged, and the state must not grow with the speed of the load.
        document = {"system": "gregor", "body": {"create": {f"item-{self.done['_create'] % 20}": item}}}
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = await api.post("/v1/users/alice/messages", json=document, headers=headers)
        assert answer.status_code == 200, answer.text

    async def _read(self, api: httpx.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {self.token()}"}
        answer = await api.get("/v1/users/alice/state", headers=headers)
        assert answer.status_code == 200, answer.text

    async def _connect(self, _: httpx.AsyncClient) -> None:
        # One device may not connect as often as this loop does.
        token = self.token(f"tablet-{self.done['_connect'] % 50}")
        async with WireDevice(self._cluster.gateway_urls[0], token, {}) as device:
            await device.synced()

    async def _unsubscribe(self, api: httpx.AsyncClient) -> None:
        for secret in self.links:
            answer = await api.get(link(secret))
            assert answer.status_code == 200, answer.text


def link(secret: str) -> str:
    return f"/v1/unsubscribe/{make_token(derive_key(secret), 'alice', ['news'])}"


class TokenFileCluster(RotatingCluster):
    """A cluster whose token secret is in a file."""

    in_files = ("TOKEN_SECRET",)


async def rotate_token_secret(cluster: RotatingCluster, load: Load, api: httpx.AsyncClient) -> None:
    old, new = load.token_secret, secrets.token_urlsafe(32)
    old_token = load.token()
    cluster.write("TOKEN_SECRET", new, old)
    await cluster.reloaded("GREGOR_TOKEN_SECRET", 1)
    load.token_secret = new
    await load.progress()
    cluster.write("TOKEN_SECRET", new)
    await cluster.reloaded("GREGOR_TOKEN_SECRET", 2)
    refused = await api.get("/v1/users/alice/state", headers={"Authorization": f"Bearer {old_token}"})
    assert refused.status_code == 401
    async with WireDevice(cluster.gateway_urls[0], old_token, {}) as device:
        assert (await device.closed())[0] == 4501


async def rotate_link_secret(cluster: RotatingCluster, load: Load, api: httpx.AsyncClient) -> None:
    [old], new = load.links, secrets.token_urlsafe(32)
    cluster.write("LINK_SECRET", new, old)
    await cluster.reloaded("GREGOR_LINK_SECRET", 1)
    load.links = [new, old]
    await load.progress()
    load.links = [new]
    await load.progress()
    cluster.write("LINK_SECRET", new)
    await cluster.reloaded("GREGOR_LINK_SECRET", 2)
    assert (await api.get(link(old))).status_code == 404


async def rotate_service_key(load: Load, api: httpx.AsyncClient) -> None:
    old = load.key
    answer = await api.post(f"/v1/keys/{old.split('_')[1]}/rotate", headers={"Authorization": f"Bearer {old}"})
    assert answer.status_code == 200, answer.text
    await load.progress()
    load.key = answer.json()["key"]
    await load.progress()
    assert load.key != old


async def rotate_redis_password(cluster: RotatingCluster, load: Load) -> None:
    cluster.server.say("ACL", "SETUSER", "gregor", ">two")
    cluster.write("REDIS_URL", cluster.redis_url("two"))
    await cluster.reloaded("GREGOR_REDIS_URL", 1)
    cluster.server.say("ACL", "SETUSER", "gregor", "<one")
    await load.progress()


async def rotate_relay_login(cluster: RotatingCluster, relay: FakeSmtp, api: httpx.AsyncClient, key: str) -> None:
    async def mail_arrives(item_id: str) -> None:
        document: dict[str, Any] = {"system": "gregor", "body": {"create": {item_id: {"category": "mail", "body": 1}}}}
        answer = await api.post("/v1/users/bob/messages", json=document, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200, answer.text
        sent = f"about {item_id}".encode()
        await wait_until(lambda: any(sent in mail.content for mail in relay.mails), f"the mail of {item_id}", 40)

    await mail_arrives("first")
    relay.password = "two"
    cluster.write("SMTP_URL", relay.url)
    await wait_until(lambda: "GREGOR_SMTP_URL" in cluster.deliveries[0].log.read_text(), "delivery has the login", 30)
    relay.drop_all()
    await mail_arrives("second")


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_secrets_are_rotated_under_load(tmp_path: Path) -> None:
    (tmp_path / "categories.toml").write_text(CATEGORIES)
    options = ["--user", "gregor", "on", ">one", "~*", "&*", "+@all"]
    cluster = RotatingCluster(
        tmp_path / "c", server=BINARIES[0], server_options=options, ingests=1, gateways=1, schedulers=1, deliveries=1,
        categories=str(tmp_path / "categories.toml"), mail_from="Gregor <gregor@example.com>",
        public_url="https://gregor.example", device_rate="1000", device_burst="1000", user_rate="1000",
        resync_rate="1000", device_request_rate="10000", device_request_burst="10000", user_request_rate="10000",
        user_request_burst="10000",
    )  # fmt: skip
    relay, link_secret = FakeSmtp(user="gregor", password="one"), secrets.token_urlsafe(32)
    async with AsyncExitStack() as stack:
        await relay.start()
        stack.push_async_callback(relay.close)
        cluster.write("REDIS_URL", cluster.redis_url("one"))
        cluster.write("TOKEN_SECRET", cluster.secret)
        cluster.write("LINK_SECRET", link_secret)
        cluster.write("SMTP_URL", relay.url)
        stack.enter_context(cluster)
        api = await stack.enter_async_context(cluster.api(""))
        del api.headers["Authorization"]
        pids = cluster.pids
        contact = {"email": "bob@example.com"}
        known = await api.put("/v1/users/bob/contact", json=contact, headers={"Authorization": f"Bearer {cluster.key}"})
        assert known.status_code == 200
        load = Load(cluster, cluster.key, cluster.secret)
        load.links = [link_secret]
        watcher = await stack.enter_async_context(WireDevice(cluster.gateway_urls[0], load.token(), {}))
        load.start(api)
        await wait_until(lambda: len(load.done) == 4, "the load runs")

        await rotate_token_secret(cluster, load, api)
        device = await stack.enter_async_context(WireDevice(cluster.gateway_urls[0], load.token(), {}))
        assert await watcher.closed() == (4004, "token_expired"), "its secret was removed"
        await rotate_link_secret(cluster, load, api)
        await rotate_service_key(load, api)
        await rotate_redis_password(cluster, load)
        await rotate_relay_login(cluster, relay, api, load.key)
        await load.stop()

        assert load.failures == []
        assert min(load.done.values()) >= 20
        assert device.close_code is None, "an open connection stays open"
        assert cluster.pids == pids
        await new_connections_use_the_new_password(cluster, load, api)
        shown = cluster.logs()
        assert all(secret not in shown for secret in (cluster.secret, load.token_secret, link_secret, load.key))


async def new_connections_use_the_new_password(cluster: RotatingCluster, load: Load, api: httpx.AsyncClient) -> None:
    """Cut all connections to Redis: each service logs in again."""
    assert cluster.server.say("CLIENT", "KILL", "USER", "gregor").startswith(":")

    async def is_accepted() -> bool:
        headers = {"Authorization": f"Bearer {load.key}"}
        document = {"system": "gregor", "body": {"create": {"after": {"category": "badge", "body": 1}}}}
        return (await api.post("/v1/users/alice/messages", json=document, headers=headers)).status_code == 200

    await wait_until(is_accepted, "ingest is connected again", 30)
    for service in cluster.services:
        service.wait_ready()
    assert "WRONGPASS" not in cluster.logs()


async def test_removed_secret_ends_what_its_tokens_opened(tmp_path: Path) -> None:
    """A leaked secret is replaced at once: its WebSocket and its stream are closed, and its tickets open no other."""
    cluster = TokenFileCluster(tmp_path / "c", ingests=1, gateways=1, schedulers=0, deliveries=0)
    leaked, new = cluster.secret, secrets.token_urlsafe(32)
    cluster.write("TOKEN_SECRET", leaked)
    with cluster:
        now_us = round(cluster.now_s() * 1e6)
        thief, device = mint(leaked, "alice", "thief", 29 * 86_400, now_us=now_us), cluster.gateway_urls[0]
        async with AsyncExitStack() as stack:
            stolen = await stack.enter_async_context(cluster.api(thief))
            tickets = [(await stolen.post("/v1/tickets", json={})).json()["ticket"] for _ in range(2)]
            socket = await stack.enter_async_context(WireDevice(device, thief, {}))
            stream = await stack.enter_async_context(StreamDevice(cluster.stream_urls[0], {"ticket": tickets[0]}))
            following = (await stream.until("welcome"))["welcome"]["ticket"]
            await socket.synced()
            cluster.write("TOKEN_SECRET", new, leaked)
            await cluster.reloaded("GREGOR_TOKEN_SECRET", 1)
            own = mint(new, "alice", "phone", 3_600, now_us=now_us)
            phone = await stack.enter_async_context(WireDevice(device, own, {}))
            await phone.synced()

            cluster.write("TOKEN_SECRET", new)
            await cluster.reloaded("GREGOR_TOKEN_SECRET", 2)

            assert await socket.closed(10) == (4004, "token_expired")
            assert (await stream.until("close", 10))["close"]["code"] == 4004
            for text in (tickets[1], following):
                again = await stack.enter_async_context(StreamDevice(cluster.stream_urls[0], {"ticket": text}))
                assert again.status == 401
            assert phone.close_code is None
