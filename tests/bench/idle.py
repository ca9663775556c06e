"""Idle services: their Redis commands. Idle connections: memory of a gateway, and its CPU for periodic work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, allow_many_sockets, cpu_s, pin, rss_bytes
from tests.bench.report import Result, print_result
from tests.support.cluster import Cluster
from tests.support.command_counts import commands_per_second
from tests.support.redis_cluster import running_redis_cluster

MAX_COMMANDS = 20
"""Commands a second of all four services together, without users."""
SETTLED_S = 15.0
"""Time after the start until every periodic task has run once."""


def run(quick: bool = False) -> list[Result]:
    """Return the commands of idle services, bytes and CPU of an idle connection, and CPU of a connect."""
    results = [print_result(result) for result in measure_commands(10.0 if quick else 60.0)]
    most = allow_many_sockets()
    count, seconds = (1_000, 10.0) if quick else (min(10_000, most // 2 - 500), 60.0)
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster(Path(directory) / "c", gateways=1, ingests=1, log_level="warning") as cluster,
    ):
        return results + [print_result(result) for result in measure(cluster, count, seconds)]


def measure_commands(seconds: float) -> list[Result]:
    """Return the commands a second of one of each service: with one Redis, and with three primaries and a queue."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with idle_services(place / "standalone") as cluster:
            alone = commands_per_second([cluster.server.port], seconds)
        with (
            running_redis_cluster(place / "redis", replicas=0) as redis,
            idle_services(place / "cluster", state_url=redis.url) as cluster,
        ):
            sharded = commands_per_second([cluster.server.port, *(node.port for node in redis.nodes)], seconds)
    return [of_commands("one Redis", alone), of_commands("three primaries, queue", sharded)]


@contextmanager
def idle_services(directory: Path, **options: Any) -> Iterator[Cluster]:
    """Run one of each service until it is settled."""
    with Cluster(
        directory, gateways=1, ingests=1, schedulers=1, deliveries=1, log_level="warning", **options
    ) as cluster:
        time.sleep(SETTLED_S)
        yield cluster


def of_commands(servers: str, counts: dict[str, float]) -> Result:
    total = sum(counts.values())
    most = ", ".join(f"{name} {count:.1f}" for name, count in list(counts.items())[:4])
    name = f"idle services, {servers}"
    return Result(name, total, "commands a second", f"≤ {MAX_COMMANDS}", total <= MAX_COMMANDS, most)


def measure(cluster: Cluster, count: int, seconds: float) -> list[Result]:
    pid = cluster.gateways[0].pid
    cluster.ingests[0].stop()
    pin(pid, UNDER_TEST)
    tokens = [cluster.token(f"u{number // 3}", f"d{number % 3}") for number in range(count)]
    # The first connections fill caches, arenas and scripts; they are not counted.
    with Idle(cluster, [cluster.token(f"warm{number}", "d") for number in range(100)]):
        pass
    before, cpu = rss_bytes(pid), cpu_s(pid)
    with Idle(cluster, tokens) as idle:
        held, connecting = (rss_bytes(pid) - before) / count, cpu_s(pid) - cpu
        cpu = cpu_s(pid)
        time.sleep(seconds)
        used = 1e6 * (cpu_s(pid) - cpu) / seconds / count
    kib = held / 1_024
    return [
        Result("idle device, memory", kib, "KiB RSS", "≤ 12 KB", kib <= 12, f"{count:,} devices, 3 a user"),
        Result("idle device, CPU", used, "µs a second", "≤ 4 µs", used <= 4),
        Result("connect, CPU", 1e6 * connecting / count, "µs", "-", None, f"{count / idle.connected_s:,.0f} a second"),
    ]


class Idle:
    """The process of the devices, as a context manager."""

    def __init__(self, cluster: Cluster, tokens: list[str]) -> None:
        self._job = {"gateway": cluster.gateway_urls[0], "tokens": tokens}
        self.connected_s = 0.0

    def __enter__(self) -> Idle:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.idle_load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, BESIDE),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._job) + "\n")
        self._process.stdin.flush()
        self.connected_s = json.loads(self._process.stdout.readline())["connected_s"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
