"""Idle connections: memory of a gateway, and CPU for pings, presence and reconciliation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.machine import BESIDE, UNDER_TEST, allow_many_sockets, cpu_s, pin, rss_bytes
from tests.bench.report import Result, print_result
from tests.support.cluster import Cluster


def run(quick: bool = False) -> list[Result]:
    """Return bytes and CPU of an idle connection, and CPU of a connect."""
    most = allow_many_sockets()
    count, seconds = (1_000, 10.0) if quick else (min(10_000, most // 2 - 500), 60.0)
    with (
        tempfile.TemporaryDirectory() as directory,
        Cluster(Path(directory) / "c", gateways=1, ingests=1, log_level="warning") as cluster,
    ):
        return [print_result(result) for result in measure(cluster, count, seconds)]


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
