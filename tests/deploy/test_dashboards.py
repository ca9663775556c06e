"""Each query of the Grafana boards returns data from a real Prometheus that scrapes a cluster under load."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.client import AsyncProducer, Device, mint_device_token
from gregor.dev.processes import end_with_parent
from tests.fundamentals.conftest import CATEGORIES, RunningGregor
from tests.support.deploy_tools import DEPLOY, tool
from tests.support.ports import free_ports
from tests.support.wait import wait_until

LOAD_S = 40
BOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
STEADY = {
    f"Gregor{name}" for name in ("ConfigDiffers", "ClockOff", "FormatsDiffer", "NotReady", "Degraded", "NoScheduler")
}
MAX_SERIES = 2_000
MAX_SCRAPE_S = 0.02
QUIET = {
    "gregor_timer_lateness_seconds",
    "gregor_delivery_send_seconds",
    "gregor_delivery_age_seconds",
}
"""Histograms with a label: the quantile of a value that did not occur in the last seconds is NaN."""


@contextmanager
def running_prometheus(folder: Path, targets: dict[str, str]) -> Iterator[httpx.Client]:
    """Run Prometheus; it scrapes each service every second."""
    scrapes = [
        {"targets": [url.partition("://")[2]], "labels": {"service": service.rstrip("0123456789")}}
        for service, url in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(DEPLOY / "prometheus/alerts.yaml")],
        "scrape_configs": [{"job_name": "gregor", "static_configs": scrapes}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_ports(1)
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=end_with_parent())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)


async def load(gregor: RunningGregor) -> None:
    """Send messages, pushes and e-mails, over all transports, for ``LOAD_S`` seconds."""
    addresses, until = gregor.addresses, time.monotonic() + LOAD_S
    with gregor.api() as api:
        for n in range(5):
            push = {"platform": "ios", "push": {"provider": "apns", "token": f"user{n}".encode().hex()}}
            api.put(f"/v1/users/user{n}/devices/phone", json=push).raise_for_status()
            api.put(f"/v1/users/user{n}/contact", json={"email": f"user{n}@example.org"}).raise_for_status()
    async with AsyncProducer(addresses["ingest"], addresses["key"]) as producer, httpx.AsyncClient() as http:
        streaming = asyncio.create_task(_stream(http, gregor))
        number = 0
        while time.monotonic() < until:
            number += 1
            uid, token = f"user{number % 5}", mint_device_token(gregor.secret, "watcher", "laptop")
            await producer.create(uid, "alert", {"text": str(number)}, item_id=f"a{number}")
            await producer.create(uid, "invoice", {"number": number}, item_id=f"i{number}")
            async with Device(addresses["gateways"][number % 2], token, "laptop") as laptop:
                await producer.create("watcher", "mail", {"from": uid}, item_id=f"m{number}")
                await _shows(laptop, f"m{number}")
            poll = {"Authorization": f"Bearer {mint_device_token(gregor.secret, uid, 'tablet')}"}
            await http.get(f"{addresses['streams'][0]}/v1/poll?wait=0", headers=poll)
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)


async def _shows(device: Device, item_id: str) -> None:
    await wait_until(lambda: item_id in device.state, f"{item_id} on the device")


async def _stream(http: httpx.AsyncClient, gregor: RunningGregor) -> None:
    headers = {"Authorization": f"Bearer {mint_device_token(gregor.secret, 'watcher', 'tv')}"}
    async with http.stream("GET", f"{gregor.addresses['stream']}/v1/stream", headers=headers) as stream:
        async for _ in stream.aiter_bytes():
            pass


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prometheus")
    tool("prometheus")
    gregor = RunningGregor(folder)
    try:
        with gregor.api() as api:
            api.put("/v1/categories", json={"categories": CATEGORIES}).raise_for_status()
        addresses = gregor.addresses
        targets = {name: addresses[name] for name in ("ingest", "scheduler", "delivery")}
        targets |= {f"gateway{n}": url.replace("ws://", "http://") for n, url in enumerate(addresses["gateways"])}
        with running_prometheus(folder, targets) as client:
            asyncio.run(load(gregor))
            yield client
    finally:
        gregor.stop()


def answer(prometheus: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """Return the result of an instant query."""
    query = expression.replace("$__rate_interval", "50s")
    document = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert document["status"] == "success", (expression, document)
    found: list[dict[str, Any]] = document["data"]["result"]
    return found


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_every_query_returns_data(board: Path, prometheus: httpx.Client) -> None:
    empty = []
    for panel in json.loads(board.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            values = [float(series["value"][1]) for series in answer(prometheus, target["expr"])]
            may_be_nan = any(name in target["expr"] for name in QUIET)
            if not values or (all(map(math.isnan, values)) and not may_be_nan):
                empty.append(f"{panel['title']}: {target['expr']}")

    assert empty == []


def test_process_exports_few_series_quickly(prometheus: httpx.Client) -> None:
    """Bounds of one process. The shortest of a minute of scrapes: other work on the machine does not count."""
    series = [float(each["value"][1]) for each in answer(prometheus, "scrape_samples_scraped")]
    seconds = [float(each["value"][1]) for each in answer(prometheus, "min_over_time(scrape_duration_seconds[50s])")]

    assert len(series) == 5 and max(series) <= MAX_SERIES, series
    assert max(seconds) <= MAX_SCRAPE_S, seconds


def test_healthy_cluster_raises_no_alert(prometheus: httpx.Client) -> None:
    """Alerts whose condition does not depend on the load of the machine are not even pending."""
    alerts = prometheus.get("/api/v1/alerts").json()["data"]["alerts"]

    assert STEADY & {each["labels"]["alertname"] for each in alerts} == set()
