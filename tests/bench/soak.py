"""Soak: for a minute, every device of one gateway receives changes, and ends with the server's digest."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, allow_many_sockets, cpu_s, pin, rss_bytes, run_load
from tests.bench.report import Result, print_result
from tests.support.cluster import Cluster

DEVICES = ("phone", "laptop", "tablet")


def run(quick: bool = False) -> list[Result]:
    """Return the number of different digests, the tail latency from acceptance to device, and the cost."""
    most = allow_many_sockets()
    count, seconds, rate = (1_500, 10, 1_000) if quick else (min(10_000, most - 1_000), 60, 2_000)
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster(Path(directory) / "c", gateways=1, ingests=1, log_level="warning") as cluster,
    ):
        return [print_result(result) for result in measure(cluster, count, seconds, rate)]


def measure(cluster: Cluster, count: int, seconds: int, rate: int) -> list[Result]:
    gateway = cluster.gateways[0].pid
    pin(gateway, UNDER_TEST)
    for pid in (cluster.ingests[0].pid, cluster.server.pid):
        pin(pid, BESIDE)
    devices = [(f"u{number // 3}", cluster.token(f"u{number // 3}", DEVICES[number % 3])) for number in range(count)]
    job = {
        "gateway": cluster.gateway_urls[0],
        "ingests": cluster.ingest_urls * 8,
        "key": cluster.key,
        "devices": devices,
        "users": -(-count // 3),
        "seconds": seconds,
        "rate": rate,
        "quiet_s": 3,
    }
    cpu = cpu_s(gateway)
    found = run_load("tests.bench.soak_load", job)
    used = cpu_s(gateway) - cpu
    wrong = asyncio.run(wrong_devices(cluster, found["digests"]))
    p50, p99 = found["latency_ms"]["0.5"], found["latency_ms"]["0.99"]
    who = f"{count:,} devices, {found['sent'] / seconds:,.0f} messages/s for {seconds} s"
    tail = f"p99.9 {found['latency_ms']['0.999']:.1f} ms"
    size = f"{rss_bytes(gateway) / 2**20:.0f} MiB RSS"
    return [
        Result("soak, devices with another digest", wrong, "devices", "0", wrong == 0, who),
        Result("soak, accepted to device, p50", p50, "ms", "≤ 3 ms", p50 <= 3),
        Result("soak, accepted to device, p99", p99, "ms", "≤ 25 ms", p99 <= 25, tail),
        Result("soak, gateway CPU, connecting included", used, "s", "-", None, size),
    ]


async def wrong_devices(cluster: Cluster, digests: dict[str, list[str]]) -> int:
    """Count the devices whose copy differs from the server's state."""
    async with cluster.api() as api:

        async def wrong_of(uid: str) -> int:
            answer: dict[str, Any] = (await api.get(f"/v1/users/{uid}/state")).json()
            return sum(digest != answer["digest"] for digest in digests[uid])

        wrong = 0
        uids = list(digests)
        for first in range(0, len(uids), 50):
            wrong += sum(await asyncio.gather(*map(wrong_of, uids[first : first + 50])))
        return wrong
