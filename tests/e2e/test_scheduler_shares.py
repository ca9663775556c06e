"""Three schedulers share the partitions; one is killed and one is suspended: no timer waits for their return."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import Cluster, Service
from tests.support.machine import Waiting
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e

USERS = 90
MAX_LATE_S = "2.5"
"""A bucket of the histogram. The second deputy takes over after 0.8 s; the rest is for a busy machine. Without
deputies, the loss of two schedulers would be noticed after 10 to 14 s."""
BUSY_LATE_S = "5.0"
"""The same on a machine that let the scheduler wait for a core for over a second."""


@pytest.mark.slow
async def test_timers_of_lost_schedulers_are_on_time(tmp_path: Path) -> None:
    with Cluster(tmp_path / "c", gateways=0, ingests=1, schedulers=3, log_level="info") as cluster:
        killed, suspended, left = cluster.schedulers
        waiting = Waiting([cluster.server.pid, left.pid])
        await wait_until(lambda: is_shared(cluster), "the partitions are shared", 30)
        async with cluster.api() as api:
            first_s = await create(api, cluster)
        killed.signal(signal.SIGKILL)
        suspended.signal(signal.SIGSTOP)
        assert cluster.now_s() < first_s, "nothing is due before the schedulers are lost"
        try:
            await wait_until(lambda: lateness(left, "+Inf") == USERS, "all items expire", 40, 0.2)
        finally:
            suspended.signal(signal.SIGCONT)
        counts = {bucket: lateness(left, bucket) for bucket in ("0.25", "0.5", "1.0", "1.5", MAX_LATE_S, "5.0")}
        bound = MAX_LATE_S if waiting.lost_s() < 1 else BUSY_LATE_S
        assert counts[bound] == USERS, counts
        await wait_until(lambda: lateness(suspended, "+Inf") == 0, "the other one had nothing left to do")


def metrics(service: Service) -> str:
    return httpx.get(service.probes[0].replace("/readyz", "/metrics"), trust_env=False, timeout=20).text


def lateness(service: Service, bucket: str) -> int:
    """Return how many expiries a scheduler has executed at most so late."""
    line = re.search(
        rf'^gregor_timer_lateness_seconds_bucket{{kind="expire",le="{re.escape(bucket)}"}} (.+)$',
        metrics(service),
        re.M,
    )
    return 0 if line is None else int(float(line[1]))


def is_shared(cluster: Cluster) -> bool:
    """Return whether each scheduler owns a part of the partitions, and none is owned twice."""
    pages = map(metrics, cluster.schedulers)
    counts = [float(line[1]) for page in pages if (line := re.search(r"^gregor_owned_partitions (.+)$", page, re.M))]
    return sum(counts) == 1_024 and all(0 < count < 1_024 for count in counts)


async def create(api: httpx.AsyncClient, cluster: Cluster) -> float:
    """Create an item for each user, which expire one after the other. Returns the first time."""
    first_s = cluster.now_s() + 8
    for n in range(USERS):
        item: dict[str, Any] = {"category": "mail", "body": 1, "times": {"expires": round(first_s + 5 * n / USERS, 3)}}
        body = {"system": "gregor", "body": {"create": {"aa": item}}}
        assert (await api.post(f"/v1/users/u{n}/messages", json=body)).status_code == 200
    return first_s
