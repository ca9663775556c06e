"""Rolling: all services are restarted process by process, under load, behind HAProxy with the configuration of deploy/.

The history of all messages and connections is checked, so a lost, doubled or reordered change is found.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx

from gregor.history.checker import HistoryReport, check_file
from tests.bench.machine import allow_many_sockets, real_time
from tests.bench.reconnect_load import ReconnectJob
from tests.bench.reconnect_process import ReconnectRun, reconnect_load
from tests.bench.report import Result, percentile, print_result
from tests.support.cluster import Cluster
from tests.support.fake_providers import FakeProviders, running
from tests.support.proxies import HaProxy
from tests.support.wait import wait_until_sync

SETTLE_S: Final = 2.0
"""Time from a ready process to the end of the next one: the proxy checks once a second."""
PUSHED: Final = 50
CATEGORY: Final = '["pushed"]\ntitle = "{{ body.title }}"\npush = { after = "0s" }\n'


@dataclass(frozen=True)
class RollingPlan:
    """The size of a run. ``processes``: of each service that are restarted. ``quiet_s``: load before and after that."""

    devices: int = 2_400
    rate: float = 300
    rounds: int = 2
    processes: int = 2
    pre_drain_s: float = 5.0
    quiet_s: float = 5.0


SMALL: Final = RollingPlan(devices=100, rate=20, rounds=1, processes=1, pre_drain_s=3, quiet_s=2)


@dataclass
class RollingRun:
    """The results of the load, the check of its history, and the titles of the pushes that the provider got."""

    load: ReconnectRun
    report: HistoryReport
    titles: Counter[str]
    seconds: float

    @property
    def lost_pushes(self) -> int:
        """Accepted pushes that the provider did not get."""
        return sum(not self.titles[title] for title in self.load.pushes)

    @property
    def doubled_pushes(self) -> int:
        """Pushes that the provider got more than once."""
        return sum(count > 1 for count in self.titles.values())

    @property
    def outages_s(self) -> list[float]:
        """The times without connection, sorted."""
        return sorted(each.back_s - each.gone_s for each in self.load.outages)


def run(quick: bool = False, **sizes: int) -> list[Result]:
    """Return the losses, the failed requests, and the times without connection. ``sizes``: of ``RollingPlan``."""
    allow_many_sockets()
    plan = replace(SMALL if quick else RollingPlan(), **sizes)
    with tempfile.TemporaryDirectory() as directory, real_time():
        found = roll(Path(directory), plan)
    return [print_result(result) for result in results(found, plan)]


def roll(directory: Path, plan: RollingPlan) -> RollingRun:
    """Restart the processes under load."""
    history, began_s = directory / "history.jsonl", time.monotonic()
    with _services(directory, plan) as (cluster, providers):
        proxy = HaProxy(cluster, directory / "haproxy")
        proxy.start()
        try:
            asyncio.run(_register_phones(cluster))
            with reconnect_load(_job(cluster, proxy, plan, history), directory) as finish:
                time.sleep(plan.quiet_s)
                for _ in range(plan.rounds):
                    _restart_all(cluster, plan.processes)
                time.sleep(plan.quiet_s)
                load = finish()
            wait_until_sync(lambda: set(load.pushes) <= set(providers.titles()), "the pushes", 30)
        finally:
            proxy.stop()
    report = check_file(history)
    return RollingRun(load, report, Counter(providers.titles()), time.monotonic() - began_s)


@contextmanager
def _services(directory: Path, plan: RollingPlan) -> Iterator[tuple[Cluster, FakeProviders]]:
    (directory / "categories.toml").write_text(CATEGORY)
    (directory / "fakes").mkdir()
    with (
        running(directory / "fakes") as providers,
        Cluster(
            directory / "c",
            gateways=2,
            ingests=2,
            schedulers=2,
            deliveries=2,
            categories=str(directory / "categories.toml"),
            trusted_proxies="127.0.0.1",
            pre_drain_seconds=plan.pre_drain_s,
            log_level="warning",
            **providers.options("APNS"),
        ) as cluster,
    ):
        yield cluster, providers


def _job(cluster: Cluster, proxy: HaProxy, plan: RollingPlan, history: Path) -> ReconnectJob:
    """Return the job: five of six users have one device, and the others have two."""
    users = plan.devices * 5 // 6
    owners = [(f"u{number % users}", f"d{number // users}") for number in range(plan.devices)]
    return ReconnectJob(
        gateways=[proxy.url.replace("https", "wss")],
        ingest=proxy.url,
        key=cluster.key,
        devices=[(uid, name, cluster.token(uid, name), 0) for uid, name in owners],
        rate=plan.rate,
        pushed=[f"away{number}" for number in range(PUSHED)],
        history=str(history),
        has_addresses=True,
    )


async def _register_phones(cluster: Cluster) -> None:
    async with cluster.api() as api:
        for number in range(PUSHED):
            push = {"provider": "apns", "token": f"away{number}".encode().hex()}
            body = {"platform": "ios", "push": push}
            answer: httpx.Response = await api.put(f"/v1/users/away{number}/devices/phone", json=body)
            answer.raise_for_status()


# ---- the restarts


def _restart_all(cluster: Cluster, processes: int) -> None:
    """Restart one process after the other: on two cores, the start of a process is a load, too."""
    services = (cluster.ingests, cluster.gateways, cluster.schedulers, cluster.deliveries)
    for process in (each for service in services for each in service[:processes]):
        process.signal(signal.SIGTERM)
        status = process.wait(60)
        if status != 0:
            raise RuntimeError(f"{process.name} ended with status {status}:\n{process.said()}")
        process.start()
        process.wait_ready()
        time.sleep(SETTLE_S)


# ---- the results


def results(found: RollingRun, plan: RollingPlan) -> list[Result]:
    load, report = found.load, found.report
    lost, doubled, failed, different = (
        found.lost_pushes, found.doubled_pushes, sum(load.failed.values()), len(load.different)
    )  # fmt: skip
    outages = found.outages_s or [0.0]
    p50, p99, most = percentile(outages, 0.5), percentile(outages, 0.99), outages[-1]
    sent = f"{load.sent:,} messages, {plan.rate:g}/s, {plan.devices:,} devices, {found.seconds:.0f} s"
    ends = ", ".join(f"{count:,} {name}" for name, count in sorted(load.ends.items()))
    anomalies = dict(Counter(each.name for each in report.findings))
    return [
        Result("rolling, lost or doubled changes", len(report.findings), "anomalies", "0", not report.findings, sent),
        Result("rolling, devices that differ at the end", different, "devices", "0", different == 0, str(anomalies)),
        Result("rolling, pushes lost", lost, "pushes", "0", lost == 0, f"{len(load.pushes):,} pushes"),
        Result("rolling, pushes doubled", doubled, "pushes", "0", doubled == 0),
        Result("rolling, failed after one retry", failed, "messages", "0", failed == 0, f"retried: {load.retried}"),
        Result("rolling, without connection, p99", p99, "s", "≤ 2 s", p99 <= 2, f"p50 {p50:.3f} s, {len(outages):,}"),
        Result("rolling, without connection, at most", most, "s", "≤ 5 s", most <= 5, ends),
    ]  # fmt: skip
