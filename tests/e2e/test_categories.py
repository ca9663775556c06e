"""A notification type that is applied at one ingest is known to all processes within a second."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.support.cluster import Cluster
from tests.support.machine import Waiting
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

DeviceOf = Callable[..., WireDevice]
DUE = {
    "title": "Invoice {{ body.number }} is due",
    "expires_after": "60d",
    "counts_in_badge": False,
    "body_schema": {"required": ["number"]},
    "locales": {"it": {"title": "La fattura {{ body.number }} scade"}},
}
MAX_DELAY_S = 1.0


async def expiry_of(api: httpx.AsyncClient, uid: str, category: str) -> Any:
    """Create an item and return its expiry."""
    item_id = f"t{time.monotonic_ns()}"
    create = {item_id: {"category": category, "times": {"created": 1_700_000_000}, "body": {"number": 1}}}
    await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": {"create": create}})
    entry = (await api.get(f"/v1/users/{uid}/items/{item_id}")).json()
    return entry["item"]["times"].get("expires")


async def test_type_is_known_everywhere_within_a_second(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: DeviceOf
) -> None:
    category = f"invoice.{uid}"
    async with (
        device_of("phone", gateway=0, hello={"render": "it-IT"}) as phone,
        device_of("laptop", gateway=1) as laptop,
        cluster.api(ingest=1) as other,
    ):
        await phone.synced()
        await laptop.synced()
        waiting, began = Waiting(cluster.pids), time.monotonic()
        assert (await api.put(f"/v1/categories/{category}", json=DUE)).status_code == 200

        for device in (phone, laptop):
            await device.until(lambda frame: category in frame.get("welcome", {}).get("uncounted", ()), "another count")
        await wait_until(lambda: expiry_of(other, uid, category), "the other ingest has the type")
        assert (
            time.monotonic() - began < MAX_DELAY_S + 0.5 + waiting.lost_s()
        )  # the poll of this test takes half a second

        sent = {"create": {"due": {"category": category, "body": {"number": "7"}}}}
        answer = await laptop.submit(1, sent)
        assert answer["receipt"]["created"] == ["due"]
        frame = await phone.until(lambda frame: "due" in frame.get("rendered", {}), "the words of the item")
        assert frame["rendered"]["due"] == {"title": "La fattura 7 scade", "text": None, "link": None}
        assert frame["body"]["create"]["due"]["times"]["expires"] > cluster.now_s()
        refused = await phone.submit(2, {"create": {"bad": {"category": category, "body": {}}}})
        assert refused["problem"]["code"] == "schema"
        state = (await other.get(f"/v1/users/{uid}/state", params={"render": "en"})).json()
        assert state["badge"] == 0
        assert state["rendered"]["due"]["title"] == "Invoice 7 is due"
        assert laptop.mirror.badge(round(cluster.now_s() * 1e6)) == 0
        assert laptop.mirror.digest == (await api.get(f"/v1/users/{uid}/state")).json()["digest"]


async def test_initial_file_is_applied(tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('["a"]\ntitle = "one"\ncounts_in_badge = false')
    with Cluster(tmp_path / "cluster", gateways=1, ingests=1, categories=file) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "phone"), {}) as phone,
        ):
            listed = (await api.get("/v1/categories")).json()
            welcome = await phone.until(lambda frame: "welcome" in frame, "the welcome")

    assert listed == {"version": 1, "categories": {"a": {"title": "one", "counts_in_badge": False}}}
    assert welcome["welcome"]["uncounted"] == ["a"]


async def test_invalid_initial_file_ends_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "categories.toml"
    with Cluster(tmp_path / "cluster", gateways=0, ingests=1) as cluster:
        file.write_text('["a"]\ntitel = "one"')
        service = cluster.ingests[0]
        service.stop()
        environ = {**service.environ, "GREGOR_CATEGORIES": str(file)}
        for module in ("gregor_ingest", "gregor_gateway"):
            command = [sys.executable, "-m", module]
            ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)

            assert ended.returncode == 1
            last = ended.stderr.splitlines()[-1]
            assert "GREGOR_CATEGORIES" in last and 'did you mean "title"?' in last
            assert "Traceback" not in ended.stderr
