"""Ingest: one message a request, and batches; CPU of the process, its rate, and the latency of its callers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.machine import BESIDE, UNDER_TEST, cpu_s, pin, run_load
from tests.bench.report import Result, percentile, print_result
from tests.bench.sockets import redis_cpu_s
from tests.support.cluster import Cluster

USERS = 2_000
BATCH = 100


def run(quick: bool = False) -> list[Result]:
    """Return the results for single requests, their tail at half load, and batches."""
    rounds, singles, batches = (1, 3_000, 100) if quick else (5, 10_000, 400)
    found: dict[str, list[dict[str, float]]] = {"single": [], "batch": [], "half": []}
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {"log_level": "warning"}
        with Cluster(Path(directory) / "c", gateways=0, ingests=1, **settings) as cluster:
            pin(cluster.ingests[0].pid, UNDER_TEST)
            pin(cluster.server.pid, BESIDE)
            for number in range(rounds):
                cluster.server.say("FLUSHALL")
                cluster.key = cluster.create_key("ingest")
                found["single"].append(measure(cluster, f"s{number}", 1, singles, 16))
                found["batch"].append(measure(cluster, f"b{number}", BATCH, batches, 2))
                pace = found["single"][-1]["rate"] / 2
                found["half"].append(measure(cluster, f"h{number}", 1, singles // 2, 16, pace))
    return [print_result(result) for result in results(found)]


def results(found: dict[str, list[dict[str, float]]]) -> list[Result]:
    single, batch = (min(found[kind], key=lambda one: one["cpu_us"]) for kind in ("single", "batch"))
    half = min(found["half"], key=lambda one: one["p99_ms"])
    beside = f"Redis {single['redis_us']:.1f} µs, {single['rate']:,.0f} messages/s"
    beside_batch = f"Redis {batch['redis_us']:.1f} µs"
    rate = max(one["rate"] for one in found["batch"])
    a_core = 1e6 / batch["cpu_us"]
    return [
        Result(
            "ingest, one request a message", single["cpu_us"], "µs CPU", "≤ 120 µs", single["cpu_us"] <= 120, beside
        ),
        Result("ingest, p99 at half load", half["p99_ms"], "ms", "≤ 10 ms", half["p99_ms"] <= 10),
        Result(
            "ingest, in batches of 100",
            batch["cpu_us"],
            "µs CPU a message",
            "≤ 20 µs",
            batch["cpu_us"] <= 20,
            beside_batch,
        ),
        Result(
            "ingest, batches, a core",
            a_core,
            "messages/s",
            "≥ 30,000",
            a_core >= 30_000,
            f"{rate:,.0f}/s with Redis and load on one core",
        ),
    ]


def measure(
    cluster: Cluster, run: str, batch: int, requests: int, connections: int, pace: float = 0
) -> dict[str, float]:
    """Return CPU µs for each message of ingest and of Redis, messages per second, and p99 in ms."""
    job = {
        "url": cluster.ingest_urls[0],
        "key": cluster.key,
        "run": run,
        "batch": batch,
        "requests": requests,
        "connections": connections,
        "users": USERS,
        "pace": pace,
    }
    pid = cluster.ingests[0].pid
    cpu, redis = cpu_s(pid), redis_cpu_s(cluster.server.url)
    found = run_load("tests.bench.ingest_load", job)
    messages = requests * batch
    return {
        "cpu_us": 1e6 * (cpu_s(pid) - cpu) / messages,
        "redis_us": 1e6 * (redis_cpu_s(cluster.server.url) - redis) / messages,
        "rate": messages / found["seconds"],
        "p99_ms": 1e3 * percentile(found["latencies"], 0.99),
    }
