"""Timers: a million wait, a thousand a second are due, and one of two schedulers is killed. Each timer fires once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.store.redis.store import RedisStore, open_store
from tests.bench.machine import CORES, cpu_s
from tests.bench.report import Result, percentile, print_result
from tests.bench.sockets import info, redis_cpu_s
from tests.support.cluster import Cluster

LIMITS = Limits()
AT_ONCE = 500
LEAD_S = 5.0
"""Seconds between the end of the filling and the first due timer."""
LEASE_S = 15.0
"""The default of the setting LEASE."""
LATE_S = 40.0
"""Seconds after the last due time for which the listener waits: more than two leases."""


def run(quick: bool = False) -> list[Result]:
    """Return exactly-once counts, lateness, and CPU of Redis and of the schedulers for each timer."""
    users, each, rate, seconds = (5_000, 10, 300, 15) if quick else (100_000, 10, 1_000, 120)
    with tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {"log_level": "warning"}
        with Cluster(Path(directory) / "c", gateways=0, ingests=0, schedulers=2, **settings) as cluster:
            found = asyncio.run(measure(cluster, users, each, rate, seconds))
    return [print_result(result) for result in results(found, rate)]


def results(found: dict[str, Any], rate: int) -> list[Result]:
    late = sorted(found["late_s"])
    p99, missing, twice = percentile(late, 0.99), found["missing"], found["twice"]
    beside = f"p50 {percentile(late, 0.5):.3f} s, most {late[-1]:.1f} s, {found['after_kill']} waited for a lease"
    waiting = f"{found['waiting']:,} waiting, {found['memory_mb']:,.0f} MB"
    return [
        Result("timers, fired of those due", len(late), f"of {found['due']:,}", "all", missing == 0, waiting),
        Result("timers, fired twice", twice, "timers", "0", twice == 0),
        Result("timers, still due in the end", found["left"], "partitions", "0", found["left"] == 0),
        Result(f"timers, p99 lateness at {rate:,}/s", p99, "s", "≤ 1.5 s", p99 <= 1.5, beside),
        Result("timers, Redis CPU", found["redis_us"], "µs a timer", "-"),
        Result("timers, scheduler CPU", found["scheduler_us"], "µs a timer", "-", None, f"{len(CORES)} cores"),
    ]


async def measure(cluster: Cluster, users: int, each: int, rate: int, seconds: int) -> dict[str, Any]:
    """Fill the agendas, listen, let time pass, kill one scheduler in the middle, and count."""
    store = await open_store(cluster.server.url, LIMITS)
    try:
        await fill_waiting(store, users, each)
        due = rate * seconds
        begin = time.time() + LEAD_S + due / 4_000
        passed_on = begin + seconds / 2 + LEASE_S + 3
        listener = listen(cluster.server.url, users, due, passed_on, begin + seconds + LATE_S)
        await fill_due(store, users, due, begin, seconds)
        if time.time() > begin:
            raise RuntimeError("the filling took longer than was planned")
        memory_mb = int(info(cluster.server.url, "memory")["used_memory"]) / 1e6
        await asyncio.sleep(max(0.0, begin - time.time()))
        redis_s, schedulers_s = redis_cpu_s(cluster.server.url), _cpu_s(cluster)
        await asyncio.sleep(seconds / 2)
        schedulers_s -= cpu_s(cluster.schedulers[0].pid)
        cluster.schedulers[0].kill()
        heard = json.loads((await asyncio.to_thread(listener.communicate))[0])
        redis_s = redis_cpu_s(cluster.server.url) - redis_s
        schedulers_s = _cpu_s(cluster) - schedulers_s
        firsts = (await store.agenda.next_due_times()).values()
        heard["left"] = sum(at_us is not None and at_us < time.time_ns() // 1_000 for at_us in firsts)
    finally:
        await store.close()
    return {
        **heard,
        "due": due,
        "waiting": users * each + due,
        "memory_mb": memory_mb,
        "redis_us": redis_s / due * 1e6,
        "scheduler_us": schedulers_s / due * 1e6,
    }


def _cpu_s(cluster: Cluster) -> float:
    """Return CPU seconds of the running schedulers; the share of the killed one is lost."""
    return sum(cpu_s(scheduler.pid) for scheduler in cluster.schedulers if scheduler.is_running)


def creating(items: dict[str, list[float]]) -> Commit:
    """Return the commit that creates items with these reminders."""
    create = {
        id_: {"category": "user.joined", "times": {"remind_at": times}, "body": {"keybase": id_}}
        for id_, times in items.items()
    }
    message = parse_message({"system": "gregor", "body": {"create": create}}, LIMITS)
    return plan(message, Sender(), time.time_ns() // 1_000, random.randbytes(3), LIMITS)


async def fill_waiting(store: RedisStore, users: int, each: int) -> None:
    """Create so many timers for each user that are due in a year."""
    year = time.time() + 365 * 86_400
    for start in range(0, users, AT_ONCE):
        uids = [f"u{number}" for number in range(start, min(users, start + AT_ONCE))]
        items = {f"w{n}": [year + random.random() * 1e6] for n in range(each)}
        await store.users.commit_many([(uid, creating(items)) for uid in uids])


async def fill_due(store: RedisStore, users: int, due: int, begin: float, seconds: int) -> None:
    """Create timers that are due evenly over the run, for users in random order."""
    order = random.Random(1).sample(range(users), users)
    for start in range(0, due, AT_ONCE):
        numbers = range(start, min(due, start + AT_ONCE))
        commits = [
            (f"u{order[n % users]}", creating({f"d{n}": [round(begin + seconds * n / due, 6)]})) for n in numbers
        ]
        await store.users.commit_many(commits)


def listen(url: str, users: int, due: int, at_least_until: float, until: float) -> subprocess.Popen[str]:
    """Start the listener and wait until it is ready."""
    job = {"url": url, "users": users, "due": due, "at_least_until": at_least_until, "until": until}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.timers_load", json.dumps(job)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process
