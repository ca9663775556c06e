"""Overload: ingest gets three times the requests that it can serve; goodput, and the latency of refusals.

A ramp finds the number of callers with the highest rate. The peak is then measured with it for as long as the overload.
Ingest is alone on its core, and has priority over the load, which shares the other core with Redis.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.bench.machine import (
    BESIDE,
    UNDER_TEST,
    allow_many_sockets,
    cpu_s,
    peak_rss_bytes,
    pin,
    prefer,
    real_time,
    run_load,
)
from tests.bench.overload_load import OverloadJob
from tests.bench.report import Result, percentile, print_result
from tests.support.cluster import Cluster

FACTOR: Final = 3
USERS: Final = 500
WARM_S: Final = 4.0
"""Time that is not measured: ingest first has to notice the overload."""
RAMP_S: Final = 4.0


@dataclass(frozen=True)
class OverloadRow:
    """A kind of load. ``is_open``: requests are due at three times the peak, and the connections carry them.

    Otherwise as many callers wait for their responses, and as ``Retry-After`` says.
    """

    name: str
    connections: int
    is_open: bool


ROWS: Final = (OverloadRow("callers that wait", 8_000, False), OverloadRow("open schedule", 8_000, True))
RAMP: Final = (16, 64, 256, 1_024)
"""Callers that each wait for their response; some of these numbers reach the peak."""


def run(quick: bool = False, seconds: int = 20, row: int = 0, **settings: Any) -> list[Result]:
    """Return the goodput, and the latencies of each row. ``row``: only this one, from 1. ``settings``: of ingest."""
    most = allow_many_sockets() - 1_000
    seconds = 5 if quick else seconds
    found = []
    with real_time():
        for each in ROWS[row - 1 : row] if row else ROWS:
            with (
                tempfile.TemporaryDirectory() as directory,
                Cluster(Path(directory) / "c", gateways=0, ingests=1, log_level="warning", **settings) as cluster,
            ):
                found += measure(cluster, each, min(most, each.connections), seconds, quick)
    return found


def measure(cluster: Cluster, row: OverloadRow, connections: int, seconds: float, quick: bool) -> list[Result]:
    ingest = cluster.ingests[0]
    pin(ingest.pid, UNDER_TEST)
    pin(cluster.server.pid, BESIDE)
    prefer([ingest.pid, cluster.server.pid])
    job = OverloadJob("", "", "", USERS, connections, 0, 0, RAMP_S / 2 if quick else RAMP_S, 1.0)
    ramp = {callers: _load(cluster, replace(job, run=f"r{callers}", callers=callers)) for callers in RAMP}
    best = max(RAMP, key=lambda callers: float(ramp[callers]["rate"]))
    peak = _load(cluster, replace(job, run="p", callers=best, seconds=seconds, warm_s=WARM_S))["rate"]
    memory = peak_rss_bytes(ingest.pid)
    rate = FACTOR * peak if row.is_open else 0
    load = _load(cluster, replace(job, run="o", callers=connections, rate=rate, seconds=seconds, warm_s=WARM_S))
    shown = ", ".join(f"{callers}: {each['rate']:,.0f}" for callers, each in ramp.items())
    return results(f"overload, {row.name}", load, peak, seconds, peak_rss_bytes(ingest.pid) / memory, shown)


def _load(cluster: Cluster, job: OverloadJob) -> dict[str, Any]:
    """Run a load, and add the rate of accepted requests and the share of its core that ingest used."""
    cluster.server.say("FLUSHALL")
    cluster.key = cluster.create_key("ingest")
    pid = cluster.ingests[0].pid
    before = cpu_s(pid)
    load = run_load("tests.bench.overload_load", asdict(replace(job, url=cluster.ingest_urls[0], key=cluster.key)))
    load["rate"] = len(load["accepted"]) / (job.seconds - job.warm_s)
    load["cpu"] = (cpu_s(pid) - before) / job.seconds
    return load


def results(name: str, load: dict[str, Any], peak: float, seconds: float, memory: float, ramp: str) -> list[Result]:
    accepted, refused = load["accepted"], load["refused"]
    share = 100 * load["rate"] / peak
    late_ms = 1e3 * percentile(refused or [0.0], 0.99)
    p50_ms, p99_ms = (1e3 * percentile(accepted or [0.0], each) for each in (0.5, 0.99))
    unadvised = load["unadvised"] + load["closed"]
    sent = f"{load['sent'] / seconds:,.0f}/s sent, {load['unsent'] / seconds:,.0f}/s without a free connection"
    found = [
        Result(f"{name}: peak", peak, "requests/s", "-", None, ramp),
        Result(f"{name}: goodput", share, "% of the peak", "≥ 90 %", share >= 90,
               f"{load['rate']:,.0f}/s; {sent}; {100 * load['cpu']:.0f} % of a core"),
        Result(f"{name}: refusals, p99", late_ms, "ms", "≤ 50 ms", late_ms <= 50, f"{len(refused):,} refused"),
        Result(f"{name}: without Retry-After", unadvised, "responses", "0", unadvised == 0),
        Result(f"{name}: accepted, p99", p99_ms, "ms", "-", None, f"p50 {p50_ms:.0f} ms"),
        Result(f"{name}: memory", memory, "×", "≤ 1.5 ×", memory <= 1.5, "of the most in the ramp"),
    ]  # fmt: skip
    return list(map(print_result, found))
