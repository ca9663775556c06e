"""Upgrades with real processes: two releases side by side, the finish, and releases that are too old afterwards."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor import __version__
from gregor.history.checker import check_file
from gregor.history.recorder import HistoryRecorder
from gregor.redis.client import RedisClient
from gregor.store.redis.keys import Keys
from tests.chaos.run import ChaosPlan, run_load
from tests.support.cluster import ROOT, Cluster, Service
from tests.support.fake_providers import FakeProviders, running
from tests.support.next_release import HEAD_2, RELEASE, add_next_release, make_next_release, runs
from tests.support.servers import open_client
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

UPGRADE, FINISH = "/v1/upgrade", "/v1/upgrade/finish"


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """The code of a release with format 2."""
    return make_next_release(tmp_path / "next")


@pytest.fixture
def providers(tmp_path: Path) -> Iterator[FakeProviders]:
    (tmp_path / "fakes").mkdir()
    with running(tmp_path / "fakes") as found:
        yield found


def one_of_each(directory: Path, providers: FakeProviders, count: int = 1) -> Cluster:
    """Return a cluster of this release, in which each item of the category `user` is pushed at once."""
    entries = directory / "categories.toml"
    entries.write_text('["user"]\ntitle = "{{ body.who }} joined"\npush = { after = "0s" }\n')
    return Cluster(
        directory / "c", ingests=count, gateways=count, schedulers=count, deliveries=count,
        categories=str(entries), **providers.options("APNS"),
    )  # fmt: skip


def joined(item_id: str, who: str) -> dict[str, Any]:
    item = {"category": "user.joined", "body": {"who": who}, "times": {"remind_at": ["+0.1"]}}
    return {"system": "gregor", "body": {"create": {item_id: item}}}


async def register_phone(api: httpx.AsyncClient, uid: str) -> None:
    push = {"provider": "apns", "token": uid.encode().hex()}
    answer = await api.put(f"/v1/users/{uid}/devices/phone", json={"platform": "ios", "push": push})
    assert answer.status_code in (200, 201), answer.text


async def stored_head(client: RedisClient, uid: str) -> bytes:
    head: bytes = await client.call("HGET", Keys("gregor").of_user(uid).state, ".h")
    return head


# ---- two releases side by side


async def test_two_releases_work_until_the_finish(tmp_path: Path, next_release: Path, providers: FakeProviders) -> None:
    """A creation, a reminder and a push through each; then format 2 from the new release, and no start of the old."""
    with one_of_each(tmp_path, providers) as cluster:
        add_next_release(cluster, next_release)
        old = [services[0] for services in (cluster.ingests, cluster.gateways, cluster.schedulers, cluster.deliveries)]
        async with (
            cluster.api(ingest=0) as first,
            cluster.api(ingest=1) as second,
            open_client(cluster.server.url) as client,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "desk"), {}) as desk,
            WireDevice(cluster.gateway_urls[1], cluster.token("alice", "tablet"), {}) as tablet,
        ):
            await register_phone(first, "alice")
            for number, api in enumerate((first, second)):
                await api.post("/v1/users/alice/messages", json=joined(f"i{number}", f"mixed-{number}"))
            for device in (desk, tablet):
                await wait_until(lambda device=device: reminded(device) == {"i0", "i1"}, "the reminders")
            await wait_until(lambda: {"mixed-0 joined", "mixed-1 joined"} <= set(providers.titles()), "the pushes")
            assert (await stored_head(client, "alice"))[:1] == b"H"

            found = (await second.get(UPGRADE)).json()
            assert (found["state"], found["written"], found["newest"]) == ("blocked", 1, 2)
            assert {each["release"] for each in found["processes"] if each["blocks"]} == {__version__}
            assert (await second.post(FINISH)).json()["code"] == "upgrade_blocked"

            for service in old:
                service.signal(signal.SIGTERM)
            for service in old:
                await asyncio.to_thread(service.wait)
            assert (await second.post(FINISH)).json()["state"] == "finished"
            assert (await second.post(FINISH)).json()["written"] == 2
            await second.post("/v1/users/alice/messages", json=joined("i2", "after"))
            await wait_until(lambda: "i2" in reminded(tablet), "the reminder")
            await wait_until(lambda: "after joined" in providers.titles(), "the push")

            assert (await stored_head(client, "alice"))[:2] == HEAD_2
            assert (await second.get("/v1/users/alice/state")).json()["digest"] == tablet.mirror.digest
        cluster.gateways[0].start()
        assert cluster.gateways[0].wait() == 1
        assert f"start gregor {RELEASE} or another release" in cluster.gateways[0].said()


def reminded(device: WireDevice) -> set[str]:
    return {item for frame in device.live for item in frame["body"].get("remind", ())}


# ---- releases that are too old


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """The processes of each service, none of which is started."""
    return Cluster(tmp_path, gateways=1, ingests=1, schedulers=1, deliveries=1)


@pytest.mark.parametrize("written", ["2", "1"])
def test_service_refuses_data_that_it_cannot_read(cluster: Cluster, written: str) -> None:
    """Each service ends with one line that names a release that can; also while an upgrade is being finished."""
    cluster.server.start()
    finishing = ("finishing", "2 abc") if written == "1" else ()
    cluster.server.say("HSET", "gregor:formats", "written", written, "release", "9.8.7", "oldest", "1", *finishing)
    try:
        for service in cluster.services:
            service.start()
        for service in cluster.services:
            assert service.wait() == 1, service.said()
            name = service.name.removesuffix("-0")
            last = service.said().splitlines()[-1]
            assert last == (
                f"gregor {name}: the data of this deployment has format 2, and gregor {__version__} reads formats 1 "
                "to 1; start gregor 9.8.7 or another release that reads format 2"
            )
            assert "Traceback" not in service.said()
        assert cluster.server.say("ZCARD", "gregor:processes").strip() == ":0"
    finally:
        cluster.__exit__()


# ---- under load


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_upgrade_under_load_keeps_every_law(tmp_path: Path, next_release: Path, providers: FakeProviders) -> None:
    """Half of the processes run the next release, go back, and come again; then all do, and the upgrade is finished.

    The recorded history has no anomaly, every device ends equal to the server, and each push arrives once.
    """
    chosen, file = ChaosPlan(7, users=10, rate=15), tmp_path / "history.jsonl"
    with one_of_each(tmp_path, providers, count=2) as cluster, HistoryRecorder(file) as recorder:
        upgrade = UpgradeUnderLoad(cluster, next_release)
        outcome = asyncio.run(run_load(chosen, cluster, recorder, upgrade.run))
        heads = asyncio.run(upgrade.heads())
        outcome.logs = cluster.said()
    outcome.report = check_file(file, jobs=1)

    assert outcome.is_clean, outcome.describe(chosen, file) + outcome.logs
    assert outcome.outcomes["ok"] > 100
    assert sorted(each for each in providers.titles() if each.startswith("step-")) == upgrade.titles
    assert {head[:2] for head in heads} >= {HEAD_2}


class UpgradeUnderLoad:
    """The steps of an operator, with a push to a phone after each of them."""

    def __init__(self, cluster: Cluster, next_release: Path) -> None:
        self.titles: list[str] = []
        self._cluster = cluster
        self._next = next_release
        self._uids: list[str] = []

    async def run(self, uids: list[str]) -> None:
        self._uids = uids
        second = [services[1] for services in self._groups]
        async with self._cluster.api(ingest=0) as api:
            await register_phone(api, "away")
        for code in (self._next, ROOT, self._next):
            await self._roll(second, code)
            await self._push()
            assert (await self._finish()).status_code == (200 if code is ROOT else 409)
        await self._roll([services[0] for services in self._groups], self._next)
        assert (await self._finish()).json()["state"] == "finished"
        await self._push()
        await wait_until(self._all_write_the_new_format, "all processes write format 2", 40)
        await self._push()
        late = self._cluster.gateways[0]
        await self._stop(late)
        runs(late, ROOT)
        late.start()
        assert await asyncio.to_thread(late.wait) == 1
        await self._roll([late], self._next)

    @property
    def _groups(self) -> list[list[Service]]:
        cluster = self._cluster
        return [cluster.deliveries, cluster.schedulers, cluster.gateways, cluster.ingests]

    async def _roll(self, services: list[Service], code: Path) -> None:
        """Replace one process of each service, while the other ones serve."""
        await self._stop(*services)
        for service in services:
            runs(service, code)
            service.start()
        for service in services:
            await asyncio.to_thread(service.wait_ready)

    async def _stop(self, *services: Service) -> None:
        running = [service for service in services if service.is_running]
        for service in running:
            service.signal(signal.SIGTERM)
        for service in running:
            await asyncio.to_thread(service.wait)

    async def _push(self) -> None:
        self.titles.append(f"step-{len(self.titles)} joined")
        who = self.titles[-1].split()[0]
        body = {"create": {who: {"category": "user", "body": {"who": who}}}}
        async with self._cluster.api(ingest=0) as api:
            answer = await api.post("/v1/users/away/messages", json={"system": "gregor", "body": body})
            assert answer.status_code == 200

    async def _finish(self) -> httpx.Response:
        async with self._cluster.api(ingest=1) as api:
            return await api.post(FINISH)

    async def _all_write_the_new_format(self) -> bool:
        async with self._cluster.api(ingest=1) as api:
            return {each["writes"] for each in (await api.get(UPGRADE)).json()["processes"]} == {2}

    async def heads(self) -> list[bytes]:
        async with open_client(self._cluster.server.url) as client:
            return [await stored_head(client, uid) for uid in self._uids]
