"""Shards: a cluster of three primaries under load. Nodes are killed, hang or freeze, slots move, a shard is away.

``shards:failures=0,frozen=0,moves=0,reshards=0,away_minutes=15`` runs one part alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx

from gregor.redis.cluster.slots import SLOTS
from tests.bench.machine import allow_many_sockets
from tests.bench.report import Result, print_result
from tests.bench.shards_results import (
    BACK_S,
    CYCLE_S,
    HUNG_S,
    Failure,
    Outage,
    ShardsRun,
    frozen_results,
    loss_results,
    neighbour_results,
    outage_results,
    phase_results,
    slot_results,
)
from tests.bench.sockets import open_device
from tests.chaos.topologies import slot_of_user
from tests.support.cluster import Cluster, Service
from tests.support.redis_cluster import ClusterNode, RedisCluster, running_redis_cluster
from tests.support.wait import wait_until_sync

USERS, DEVICES = 2_000, 2_400
SHARDS: Final = 3
NORMAL_S: Final = 8.0
REPLICATED: Final = 0.8
AWAY: Final = 1
"""The shard that is away, by the order of the slots. It does not have the service keys, which a new ingest needs."""


@dataclass(frozen=True)
class ShardsPlan:
    """The size of each part; one of size 0 is not run.

    ``failures``: of primaries, of which every third one hangs and the others are killed. ``frozen``: replicas that
    freeze before their primary is killed. ``moves``, ``reshards``: of a slot with half of the messages, atomically and
    key by key. ``away_minutes``: time without a whole shard.
    """

    failures: int = 30
    frozen: int = 6
    moves: int = 20
    reshards: int = 6
    away_minutes: int = 15
    rate: int = 300


SMALL: Final = ShardsPlan(failures=3, frozen=1, moves=5, reshards=2, away_minutes=1)


def run(quick: bool = False, **sizes: int) -> list[Result]:
    """Return the outages, the losses, and the effects on users of other shards. ``sizes``: of ``ShardsPlan``."""
    allow_many_sockets()
    plan = replace(SMALL if quick else ShardsPlan(), **sizes)
    parts: list[tuple[int, Callable[[Path, ShardsPlan], list[Result]]]] = [
        (plan.failures, _failures),
        (plan.frozen, _freezes),
        (plan.moves, _moves),
        (plan.reshards, _reshards),
        (plan.away_minutes, _away),
    ]
    results: list[Result] = []
    for size, part in parts:
        if size:
            with tempfile.TemporaryDirectory() as directory:
                results += part(Path(directory), plan)
    return results


@contextmanager
def _services(directory: Path, deliveries: int = 0) -> Iterator[tuple[RedisCluster, Cluster]]:
    with (
        running_redis_cluster(directory / "redis", "--appendonly", "yes", "--appendfsync", "everysec") as redis,
        Cluster(
            directory / "c",
            gateways=2,
            ingests=2,
            schedulers=2,
            deliveries=deliveries,
            state_url=redis.url,
            log_level="warning",
            compare_interval=5,
        ) as cluster,
    ):
        yield redis, cluster


# ---- a primary or a replica fails


def _failures(directory: Path, plan: ShardsPlan) -> list[Result]:
    """Let primaries fail one after the other."""
    kinds: tuple[Failure, ...] = ("killed", "killed", "hung")
    found = _fail(directory, plan, [kinds[number % 3] for number in range(plan.failures)])
    results = outage_results("killed", found) + outage_results("hung", found)
    results += loss_results("shards", found) + neighbour_results("shards", found)
    return results + phase_results("shards", found)


def _freezes(directory: Path, plan: ShardsPlan) -> list[Result]:
    """Let replicas freeze and then take over, without the messages that they could not get."""
    found = _fail(directory, plan, ["frozen"] * plan.frozen)
    return frozen_results(found) + loss_results("shards, frozen", found)


def _fail(directory: Path, plan: ShardsPlan, failures: Sequence[Failure]) -> ShardsRun:
    uids = [f"u{n}" for n in range(USERS)]
    seconds = NORMAL_S + len(failures) * CYCLE_S
    outages: list[Outage] = []
    with _services(directory) as (redis, cluster):
        with _load(cluster, uids, DEVICES, plan.rate, seconds, REPLICATED) as finish:
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
    slots, at_s = redis.slot_map()[primary.id], time.monotonic()
    outage = Outage(failure, at_s, slots, at_s + BACK_S.get(failure, HUNG_S))
    if failure == "killed":
        primary.kill()
        wait_until_sync(lambda: _is_primary(replica), "the replica is promoted", 30)
        outage.promoted_s = time.monotonic()
        _sleep_until(at_s + HUNG_S)
        primary.start()
    elif failure == "hung":
        primary.suspend()
        _sleep_until(at_s + HUNG_S)
        primary.resume()
    else:
        replica.suspend()
        _sleep_until(at_s + HUNG_S)
        outage.until_s = time.monotonic()
        primary.kill()
        replica.resume()
        wait_until_sync(lambda: _is_primary(replica), "the replica is promoted", 30)
        primary.start()
    redis.wait_until_ready(redis.nodes, 60)
    return outage


def _is_primary(node: ClusterNode) -> bool:
    try:
        return node.role() == "master"
    except OSError:
        return False


# ---- a slot moves


def _moves(directory: Path, plan: ShardsPlan) -> list[Result]:
    """Move a slot atomically between the primaries."""

    def move(redis: RedisCluster, slot: int, target: ClusterNode) -> None:
        redis.migrate_slots(slot, slot, target)

    found, slot = _move(directory, plan, plan.moves, 1.5, move)
    name = "shards, moved slot"
    return slot_results(name, found, slot, found.outages[0].at_s, is_atomic=True) + loss_results(name, found)


def _reshards(directory: Path, plan: ShardsPlan) -> list[Result]:
    """Move a slot key by key; it is open for about two seconds."""

    def move(redis: RedisCluster, slot: int, target: ClusterNode) -> None:
        redis.reshard_slot(slot, target, lambda: time.sleep(0.2), step=20)

    found, slot = _move(directory, plan, plan.reshards, 8.0, move)
    name = "shards, resharded"
    results = slot_results(name, found, slot, found.outages[0].at_s, is_atomic=False)
    again_s = max(found.commits_again_s(each, each.until_s) for each in found.outages)
    results.append(print_result(Result(f"{name}: commits again after its move", again_s, "s", "≤ 1 s", again_s <= 1)))
    return results + loss_results(name, found) + neighbour_results(name, found)


def _move(
    directory: Path,
    plan: ShardsPlan,
    moves: int,
    every_s: float,
    move: Callable[[RedisCluster, int, ClusterNode], None],
) -> tuple[ShardsRun, int]:
    """Move one busy slot from primary to primary. Returns the run and the slot."""
    slot = slot_of_user("u0")
    busy = [f"m{n}" for n in range(200_000) if slot_of_user(f"m{n}") == slot][:40]
    uids = busy * (USERS // len(busy)) + [f"u{n}" for n in range(USERS)]
    outages: list[Outage] = []
    with _services(directory) as (redis, cluster):
        with _load(cluster, uids, 400, plan.rate, NORMAL_S + moves * every_s, 0.0) as finish:
            began_s = time.monotonic()
            for number in range(moves):
                _sleep_until(began_s + NORMAL_S + number * every_s)
                primaries = redis.primaries()
                target = primaries[(primaries.index(redis.primary_of(slot)) + 1) % len(primaries)]
                at_s = time.monotonic()
                move(redis, slot, target)
                outages.append(Outage("resharded", at_s, [(slot, slot)], time.monotonic()))
            found = ShardsRun(finish(), outages)
        asyncio.run(_compare(cluster, found))
    return found, slot


# ---- a whole shard is away


def _away(directory: Path, plan: ShardsPlan) -> list[Result]:
    """Kill a primary and its replica, restart a process of each service, and start the nodes much later."""
    uids = [f"u{n}" for n in range(USERS)]
    away_s = 60.0 * plan.away_minutes
    with _services(directory, deliveries=1) as (redis, cluster):
        with _load(cluster, uids, DEVICES, plan.rate, NORMAL_S + away_s + 20, 0.0, processes=1) as finish:
            _sleep_until(time.monotonic() + NORMAL_S)
            primary = redis.primaries()[AWAY]
            nodes = [redis.replica_of(primary), primary]
            at_s = time.monotonic()
            outage = Outage("away", at_s, redis.slot_map()[primary.id], at_s + away_s)
            for node in nodes:
                node.kill()
            started_s = _restart_some(cluster, next(filter(outage.spares, uids)))
            wrong_answers = _watch(cluster, outage.until_s)
            for node in reversed(nodes):
                node.start()
            outage.until_s = back_s = time.monotonic()
            wait_until_sync(lambda: all(set(_shards(each)) == {"ok"} for each in cluster.services), "all shards", 60)
            ready_s = time.monotonic() - back_s
            found = ShardsRun(finish(), [outage])
        asyncio.run(_compare(cluster, found))
    commits_s, receives_s = found.commits_again_s(outage, back_s), found.receives_again_s(outage, back_s)
    fired = [
        at - back_s for uid, at, late in found.load["reminders"] if outage.hits(uid) and at_s - 2 < at - late < back_s
    ]
    results = [
        Result("shards, away: a service starts in, at most", started_s, "s", "≤ 60 s", started_s <= 60),
        Result("shards, away: wrong answers of probes", wrong_answers, "answers", "0", wrong_answers == 0),
        Result("shards, away: all probes name no shard after", ready_s, "s", "≤ 5 s", ready_s <= 5),
        Result("shards, away: commits again after", commits_s, "s", "≤ 5 s", commits_s <= 5),
        Result("shards, away: devices receive again after", receives_s, "s", "≤ 5 s", receives_s <= 5),
        Result("shards, away: overdue reminders fired after", max(fired, default=0.0), "s", "≤ 5 s",
               max(fired, default=0.0) <= 5, f"{len(fired)} reminders"),
    ]  # fmt: skip
    for result in results:
        print_result(result)
    return results + loss_results("shards, away", found) + neighbour_results("shards, away", found)


def _restart_some(cluster: Cluster, uid: str) -> float:
    """Restart the processes that the load does not use, and use them for a user. Returns the longest start."""
    longest_s = 0.0
    for process in (cluster.ingests[1], cluster.gateways[1], cluster.schedulers[1], cluster.deliveries[0]):
        process.stop()
        began_s = time.monotonic()
        process.start()
        process.wait_ready()
        longest_s = max(longest_s, time.monotonic() - began_s)
    body = {"system": "gregor", "body": {"create": {"restarted": {"category": "mail", "body": 1}}}}
    headers = {"Authorization": f"Bearer {cluster.key}"}
    url = f"{cluster.ingest_urls[1]}/v1/users/{uid}/messages"
    httpx.post(url, json=body, headers=headers, timeout=10, trust_env=False).raise_for_status()
    socket, sync = open_device(cluster.gateway_urls[1], cluster.token(uid, "restarted"))
    socket.close()
    if "restarted" not in sync["body"]["create"]:
        raise RuntimeError(f"the restarted gateway does not send the item: {sync}")
    return longest_s


def _watch(cluster: Cluster, until_s: float) -> int:
    """Count the probes that are not ready, or do not name the shard that is away."""
    wrong = 0
    while time.monotonic() < until_s:
        wrong += sum(_shards(each).count("away") != 1 for each in cluster.services)
        _sleep_until(min(until_s, time.monotonic() + 5))
    return wrong


def _shards(process: Service) -> list[str]:
    """Return the states of the shards, as a process sees them; none if it is not ready."""
    try:
        answer = httpx.get(process.probes[0], timeout=5, trust_env=False)
    except httpx.HTTPError:
        return []
    shards: list[str] = answer.json()["checks"]["shards"] if answer.status_code == 200 else []
    return shards


# ---- the load


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))


@contextmanager
def _load(
    cluster: Cluster,
    uids: Sequence[str],
    devices: int,
    rate: int,
    seconds: float,
    replicated: float,
    *,
    processes: int = 2,
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run the load, in a process for each shard. The value waits for their ends and returns what they saw.

    ``processes``: of ingest and of the gateway that the load uses.
    """
    # After a failover, hundreds of answers and copies arrive at once. A process that has to handle them would measure
    # its own delay, also for the messages to other shards.
    names = list(dict.fromkeys(uids))
    owners = [(names[n % len(names)], f"d{n // len(names)}") for n in range(devices)]
    with ExitStack() as stack:
        started = []
        for shard in range(SHARDS):
            users = [uid for uid in uids if _shard_of(uid) == shard]
            job = {
                "name": shard,
                "gateways": cluster.gateway_urls[:processes],
                "ingests": cluster.ingest_urls[:processes],
                "key": cluster.key,
                "devices": [(uid, name, cluster.token(uid, name)) for uid, name in owners if _shard_of(uid) == shard],
                "users": users,
                "rate": rate * len(users) / len(uids),
                "seconds": seconds,
                "replicated": replicated,
            }
            started.append(stack.enter_context(_load_process(job)))
        finishes = [_when_ready(process, seconds) for process in started]
        yield lambda: _together([finish() for finish in finishes])


def _shard_of(uid: str) -> int:
    return SHARDS * slot_of_user(uid) // SLOTS


def _together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the lists, dictionaries and numbers of all parts together."""
    found = dict(parts[0])
    for part in parts[1:]:
        for name, value in part.items():
            found[name] = found[name] | value if isinstance(value, dict) else found[name] + value
    return found


@contextmanager
def _load_process(job: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.bench.shards_load"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()


def _when_ready(process: subprocess.Popen[str], seconds: float) -> Callable[[], dict[str, Any]]:
    """Wait until a load is connected. The value waits for its end and returns what it saw."""
    assert process.stdout is not None
    stdout, answers = process.stdout, []
    assert stdout.readline() == "ready\n", "the load could not connect"
    reader = threading.Thread(target=lambda: answers.append(stdout.read()))
    reader.start()

    def finish() -> dict[str, Any]:
        reader.join(seconds + 120)
        found: dict[str, Any] = json.loads(answers[0])
        return found

    return finish


async def _compare(cluster: Cluster, found: ShardsRun) -> None:
    """Compare the store with the answers, and the devices with the store."""
    accepted: dict[str, list[tuple[str, bool, float]]] = {uid: [] for uid in found.load["copies"]}
    for uid, item, sent_s, _, status, _, is_replicated in found.load["sent"]:
        if status == 200:
            accepted.setdefault(uid, []).append((item, is_replicated, sent_s))
    async with cluster.api() as api:
        for uid, messages in accepted.items():
            state = (await api.get(f"/v1/users/{uid}/state")).json()
            items = state["items"]
            found.lost += [each for each in messages if each[0] not in items]
            for device, digest, ids in found.load["copies"].get(uid, ()):
                if digest != state["digest"]:
                    missing, extra = sorted(items.keys() - ids), sorted(set(ids) - items.keys())
                    found.different.append(f"{uid}/{device} misses {missing}, has {extra}")
