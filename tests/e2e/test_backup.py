"""Restore of an older backup, by the commands of the guide: devices end equal to the server, and what is sent twice."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.dev.embedded_redis import find_server
from gregor.history.recorder import HistoryRecorder
from tests.chaos.recording_devices import PollingDevice, RecordingDevice, StreamingDevice, WebSocketDevice
from tests.support.cluster import KEEP_ALL, ROOT, Cluster
from tests.support.fake_providers import FakeProviders, running
from tests.support.machine import Waiting
from tests.support.wait import wait_until

PAGE = (ROOT / "docs" / "how-to" / "backup.md").read_text("utf-8")
ACL = (ROOT / "deploy" / "redis" / "users.acl").read_text("utf-8")
ONLINE_S = 35
"""The bound of the guide for a connected device, from the start of the restored server."""
USERS = ("lost", "undone", "new", "same", "forked")
"""After the backup: an item of `lost` and `forked` is created, one of `undone` dismissed, and `new` begins."""


def block_after(heading: str) -> str:
    """Return the first block of shell commands below a heading of the guide."""
    found = re.search(rf"^## {heading}$.*?```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def back_up(cluster: Cluster, directory: Path) -> Path:
    """Copy the data set with the user of `users.acl`, which may do nothing else."""
    rules = next(line for line in ACL.splitlines() if line.startswith("user gregor-backup "))
    assert cluster.server.say("ACL", "SETUSER", *rules.split()[1:]) == "+OK\r\n"
    assert "-h redis.example -p 6379 " in block_after("Back up")
    command = block_after("Back up").replace("-h redis.example -p 6379 ", f"-h 127.0.0.1 -p {cluster.server.port} ")
    environ = {**os.environ, "REDISCLI_AUTH": "BACKUP_PASSWORD"}
    subprocess.run(["sh", "-euc", command], cwd=directory, env=environ, check=True, capture_output=True)
    return directory / "gregor.rdb"


def restore(cluster: Cluster, backup: Path) -> None:
    environ = {**os.environ, "DATA": str(cluster.server.directory), "BACKUP": str(backup)}
    subprocess.run(["sh", "-euc", block_after("Restore")], env=environ, check=True)


async def send(api: httpx.AsyncClient, uid: str, **body: Any) -> None:
    answer = await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})
    assert answer.status_code == 200, answer.text


def created(name: str, device: str | None = None) -> dict[str, Any]:
    return {name: {"category": "mail", "body": name, **({"for_device": device} if device else {})}}


async def unequal(api: httpx.AsyncClient, devices: Sequence[RecordingDevice]) -> list[str]:
    """Return the devices whose copy has another digest than the server."""
    views = (api.get(f"/v1/users/{each.uid}/state", params={"device": each.name}) for each in devices)
    answers = await asyncio.gather(*views)
    return [
        f"{each.uid}/{each.name}"
        for each, answer in zip(devices, answers, strict=True)
        if answer.status_code != 200 or answer.json()["digest"] != each.mirror.digest
    ]


@pytest.mark.slow
@pytest.mark.parametrize("binary", ["valkey-server", "redis-server"])
async def test_devices_equal_the_restored_backup(binary: str, tmp_path: Path) -> None:
    server = str(find_server((binary,)))
    with (
        Cluster(tmp_path / "c", gateways=1, ingests=1, schedulers=1, server=server, server_options=KEEP_ALL) as cluster,
        HistoryRecorder(tmp_path / "history.jsonl") as recorder,
    ):
        online = [
            kind(uid, name, lambda uid=uid, name=name: cluster.token(uid, name), urls, recorder, 1)
            for uid in USERS
            for name, kind, urls in (
                ("desk", WebSocketDevice, cluster.gateway_urls),
                ("page", StreamingDevice, cluster.stream_urls),
                ("watch", PollingDevice, cluster.stream_urls),
            )
        ]
        offline = [
            WebSocketDevice(
                uid, "phone", lambda uid=uid: cluster.token(uid, "phone"), cluster.gateway_urls, recorder, 1
            )
            for uid in USERS
        ]
        for device in (*online, *offline):
            device.start()
        try:
            async with cluster.api() as api:
                await play(cluster, api, online, offline, tmp_path)
        finally:
            await asyncio.gather(*(device.stop() for device in (*online, *offline)))


async def play(
    cluster: Cluster,
    api: httpx.AsyncClient,
    online: Sequence[RecordingDevice],
    offline: Sequence[WebSocketDevice],
    directory: Path,
) -> None:
    async def are_equal(devices: Sequence[RecordingDevice]) -> bool:
        return not await unequal(api, devices)

    for uid in set(USERS) - {"new"}:
        await send(api, uid, create=created("before"))
        await send(api, uid, create=created("own", "*"))
    backup = back_up(cluster, directory)
    for uid in ("lost", "forked", "new"):
        await send(api, uid, create=created("after"))
        await send(api, uid, create=created("after-own", "desk"))
    await send(api, "undone", dismiss={"ids": ["before"]})
    await wait_until(lambda: are_equal([*online, *offline]), "all devices are equal before", 30)
    await asyncio.gather(*(device.stop() for device in offline))

    cluster.server.kill()
    restore(cluster, backup)
    cluster.server.start()
    waiting, began = Waiting(cluster.pids), time.monotonic()
    # The new branch of this user reaches the seq that its devices know from the lost branch.
    await wait_until(lambda: is_created(api, "forked", "other"), "a message after the restore", 30)
    await wait_until(lambda: are_equal(online), "online devices are equal", 2 * ONLINE_S)
    equal_s, lost_s = time.monotonic() - began, waiting.lost_s()
    print(f"online devices were equal {equal_s:.1f} s after the start of the server; {lost_s:.1f} s without a core")
    assert equal_s <= ONLINE_S + lost_s
    for device in offline:
        device.start()
    await wait_until(lambda: are_equal([*online, *offline]), "offline devices are equal after they resume", 15)

    items = {uid: set((await api.get(f"/v1/users/{uid}/state")).json()["items"]) for uid in USERS}
    kept = {"before", "own"}
    assert items == {"lost": kept, "undone": kept, "new": set(), "same": kept, "forked": {*kept, "other"}}
    assert all(set(device.mirror.items) <= items[device.uid] for device in (*online, *offline))


async def is_created(api: httpx.AsyncClient, uid: str, name: str) -> bool:
    message = {"system": "gregor", "body": {"create": created(name)}}
    return (await api.post(f"/v1/users/{uid}/messages", json=message)).status_code == 200


# ---- deliveries, expiries and reminders since the backup


LATER_S = 8
"""Delay of the late notifications, the reminder and the expiry: they come after the backup, and before the restore."""
CATEGORIES = "".join(
    f'["{name}"]\ntitle = "{{{{ id }}}}"\n{channel}\n'
    for name, channel in (
        ("push", 'push = { after = "0s" }'),
        ("late-push", f'push = {{ after = "{LATER_S}s" }}'),
        ("mail", 'email = { after = "0s", unless = "acked" }'),
        ("late-mail", f'email = {{ after = "{LATER_S}s", unless = "acked" }}'),
    )
)
PUSHED, MAILED = "pushed", ("mailed-before", "mailed-later")
ONCE = {"sent", "dismissed", "expiring", "new", "mail", "after", "after-mail"}
"""Notifications whose result is in the backup, or whose item is not: sent once."""
AGAIN = {"late": 2, "late-mail": 2, "reminded": 3}
"""Notifications of the time since the backup, and how often they may be sent (`reminded` also has its first push)."""


@pytest.fixture
def providers(tmp_path: Path) -> Iterator[FakeProviders]:
    (tmp_path / "fakes").mkdir()
    with running(tmp_path / "fakes") as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_restore_repeats_only_later_notifications(tmp_path: Path, providers: FakeProviders) -> None:
    (tmp_path / "categories.toml").write_text(CATEGORIES)
    server = str(find_server(("valkey-server",)))
    with (
        Cluster(
            tmp_path / "c", gateways=1, ingests=1, schedulers=1, deliveries=1, server=server, server_options=KEEP_ALL,
            categories=tmp_path / "categories.toml", public_url="https://gregor.example", log_level="debug",
            **providers.options("APNS", "SMTP", "MAIL"),
        ) as cluster,
        HistoryRecorder(tmp_path / "history.jsonl") as recorder,
    ):  # fmt: skip
        devices = [
            kind(uid, name, lambda uid=uid, name=name: cluster.token(uid, name), urls, recorder, 1)
            for uid in (PUSHED, *MAILED)
            for name, kind, urls in (
                ("desk", WebSocketDevice, cluster.gateway_urls),
                ("page", StreamingDevice, cluster.stream_urls),
                ("watch", PollingDevice, cluster.stream_urls),
            )
        ]
        for device in devices:
            device.start()
        try:
            async with cluster.api() as api:
                await play_deliveries(cluster, api, providers, devices, tmp_path)
        finally:
            await asyncio.gather(*(device.stop() for device in devices))


async def play_deliveries(
    cluster: Cluster,
    api: httpx.AsyncClient,
    providers: FakeProviders,
    devices: Sequence[RecordingDevice],
    directory: Path,
) -> None:
    async def are_equal() -> bool:
        return not await unequal(api, devices)

    await notify_before(api, providers)
    backup = back_up(cluster, directory)
    await send(api, PUSHED, create=of("push", "new"))
    await send(api, PUSHED, dismiss={"ids": ["dismissed"]})
    expected = Counter({"new": 1, "late": 1, "late-mail": 1, "reminded": 2})
    await wait_until(lambda: expected <= Counter(providers.titles()), "later notifications", LATER_S + 30)
    await wait_until(lambda: is_gone(api, "expiring"), "the item expires", LATER_S + 30)
    await wait_until(are_equal, "all devices are equal before", 30)

    restore_and_restart(cluster, backup)
    await wait_until(are_equal, "all devices are equal to the backup", 2 * ONLINE_S)
    # Everything that was due before was decided and sent before these.
    await send(api, PUSHED, create=of("push", "after"))
    await send(api, MAILED[1], create=of("mail", "after-mail"))
    await wait_until(lambda: {"after", "after-mail"} <= set(providers.titles()), "new notifications arrive", 30)

    state = (await api.get(f"/v1/users/{PUSHED}/state")).json()
    assert set(state["items"]) == {"sent", "dismissed", "reminded", "late", "after"}
    counts = Counter(providers.titles())
    assert {name: counts[name] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert {name: count for name, count in AGAIN.items() if counts[name] > count} == {}


async def notify_before(api: httpx.AsyncClient, providers: FakeProviders) -> None:
    """Send notifications, wait for their results, and create items whose notifications come later."""
    push = {"platform": "ios", "push": {"provider": "apns", "token": PUSHED.encode().hex()}}
    assert (await api.put(f"/v1/users/{PUSHED}/devices/pocket", json=push)).is_success
    for uid in MAILED:
        assert (await api.put(f"/v1/users/{uid}/contact", json={"email": f"{uid}@example.com"})).is_success
    for name in ("sent", "dismissed"):
        await send(api, PUSHED, create=of("push", name))
    await send(api, MAILED[0], create=of("mail", "mail"))
    await wait_until(lambda: {"sent", "dismissed", "mail"} <= set(providers.titles()), "notifications arrive", 30)
    await send(api, PUSHED, create=of("push", "reminded", remind_at=[f"+{LATER_S}s"]))
    await send(api, PUSHED, create=of("push", "expiring", expires=f"+{LATER_S}s"))
    await wait_until(lambda: are_sent(api, "sent", "dismissed", "reminded", "expiring"), "results are stored", 30)
    await wait_until(lambda: are_sent(api, "mail", uid=MAILED[0]), "the result of the mail is stored", 30)
    await send(api, PUSHED, create=of("late-push", "late"))
    await send(api, MAILED[1], create=of("late-mail", "late-mail"))


def restore_and_restart(cluster: Cluster, backup: Path) -> None:
    """Follow the guide: the gateway runs on, and the other services stop before the server."""
    stopped = [*cluster.ingests, *cluster.schedulers, *cluster.deliveries]
    for service in stopped:
        service.stop()
    cluster.server.kill()
    restore(cluster, backup)
    cluster.server.start()
    for service in stopped:
        service.start()
    for service in stopped:
        service.wait_ready()


def of(category: str, name: str, **times: Any) -> dict[str, Any]:
    return {name: {"category": category, "body": {}, "times": times}}


async def are_sent(api: httpx.AsyncClient, *items: str, uid: str = PUSHED) -> bool:
    """Return whether the ledger has the result of the notification of each item."""
    answers = [await api.get(f"/v1/users/{uid}/deliveries", params={"item": item}) for item in items]
    return all([each["state"] for each in answer.json()["entries"]] == ["sent"] for answer in answers)


async def is_gone(api: httpx.AsyncClient, item: str) -> bool:
    return item not in (await api.get(f"/v1/users/{PUSHED}/state")).json()["items"]
