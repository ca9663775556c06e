"""Pushes to APNs: how many per second one core sends to a provider in another process, answers included."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from gregor_delivery.channels.apns.channel import ApnsChannel, ApnsConfig
from gregor_delivery.channels.verdict import Sent
from tests.bench.machine import BESIDE, CORES, UNDER_TEST, cpu_s, pin
from tests.bench.report import Result, percentile, print_result
from tests.support.sample_pushes import push

TARGET = 3_000
IN_FLIGHT = 500


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of one run. `provider_s`: CPU seconds of the fake."""

    pushes: int
    wall_s: float
    own_s: float
    provider_s: float
    p99_ms: float


def run(quick: bool = False) -> list[Result]:
    """Return pushes for each CPU second of ours, and for each second."""
    count = 5_000 if quick else 20_000
    with tempfile.TemporaryDirectory() as directory:
        os.sched_setaffinity(0, UNDER_TEST)
        try:
            best = min((measure(Path(directory), count) for _ in range(1 if quick else 3)), key=lambda each: each.own_s)
        finally:
            os.sched_setaffinity(0, CORES)
    a_core = best.pushes / best.own_s
    beside = f"{best.pushes / best.wall_s:,.0f}/s, the fake {best.pushes / best.provider_s:,.0f} a core"
    return [
        print_result(Result("push, APNs a core", a_core, "pushes/CPU-s", f"≥ {TARGET:,}", a_core >= TARGET, beside)),
        print_result(Result(f"push, APNs p99, {IN_FLIGHT} in flight", best.p99_ms, "ms", "-")),
    ]


def measure(directory: Path, count: int) -> Run:
    """Run once against a fresh fake. Raises RuntimeError if a push was lost or arrived twice."""
    fake = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.push_fake", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with fake:
        assert fake.stdout is not None
        pin(fake.pid, BESIDE)
        url = json.loads(fake.stdout.readline())["url"]
        found, wall_s, own_s, delays_s = uvloop.run(load(directory, url, count))
        provider_s = cpu_s(fake.pid)
        told: dict[str, Any] = json.loads(fake.communicate()[0])
    if (told["received"], told["distinct"], told["tokens"], found) != (count + 1, count + 1, 1, count):
        raise RuntimeError(f"{count} pushes, {found} sent, {told}")
    return Run(count, wall_s, own_s, provider_s, 1_000 * percentile(sorted(delays_s), 0.99))


async def load(directory: Path, url: str, count: int) -> tuple[int, float, float, list[float]]:
    """Return pushes sent, seconds, CPU seconds, and the latency of each push."""
    config = ApnsConfig(directory / "key.p8", None, "KEY1", "TEAM", "com.example.app", url, directory / "ca.pem")
    channel = ApnsChannel(config)
    await channel.open()
    await channel.send(push(), 10)
    left, sent, delays_s = iter(range(count)), 0, []

    async def sender() -> None:
        nonlocal sent
        for n in left:
            begun = time.perf_counter()
            verdict = await channel.send(push(token=f"{n + 1:064x}", collapse_id=f"{n:032x}"), 30)
            delays_s.append(time.perf_counter() - begun)
            sent += isinstance(verdict, Sent)

    begun, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
    wall_s, own_s = time.perf_counter() - begun, time.process_time() - cpu
    await channel.close()
    return sent, wall_s, own_s, delays_s
