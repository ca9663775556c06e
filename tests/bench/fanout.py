"""Fan-out: from a publication in Redis to the three devices of a user, against Redis's own pub/sub to raw clients.

Ratios compare CPU: what a process delivers in one CPU second. Ratios by the clock hold only if each process had its
core to itself and filled it. The CPU shares printed beside the rates show whether it did; if not, the load limited the
rate.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, allow_many_sockets, cpu_s, pin, run_load
from tests.bench.report import Result, print_result
from tests.support.cluster import Cluster

CONNECTIONS = 2_001
DEVICES = ("phone", "laptop", "tablet")
SINGLE = 768
"""Deliveries in flight: about one frame for each user."""
BURST = 15_000
"""Deliveries in flight: seven frames for each user."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Deliveries per second by the clock, and CPU of the process under test for each."""

    rate: float
    cpu_us: float

    @property
    def beside(self) -> str:
        return f"{self.rate:,.0f}/s, {self.cpu_us:.1f} µs each, {self.rate * self.cpu_us / 1e4:.0f} % of its core"


def run(quick: bool = False) -> list[Result]:
    """Return the results for single frames, bursts, and CPU of a delivery."""
    seconds, rounds = (2.0, 1) if quick else (4.0, 3)
    allow_many_sockets()
    runs: dict[str, list[Measured]] = {"raw": [], "single": [], "burst": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for kind in runs:
                place = Path(directory) / f"{kind}-{number}"
                runs[kind].append(measure(place, kind, seconds))
    return [print_result(result) for result in results(**runs)]


def results(raw: list[Measured], single: list[Measured], burst: list[Measured]) -> list[Result]:
    fastest, alone, together = (max(found, key=lambda each: each.rate) for found in (raw, single, burst))
    cpu_raw, cpu_single, cpu_burst = (min(each.cpu_us for each in found) for found in (raw, single, burst))
    share, gain = 100 * cpu_raw / cpu_single, cpu_single / cpu_burst
    by_clock = f"by the clock {100 * alone.rate / fastest.rate:.0f} %; Redis pub/sub to raw clients {fastest.beside}"
    return [
        Result("fan-out, 3 devices a user", alone.rate, "deliveries/s", "-", limit=f"fastest: {alone.beside}"),
        Result("fan-out, share of raw pub/sub, by CPU", share, "%", "≥ 80 %", share >= 80, by_clock),
        Result("fan-out, gateway CPU", cpu_single, "µs a delivery", "≤ 12 µs", cpu_single <= 12),
        Result("fan-out in bursts", together.rate, "deliveries/s", "-", limit=f"fastest: {together.beside}"),
        Result(
            "fan-out in bursts, by CPU",
            gain,
            "× single",
            "≥ 3 ×",
            gain >= 3,
            f"by the clock {together.rate / alone.rate:.1f} ×",
        ),
        Result("fan-out in bursts, gateway CPU", cpu_burst, "µs a delivery", "-"),
    ]


def measure(directory: Path, kind: str, seconds: float) -> Measured:
    """Measure single frames, bursts or raw pub/sub for a fixed time."""
    settings: dict[str, Any] = {"ping_interval": 3_600, "compare_interval": 3_600, "log_level": "warning"}
    with Cluster(directory, gateways=1, ingests=1, **settings) as cluster:
        cluster.ingests[0].stop()
        server_pid = cluster.server.pid
        under_test = server_pid if kind == "raw" else cluster.gateways[0].pid
        if kind == "raw":
            cluster.gateways[0].stop()
        pin(server_pid, UNDER_TEST if kind == "raw" else BESIDE)
        pin(under_test, UNDER_TEST)
        burst = kind == "burst"
        job = {
            "kind": "raw" if kind == "raw" else "gateway",
            "redis": cluster.server.url,
            "gateway": cluster.gateway_urls[0],
            "seconds": seconds,
            "window": BURST if burst else SINGLE,
            "messages_a_user": round(seconds * (500 if burst else 120)),
            "users": users(cluster),
            "ready": str(directory / "ready"),
        }
        used = Used(under_test, directory / "ready")
        found = run_load("tests.bench.fanout_load", job)
        if abs(found["arrived"] - 1) > 0.001:
            raise RuntimeError(f"{found['arrived']:.1%} of the bytes arrived: {cluster.said()}")
        return Measured(found["deliveries"] / found["seconds"], 1e6 * used.seconds() / found["deliveries"])


def users(cluster: Cluster) -> list[dict[str, Any]]:
    """Return users with three devices each: channel and tokens."""
    from gregor.store.redis.keys import Keys

    keys = Keys("gregor")
    names = [f"u{number}" for number in range(CONNECTIONS // len(DEVICES))]
    return [
        {"channel": keys.of_user(uid).channel, "tokens": [cluster.token(uid, device) for device in DEVICES]}
        for uid in names
    ]


class Used:
    """CPU of a process from the moment at which the load is ready. Connecting does not count."""

    def __init__(self, pid: int, ready: Path) -> None:
        self._pid = pid
        self._ready = ready
        self._from_s = 0.0
        threading.Thread(target=self._wait, daemon=True).start()

    def seconds(self) -> float:
        return cpu_s(self._pid) - self._from_s

    def _wait(self) -> None:
        while not self._ready.exists():
            time.sleep(0.002)
        self._from_s = cpu_s(self._pid)
