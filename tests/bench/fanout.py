"""Fan-out: from a publication in Redis to the three devices of its user, against Redis's own pub/sub to raw clients."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, allow_many_sockets, cpu_s, pin, run_load
from tests.bench.report import Result, tell
from tests.support.cluster import Cluster

CONNECTIONS = 2_001
DEVICES = ("phone", "laptop", "tablet")
SINGLE = 768
"""Deliveries under way: about one frame a user."""
BURST = 15_000
"""Deliveries under way: seven frames a user."""


def run(quick: bool = False) -> list[Result]:
    """Results: single frames, bursts, CPU a delivery."""
    seconds, rounds = (2.0, 1) if quick else (4.0, 3)
    allow_many_sockets()
    runs: dict[str, list[tuple[float, float]]] = {"raw": [], "single": [], "burst": []}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            for kind in runs:
                place = Path(directory) / f"{kind}-{number}"
                runs[kind].append(measure(place, kind, seconds))
    best = {kind: max(found) for kind, found in runs.items()}
    cpu = {kind: min(cpu for _, cpu in found) for kind, found in runs.items()}
    return [tell(result) for result in results(best, cpu)]


def results(best: dict[str, tuple[float, float]], cpu: dict[str, float]) -> list[Result]:
    raw, single, burst = best["raw"][0], best["single"][0], best["burst"][0]
    beside = f"Redis pub/sub to raw clients {raw:,.0f}/s, {cpu['raw']:.1f} µs each"
    return [
        Result(
            "fan-out, 3 devices a user", single, "deliveries/s", "≥ 80 % of raw pub/sub", single >= 0.8 * raw, beside
        ),
        Result("fan-out, share of raw pub/sub", 100 * single / raw, "%", "≥ 80 %", single >= 0.8 * raw),
        Result("fan-out, gateway CPU", cpu["single"], "µs a delivery", "≤ 12 µs", cpu["single"] <= 12),
        Result(
            "fan-out in bursts", burst, "deliveries/s", "≥ 3 × single", burst >= 3 * single, f"{burst / single:.1f} ×"
        ),
        Result("fan-out in bursts, gateway CPU", cpu["burst"], "µs a delivery", "-"),
    ]


def measure(directory: Path, kind: str, seconds: float) -> tuple[float, float]:
    """Deliveries a second, and CPU µs of the process under test for each."""
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
        return found["deliveries"] / found["seconds"], 1e6 * used.seconds() / found["deliveries"]


def users(cluster: Cluster) -> list[dict[str, Any]]:
    """So many users that each has three devices: channel and tokens."""
    from gregor.store.keys import Keys

    keys = Keys("gregor")
    names = [f"u{number}" for number in range(CONNECTIONS // len(DEVICES))]
    return [
        {"channel": keys.of_user(uid).channel, "tokens": [cluster.token(uid, device) for device in DEVICES]}
        for uid in names
    ]


class Used:
    """CPU of a process from the moment at which the load is ready: connecting does not count."""

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
