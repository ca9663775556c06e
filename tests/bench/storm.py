"""Storm: a gateway is killed, and its devices come to the other one. Then both are killed, and come back.

The devices try the gateways in turn, without a proxy, and wait as the client libraries do.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench.machine import (
    BESIDE,
    UNDER_TEST,
    allow_many_sockets,
    cpu_s,
    peak_rss_bytes,
    pin,
    prefer,
    real_time,
    rss_bytes,
)
from tests.bench.reconnect_load import ReconnectJob
from tests.bench.reconnect_process import ReconnectRun, reconnect_load
from tests.bench.report import Result, percentile, print_result
from tests.bench.sockets import body_of
from tests.support.cluster import Cluster

BESIDE_SHARE: Final = 0.2
"""Devices of the other gateway, for each device of the killed one."""
ITEMS: Final = 10
"""Items of each user before the storm."""
CALM_S: Final = 5.0
RATE: Final = 200
"""Messages a second to random users of the devices that reconnect."""
RATE_BESIDE: Final = 100
"""Messages a second to random users of the other gateway: each item on a device is a measurement."""


def run(quick: bool = False, devices: int = 10_000, all_devices: int = 19_000, part: int = 0) -> list[Result]:
    """Return the times until all devices are in sync again, and the delays of others. ``part``: 1 or 2 only."""
    most = allow_many_sockets() - 1_000
    devices, all_devices = (1_000, 1_900) if quick else (min(devices, round(most / 1.2)), min(all_devices, most))
    with real_time():
        return (one_killed(devices) if part != 2 else []) + (all_killed(all_devices) if part != 1 else [])


def one_killed(devices: int) -> list[Result]:
    """Kill the gateway that has so many devices; the other one has a fifth of them.

    The devices of the other gateway and their backend run in another process, which has priority over the devices
    that reconnect: a late frame is late at the gateway, and not in the load.
    """
    beside = round(BESIDE_SHARE * devices)
    with tempfile.TemporaryDirectory() as directory, _cluster(Path(directory)) as cluster:
        killed, other = cluster.gateways
        idle = rss_bytes(killed.pid)
        returning, watching = _job(cluster, "u", [0] * devices, RATE), _job(cluster, "w", [1] * beside, RATE_BESIDE)
        with (
            reconnect_load(returning, Path(directory), "returning") as finish,
            reconnect_load(watching, Path(directory), "watching", is_preferred=True) as finish_watching,
        ):
            time.sleep(CALM_S)
            expected = rss_bytes(other.pid) + rss_bytes(killed.pid) - idle
            killed.signal(signal.SIGKILL)
            began_s, began_cpu_s = time.monotonic(), cpu_s(other.pid)
            time.sleep(30)
            peak, used_s = peak_rss_bytes(other.pid), cpu_s(other.pid) - began_cpu_s
            watched = finish_watching()
            load = finish()
    name = f"storm, {devices:,} of {devices + beside:,}"
    found = back_results(name, load, devices, began_s, 30)
    until_s = max((each.back_s for each in load.outages), default=began_s)
    calm, during = (
        sorted(age for at, age in watched.latencies if first <= at < last)
        for first, last in ((began_s - CALM_S, began_s), (began_s, until_s))
    )
    p99_ms, before_ms = 1e3 * percentile(during or [0.0], 0.99), 1e3 * percentile(calm or [0.0], 0.99)
    ratio = peak / expected
    others = [
        Result(f"{name}: the others' p99", p99_ms, "ms", "≤ 250 ms", p99_ms <= 250,
               f"{before_ms:.1f} ms before, {len(during)} frames, {watched.ends or 'none'} ended"),
        Result(f"{name}: memory of the other gateway", ratio, "×", "≤ 1.3 ×", ratio <= 1.3,
               f"peak {peak / 2**20:.0f} MiB, {expected / 2**20:.0f} MiB for as many without a storm"),
        Result(f"{name}: CPU of a join", 1e3 * used_s / devices, "ms", "-", None, f"{used_s:.1f} s in all"),
    ]  # fmt: skip
    return found + list(map(print_result, others))


def all_killed(devices: int) -> list[Result]:
    """Kill both gateways, and start them again at once, as their supervisor does."""
    with tempfile.TemporaryDirectory() as directory, _cluster(Path(directory)) as cluster:
        idle = rss_bytes(cluster.gateways[0].pid)
        job = _job(cluster, "u", [number % 2 for number in range(devices)], RATE)
        with reconnect_load(job, Path(directory)) as finish:
            time.sleep(CALM_S)
            expected = sum(rss_bytes(each.pid) for each in cluster.gateways) - idle
            began_s = time.monotonic()
            for gateway in cluster.gateways:
                gateway.kill()
            for gateway in cluster.gateways:
                gateway.start()
            _place(cluster)
            time.sleep(75)
            peak = max(peak_rss_bytes(each.pid) for each in cluster.gateways)
            load = finish()
    ratio = peak / expected
    found = back_results(f"storm, all of {devices:,}", load, devices, began_s, 75)
    memory = f"peak {peak / 2**20:.0f} MiB, {expected / 2**20:.0f} MiB for all without a storm"
    return [*found, print_result(Result("storm, all: memory", ratio, "×", "≤ 1.3 ×", ratio <= 1.3, memory))]


@contextmanager
def _cluster(directory: Path) -> Iterator[Cluster]:
    with Cluster(directory / "c", gateways=2, ingests=1, log_level="warning") as cluster:
        _place(cluster)
        yield cluster


def _place(cluster: Cluster) -> None:
    """Give all services priority over the load, which has other machines in production. Each gateway has its core."""
    prefer(cluster.pids)
    for gateway, cores in zip(cluster.gateways, (BESIDE, UNDER_TEST), strict=True):
        pin(gateway.pid, cores)
    for pid in (cluster.server.pid, cluster.ingests[0].pid):
        pin(pid, BESIDE)


def _job(cluster: Cluster, prefix: str, gateways: list[int], rate: float) -> ReconnectJob:
    """Return the job of one device for each user, connected to the gateways of these indexes.

    Each user has some items: a change that is larger than the copy is answered with a full copy.
    """
    uids = [f"{prefix}{number}" for number in range(len(gateways))]
    asyncio.run(_create_items(cluster, uids))
    devices = [(uid, "d0", cluster.token(uid, "d0"), index) for uid, index in zip(uids, gateways, strict=True)]
    return ReconnectJob(cluster.gateway_urls, cluster.ingest_urls[0], cluster.key, devices, rate)


async def _create_items(cluster: Cluster, uids: list[str]) -> None:
    items = {f"first{number}": {"category": "mail", "body": body_of(100)} for number in range(ITEMS)}
    async with cluster.api() as api:
        for first in range(0, len(uids), 100):
            lines = [
                json.dumps({"uid": uid, "system": "gregor", "body": {"create": items}})
                for uid in uids[first : first + 100]
            ]
            kind = {"Content-Type": "application/x-ndjson"}
            (await api.post("/v1/messages", content="\n".join(lines), headers=kind)).raise_for_status()


def back_results(name: str, load: ReconnectRun, devices: int, began_s: float, most_s: float) -> list[Result]:
    back = sorted(each.back_s - began_s for each in load.outages) or [0.0]
    kinds = Counter(each.kind for each in load.outages)
    share = 100 * (1 - kinds["full"] / max(1, kinds.total()))
    is_back = back[-1] <= most_s and len(back) >= devices and not load.different
    ends = ", ".join(f"{count:,} {end}" for end, count in sorted(load.ends.items()))
    advised = {"lost", "503", "1013", "4009"}
    others = sum(count for end, count in load.ends.items() if end not in advised)
    found = [
        Result(f"{name}: all in sync again", back[-1], "s", f"≤ {most_s:g} s", is_back,
               f"p50 {percentile(back, 0.5):.1f} s, {len(back):,} back, {len(load.different)} differ"),
        Result(f"{name}: unchanged or delta", share, "%", "≥ 99 %", share >= 99, str(dict(kinds))),
        Result(f"{name}: unadvised refusals", others, "connections", "0", others == 0, ends),
    ]  # fmt: skip
    return list(map(print_result, found))
