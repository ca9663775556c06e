"""Shards: a cluster of three primaries under load, while primaries are killed, hang, and give slots away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tests.bench.machine import allow_many_sockets
from tests.bench.report import Result, percentile, print_result
from tests.bench.soak import wrong_devices
from tests.chaos.topologies import slot_of_user
from tests.support.cluster import Cluster
from tests.support.redis_cluster import ClusterNode, RedisCluster, running_redis_cluster
from tests.support.wait import wait_until_sync

Failure = Literal["killed", "hung"]
USERS, DEVICES, RATE = 2_000, 2_400, 300
CYCLE_S: Final = 14.0
"""Time of one failure, with the return of the node and a quiet time."""
HUNG_S: Final = 6.0
NORMAL_S: Final = 8.0
BACK_S: Final[dict[Failure, float]] = {"killed": 5.0, "hung": 7.0}
REPLICATED: Final = 0.8
MOVES: Final = 20


@dataclass
class Outage:
    """One failure of a primary, at ``at_s``. ``slots``: those of the primary then."""

    failure: Failure
    at_s: float
    slots: Sequence[tuple[int, int]]

    def hits(self, uid: str) -> bool:
        """Return whether the primary had the state of a user."""
        return any(first <= slot_of_user(uid) <= last for first, last in self.slots)

    def spares(self, uid: str) -> bool:
        """Return whether another primary had the state of a user."""
        return not self.hits(uid)


@dataclass
class ShardsRun:
    """What the load saw (see ``shards_load``), and the failures."""

    load: dict[str, Any]
    outages: list[Outage] = field(default_factory=list)
    lost: list[tuple[str, bool, float]] = field(default_factory=list)
    """Lost messages: item, whether it was acknowledged as replicated, and when."""
    wrong_devices: int = 0

    def sent(self, first_s: float, last_s: float, uids: Callable[[str], bool]) -> list[tuple[float, float, int]]:
        """Return (sent at, answered at, status) of the messages of some users in a time, of the default durability."""
        return [
            (at, to, status)
            for uid, _, at, to, status, asks_replicas, _ in self.load["sent"]
            if first_s <= at < last_s and not asks_replicas and uids(uid)
        ]


def run(quick: bool = False) -> list[Result]:
    """Return the outages, the losses, and what the users of other shards noticed."""
    allow_many_sockets()
    three: list[Failure] = ["killed", "killed", "hung"]
    failures = three[1:] if quick else three * 10
    with tempfile.TemporaryDirectory() as directory, _services(Path(directory)) as (redis, cluster):
        found = _fail(redis, cluster, failures)
        results = outage_results("killed", found) + outage_results("hung", found)
        results += loss_results(found) + neighbour_results(found)
        return results + move_results(_move(redis, cluster, 5 if quick else MOVES))


@contextmanager
def _services(directory: Path) -> Iterator[tuple[RedisCluster, Cluster]]:
    with (
        running_redis_cluster(directory / "redis", "--appendonly", "yes", "--appendfsync", "everysec") as redis,
        Cluster(
            directory / "c",
            gateways=2,
            ingests=2,
            schedulers=2,
            state_url=redis.url,
            log_level="warning",
            compare_interval=5,
        ) as cluster,
    ):
        yield redis, cluster


# ---- the runs


def _fail(redis: RedisCluster, cluster: Cluster, failures: Sequence[Failure]) -> ShardsRun:
    """Let primaries fail one after the other under load."""
    uids = [f"u{n}" for n in range(USERS)]
    seconds = NORMAL_S + len(failures) * CYCLE_S
    outages: list[Outage] = []
    with _load(cluster, uids, DEVICES, seconds, REPLICATED) as finish:
        began_s = time.monotonic()
        for number, failure in enumerate(failures):
            _sleep_until(began_s + NORMAL_S + number * CYCLE_S)
            outages.append(_fail_one(redis, failure, number))
        found = ShardsRun(finish(), outages)
    asyncio.run(_compare(cluster, found))
    return found


def _fail_one(redis: RedisCluster, failure: Failure, number: int) -> Outage:
    primaries = redis.primaries()
    primary = primaries[number % len(primaries)]
    replica = redis.replica_of(primary)
    outage = Outage(failure, time.monotonic(), redis.slot_map()[primary.id])
    outage.at_s = time.monotonic()
    if failure == "killed":
        primary.kill()
        wait_until_sync(lambda: _is_primary(replica), "the replica is promoted", 30)
        _sleep_until(outage.at_s + HUNG_S)
        primary.start()
    else:
        primary.suspend()
        _sleep_until(outage.at_s + HUNG_S)
        primary.resume()
    redis.wait_until_ready(redis.nodes, 60)
    return outage


def _move(redis: RedisCluster, cluster: Cluster, moves: int) -> tuple[ShardsRun, float]:
    """Move one busy slot between the primaries under load. Returns the run, and the share of the slot's messages."""
    slot = slot_of_user("u0")
    busy = [f"m{n}" for n in range(200_000) if slot_of_user(f"m{n}") == slot][:40]
    uids = busy * (USERS // len(busy)) + [f"u{n}" for n in range(USERS)]
    with _load(cluster, uids, 400, NORMAL_S + moves * 1.5, 0.0) as finish:
        began_s = time.monotonic()
        for number in range(moves):
            _sleep_until(began_s + NORMAL_S + number * 1.5)
            primaries = redis.primaries()
            owner = redis.primary_of(slot)
            redis.migrate_slots(slot, slot, primaries[(primaries.index(owner) + 1) % len(primaries)])
        found = ShardsRun(finish())
    asyncio.run(_compare(cluster, found))
    return found, began_s + NORMAL_S


def _is_primary(node: ClusterNode) -> bool:
    try:
        return node.role() == "master"
    except OSError:
        return False


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))


@contextmanager
def _load(
    cluster: Cluster, uids: Sequence[str], devices: int, seconds: float, replicated: float
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run the load in another process. The value waits for its end and returns what it saw."""
    names = list(dict.fromkeys(uids))
    owners = [(names[n % len(names)], f"d{n // len(names)}") for n in range(devices)]
    job = {
        "gateways": cluster.gateway_urls,
        "ingests": cluster.ingest_urls,
        "key": cluster.key,
        "devices": [(uid, cluster.token(uid, device)) for uid, device in owners],
        "users": list(uids),
        "rate": RATE,
        "seconds": seconds,
        "replicated": replicated,
    }
    command = [sys.executable, "-m", "tests.bench.shards_load"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    stdout, answers = process.stdout, []
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        assert stdout.readline() == "ready\n", "the load could not connect"
        reader = threading.Thread(target=lambda: answers.append(stdout.read()))
        reader.start()

        def finish() -> dict[str, Any]:
            reader.join(seconds + 120)
            found: dict[str, Any] = json.loads(answers[0])
            return found

        yield finish
    finally:
        process.kill()
        process.wait()


async def _compare(cluster: Cluster, found: ShardsRun) -> None:
    """Compare the store with the answers, and the devices with the store."""
    found.wrong_devices = await wrong_devices(cluster, found.load["digests"])
    accepted: dict[str, list[tuple[str, bool, float]]] = {}
    for uid, item, sent_s, _, status, _, is_replicated in found.load["sent"]:
        if status == 200:
            accepted.setdefault(uid, []).append((item, is_replicated, sent_s))
    async with cluster.api() as api:
        for uid, messages in accepted.items():
            items = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
            found.lost += [each for each in messages if each[0] not in items]


# ---- the results


def outage_results(failure: Failure, found: ShardsRun) -> list[Result]:
    """Return when the users of failed primaries committed and received again."""
    commits, receives = [], []
    for outage in (each for each in found.outages if each.failure == failure):
        sent = found.sent(outage.at_s, outage.at_s + CYCLE_S, outage.hits)
        commits.append(_steady_from(sent, outage.at_s) - outage.at_s)
        news = [
            found.load["seen"].get(item, outage.at_s + CYCLE_S)
            for uid, item, at, _, status, *_ in found.load["sent"]
            if outage.at_s + 0.5 < at < outage.at_s + CYCLE_S and status == 200 and outage.hits(uid)
        ]
        receives.append(min(news, default=outage.at_s + CYCLE_S) - outage.at_s)
    if not commits:
        return []
    commits.sort()
    most_s, p50_s = BACK_S[failure], percentile(commits, 0.5)
    receives.sort()
    count = f"{len(commits)} failures, {RATE} messages/s, {DEVICES} devices"
    results = [
        Result(
            f"shards, {failure}: commits again, at most",
            commits[-1],
            "s",
            f"≤ {most_s:g} s",
            commits[-1] <= most_s,
            count,
        ),
        Result(
            f"shards, {failure}: devices receive again, at most",
            receives[-1],
            "s",
            f"≤ {most_s + 1:g} s",
            receives[-1] <= most_s + 1,
        ),
    ]
    if failure == "killed":
        results.append(Result("shards, killed: commits again, p50", p50_s, "s", "≤ 3.5 s", p50_s <= 3.5))
    return list(map(print_result, results))


def _steady_from(sent: Sequence[tuple[float, float, int]], began_s: float) -> float:
    """Return when the first message was accepted after which every one was accepted within a second, for 2 s."""
    sent = sorted(sent)
    bad = [at for at, to, status in sent if status != 200 or to - at > 1]
    for at, to, status in sent:
        if status == 200 and to - at <= 1 and not any(at < each < at + 2 for each in bad):
            return to if bad and at > bad[0] else began_s
    return began_s + CYCLE_S


def loss_results(found: ShardsRun) -> list[Result]:
    """Return what was lost, and the devices that differ from the server."""
    promised = sum(each[6] for each in found.load["sent"])
    plain = sum(each[4] == 200 and not each[6] for each in found.load["sent"])
    broken = sum(is_replicated for _, is_replicated, _ in found.lost)
    lost = len(found.lost) - broken
    windows = [
        min(abs(each.at_s - at) for each in found.outages) for _, is_replicated, at in found.lost if not is_replicated
    ]
    within = max(windows, default=0.0)
    closed, wrong = len(found.load["closed"]), found.wrong_devices
    results = [
        Result("shards, replicated messages lost", broken, "messages", "0", broken == 0, f"{promised:,} acknowledged"),
        Result(
            "shards, other messages lost",
            lost,
            "messages",
            "counted",
            None,
            f"{plain:,} acknowledged; within {within:.2f} s",
        ),
        Result(
            "shards, devices with another digest", wrong, "devices", "0", wrong == 0, f"{closed} connections closed"
        ),
    ]
    return list(map(print_result, results))


def neighbour_results(found: ShardsRun) -> list[Result]:
    """Return what the users of the other shards noticed, compared with the time before each failure."""
    before: list[float] = []
    during: list[float] = []
    refused = 0
    late: list[float] = [0.0]
    for outage in found.outages:
        until_s = outage.at_s + BACK_S[outage.failure]
        before += [to - at for at, to, _ in found.sent(outage.at_s - 3, outage.at_s, outage.spares)]
        sent = found.sent(outage.at_s, until_s, outage.spares)
        during += [to - at for at, to, _ in sent]
        refused += sum(status >= 500 for _, _, status in sent)
        fired = found.load["reminders"]
        # By the time at which they were due: those of the failure before may come after its lease.
        late += [each for uid, at, each in fired if outage.at_s < at - each < until_s and outage.spares(uid)]
    normal_ms, failing_ms = (1e3 * percentile(sorted(each) or [0.0], 0.99) for each in (before, during))
    most_ms, late_s = 1.25 * normal_ms + 10, max(late)
    beside = f"p99 {normal_ms:.1f} ms before, {len(during):,} messages"
    results = [
        Result("shards, others: 5xx", refused, "messages", "0", refused == 0),
        Result("shards, others: p99", failing_ms, "ms", f"≤ {most_ms:.0f} ms", failing_ms <= most_ms, beside),
        Result("shards, others: reminders late, at most", late_s, "s", "≤ 1.5 s", late_s <= 1.5, f"{len(late) - 1}"),
    ]
    return list(map(print_result, results))


def move_results(moved: tuple[ShardsRun, float]) -> list[Result]:
    """Return what the users of a slot noticed while it moved."""
    found, began_s = moved
    slot = slot_of_user("u0")
    sent = found.sent(began_s, float("inf"), lambda uid: slot_of_user(uid) == slot)
    refused = sum(status != 200 for _, _, status in sent)
    p99_ms = 1e3 * percentile(sorted(to - at for at, to, _ in sent), 0.99)
    lost, wrong = len(found.lost), found.wrong_devices
    results = [
        Result("shards, moved slot: refused", refused, "messages", "0", refused == 0, f"{len(sent):,} of the slot"),
        Result("shards, moved slot: lost", lost, "messages", "0", lost == 0),
        Result("shards, moved slot: p99", p99_ms, "ms", "≤ 100 ms", p99_ms <= 100),
        Result("shards, moved slot: devices that differ", wrong, "devices", "0", wrong == 0),
    ]
    return list(map(print_result, results))
