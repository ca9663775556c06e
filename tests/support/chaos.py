"""Chaos test of delivery: two delivery processes send while workers, providers and Redis fail; then the audit compares.

Workers are killed with SIGKILL at random. Providers answer 429, 503, GOAWAY and RST, hang, hang up, accept a push
without an answer, or are down for a while. Redis is killed once and comes back with its append-only file.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from gregor.core.categories.policy import CategoryPolicies
from gregor.core.messages.model import Commit
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor.store.contract.store import Unavailable
from gregor.store.redis.store import RedisStore, open_store
from tests.support.chaos_audit import Audit, Known, audit
from tests.support.cluster import KEEP_ALL, Cluster, Service
from tests.support.failure_modes import ASKING, BUSY, DOWN, HANGING, MIXED
from tests.support.flaky_provider_process import CHANNELS, FlakyProviders, running
from tests.support.load_users import (
    LIMITS,
    LoadUser,
    apply_categories,
    creation,
    dismissal,
    register_users,
    retry_while_unavailable,
)
from tests.support.wait import wait_until

ILL = (ASKING, BUSY, DOWN, HANGING)
EACH = 3
"""Items of each user."""
DISMISSED = 0.05
NEARLY_ALL = 0.1
"""Share of the deliveries that must have ended before the failures stop."""
LATEST_DISMISSAL_S = 5.0
LEASE_S = 3
"""Lease of the scheduler, which loses its claimed work when Redis is killed."""
Ledger = dict[tuple[str, str], list[DeliveryRecord]]
_HAS_ALL, _HAS_TWO = ("apns", "fcm", "webpush", "email"), ("apns", "fcm")


@dataclass(frozen=True)
class Plan:
    """The load and the failures of one run.

    `kill_every_s`: mean time between two kills of any worker, at most a third of `load_s`. Each of the two workers is
    then killed during the load. `ill_s`: duration of one provider outage. `max_wait_s`: if no delivery ends for this
    long, the run counts as stuck; pauses between attempts are shorter.
    """

    intents: int
    load_s: float
    deadline_s: float
    kill_every_s: float
    ill_s: float
    max_wait_s: float
    seed: int = 1


@dataclass
class Outcome:
    """The result of a run: counts, and the findings of the audit."""

    audit: Audit = field(default_factory=Audit)
    intents: int = 0
    requests: int = 0
    kills: int = 0
    illnesses: int = 0
    wall_s: float = 0.0
    left_in_queue: int = 0
    said: str = ""


@dataclass
class _ChaosRun:
    plan: Plan
    cluster: Cluster
    providers: FlakyProviders
    store: RedisStore
    people: Sequence[LoadUser]
    entries: CategoryPolicies
    dice: random.Random
    outcome: Outcome = field(default_factory=Outcome)
    dismissed: set[tuple[str, str]] = field(default_factory=set)
    deaths: list[float] = field(default_factory=list)
    is_calm: bool = False
    """Set when the load is over and most deliveries have ended: the failures stop."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a worker that starts, or by the kill of Redis: a worker that starts without Redis exits at once."""


def users_for(intents: int) -> list[LoadUser]:
    """Return enough users for ``EACH`` items of each to make at least this many intents."""
    found: list[LoadUser] = []
    while intents > 0:
        channels = _HAS_ALL if len(found) % 2 == 0 else _HAS_TWO
        found.append(LoadUser(f"u{len(found)}", channels))
        intents -= EACH * len(channels)
    return found


def chaos(directory: Path, plan: Plan) -> Outcome:
    """Run the load and the failures with real processes, and audit the result."""
    people = users_for(plan.intents)
    browsers = sum("webpush" in person.channels for person in people)
    with running(directory / "providers", 2 * browsers, plan.seed) as providers:
        settings: dict[str, Any] = {
            **providers.settings,
            "delivery_deadline": plan.deadline_s,
            "smtp_timeout": plan.deadline_s,
            "lease": LEASE_S,
        }
        with Cluster(
            directory / "c",
            gateways=0,
            ingests=0,
            schedulers=1,
            deliveries=2,
            server_options=KEEP_ALL,
            log_level="warning",
            **settings,
        ) as cluster:
            return asyncio.run(_act(plan, cluster, providers, people))


async def _act(plan: Plan, cluster: Cluster, providers: FlakyProviders, people: Sequence[LoadUser]) -> Outcome:
    store = await open_store(cluster.server.url, LIMITS)
    try:
        entries = await apply_categories(store)
        browsers = [each for each in providers.browsers if int(each["endpoint"].rpartition("/u")[2]) % 2 == 0]
        await register_users(store, people, browsers)
        scene = _ChaosRun(plan, cluster, providers, store, people, entries, random.Random(plan.seed))
        return await _play(scene)
    finally:
        await store.close()


async def _play(scene: _ChaosRun) -> Outcome:
    plan, outcome = scene.plan, scene.outcome
    providers = scene.providers
    providers.set_modes(**dict.fromkeys(CHANNELS, MIXED))
    began = time.monotonic()
    killers = [_kill_worker(scene, worker) for worker in scene.cluster.deliveries]
    havoc = [asyncio.create_task(each) for each in (*killers, _fail_providers(scene), _kill_store(scene))]
    await _load(scene)
    intents = [intent for person in scene.people for item in _items(person) for intent in person.intents(item)]
    ledger = await _with_due_commits(scene, intents)
    await asyncio.gather(*havoc)
    outcome.wall_s = time.monotonic() - began
    with suppress(AssertionError):
        # A killed worker may still hold the entry of a delivery that is over. Another one takes it after the lease.
        await wait_until(lambda: _left(scene) == 0, "an empty queue", 60, step_s=0.5)
    outcome.left_in_queue = _left(scene)
    seen = providers.seen()
    outcome.intents, outcome.requests = len(intents), len(seen)
    known = Known(intents, ledger, seen, frozenset(scene.dismissed), scene.deaths, plan.deadline_s)
    outcome.audit, outcome.said = audit(known), scene.cluster.said()
    return outcome


def _items(person: LoadUser) -> list[str]:
    return [f"{person.uid}-{n}" for n in range(EACH)]


async def _load(scene: _ChaosRun) -> None:
    """Create all items in random order, spread over the time of the load, and dismiss some of them again."""
    dismissing = []
    work = [(person.uid, item) for person in scene.people for item in _items(person)]
    scene.dice.shuffle(work)
    began, size = time.monotonic(), max(1, len(work) // 200)
    for start in range(0, len(work), size):
        commits = [(uid, creation([item], scene.entries)) for uid, item in work[start : start + size]]
        await retry_while_unavailable(lambda commits=commits: _commit_all(scene, commits))
        for place in work[start : start + size]:
            if scene.dice.random() < DISMISSED:
                scene.dismissed.add(place)
                dismissing.append(asyncio.create_task(_dismiss(scene, *place)))
        await asyncio.sleep(began + scene.plan.load_s * start / len(work) - time.monotonic())
    await asyncio.gather(*dismissing)


async def _commit_all(scene: _ChaosRun, commits: list[tuple[str, Commit]]) -> None:
    for result in await scene.store.users.commit_many(commits):
        if isinstance(result, Unavailable):
            raise result


async def _dismiss(scene: _ChaosRun, uid: str, item: str) -> None:
    """Dismiss an item shortly after its creation: its delivery is running, waits for a retry, or has ended."""
    await asyncio.sleep(scene.dice.random() * LATEST_DISMISSAL_S)
    commit = dismissal([item], scene.entries)
    await retry_while_unavailable(lambda: scene.store.users.commit(uid, commit))


async def _kill_worker(scene: _ChaosRun, worker: Service) -> None:
    """Kill a worker again and again, and start it again after a moment.

    Each worker has its own killer: on a busy machine a start takes seconds, and must not delay the next kill.
    """
    pause_s = len(scene.cluster.deliveries) * scene.plan.kill_every_s
    while True:
        await asyncio.sleep(scene.dice.uniform(0.5, 1.5) * pause_s)
        if scene.is_calm:
            return
        worker.kill()
        scene.deaths.append(time.time())
        scene.outcome.kills += 1
        await asyncio.sleep(scene.dice.random())
        async with scene.turn:
            worker.start()
            await asyncio.to_thread(worker.wait_ready)


async def _fail_providers(scene: _ChaosRun) -> None:
    """Make one provider after the other fail in each way for a while."""
    illnesses = [(channel, word) for channel in CHANNELS for word in ILL]
    scene.dice.shuffle(illnesses)
    for channel, word in cycle(illnesses):
        if scene.is_calm:
            return
        scene.providers.set_modes(**{channel: word})
        scene.outcome.illnesses += 1
        await asyncio.sleep(scene.plan.ill_s)
        scene.providers.set_modes(**{channel: MIXED})


async def _kill_store(scene: _ChaosRun) -> None:
    """Kill Redis in the middle of the load."""
    await asyncio.sleep(scene.plan.load_s / 2)
    async with scene.turn:
        scene.cluster.server.kill()
        scene.deaths.append(time.time())
        await asyncio.sleep(0.5)
        scene.cluster.server.start()
        scene.deaths.append(time.time())


async def _with_due_commits(scene: _ChaosRun, intents: Sequence[Intent]) -> Ledger:
    """Return the ledger when every delivery has ended and no work is due, or when nothing has ended for too long."""
    fewest, since = len(intents), time.monotonic()
    places = list(dict.fromkeys((intent.uid, intent.item) for intent in intents))
    left = places

    async def is_over() -> Ledger | None:
        nonlocal fewest, since, left
        ledger = await _read(scene.store, left)
        left = [place for place in left if not _is_settled(ledger[place], place in scene.dismissed)]
        scene.is_calm = scene.is_calm or len(left) <= NEARLY_ALL * len(places)
        if not left and await _is_idle(scene.store):
            ledger = await _read(scene.store, places)  # more deliveries may be planned by now
            left = [place for place in places if not _is_settled(ledger[place], place in scene.dismissed)]
            if not left:
                return ledger
        if len(left) < fewest:
            fewest, since = len(left), time.monotonic()
        is_stuck = time.monotonic() > since + scene.plan.max_wait_s
        return await _read(scene.store, places) if is_stuck else None

    found: Ledger = await wait_until(is_over, "all is over, or stuck", math.inf, step_s=0.5)
    return found


async def _read(store: RedisStore, places: Sequence[tuple[str, str]]) -> Ledger:
    found: Ledger = {}
    for start in range(0, len(places), 500):
        some = places[start : start + 500]
        read = await asyncio.gather(*(store.ledger.of_item(*place) for place in some))
        found.update(zip(some, read, strict=True))
    return found


async def _is_idle(store: RedisStore) -> bool:
    """Return whether the schedulers have no due work and hold no lease."""
    soon_us = time.time_ns() // 1_000 + round((LEASE_S + 1) * 1e6)
    return all(at_us is None or at_us > soon_us for at_us in (await store.agenda.next_due_times()).values())


def _is_settled(deliveries: Sequence[DeliveryRecord], is_dismissed: bool) -> bool:
    """Return whether a delivery has reached its last state.

    A withdrawal that waits for its time or for the next push counts, and so does an item that left before its delivery.
    """
    if not deliveries:
        return is_dismissed
    return all(each.is_over or _waits_for_a_push(each) for each in deliveries)


def _waits_for_a_push(delivery: DeliveryRecord) -> bool:
    """Return whether a withdrawal is to be sent along with the next push."""
    is_withdrawal = delivery.intent.kind is IntentKind.WITHDRAW
    return is_withdrawal and delivery.state is DeliveryState.WAITING and delivery.history.reason == "budget"


def _left(scene: _ChaosRun) -> int:
    """Count the stream entries that were neither claimed nor acknowledged."""
    streams = [f"gregor:deliveries:{channel}" for channel in CHANNELS]
    return sum(int(scene.cluster.server.say("XLEN", stream).strip()[1:]) for stream in streams)
