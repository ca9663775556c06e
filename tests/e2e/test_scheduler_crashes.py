"""Schedulers killed at random under load, or standing still past their lease: what was to happen happens, once.

That they die in the middle of something, not only between two things, is seen from how late those come that waited for
a lease. What each single step is worth is tried one by one in `tests/unit/scheduler/test_dying.py`.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.support.cluster import Cluster, Service
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

CATEGORIES = """
["fold"]
title = "{{ body.n }}"
aggregate = { window = "1s", at_least = 3 }
["told"]
title = "A word"
push = { after = "1s" }
"""
USERS = 12
LOAD_S = 60
LEASE_S = 3


@dataclass
class Expected:
    """What one user was promised. ``perhaps``: reminders that were past on arrival where a busy machine was slow."""

    reminders: set[tuple[str, float]] = field(default_factory=set)
    perhaps: set[tuple[str, float]] = field(default_factory=set)
    expiries: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    folded: set[str] = field(default_factory=set)
    pushed: set[str] = field(default_factory=set)

    @property
    def live(self) -> set[str]:
        """What is left in the end, the summary apart."""
        return {id_ for id_, _ in self.reminders} | self.late | self.pushed


def message(id_: str, category: str, **times: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {id_: {"category": category, "times": times, "body": {"n": id_}}}}}


async def load(api: httpx.AsyncClient, uid: str, expected: Expected, until: float) -> None:
    """Everything that asks for time, of one user, until a moment."""

    async def post(document: dict[str, Any]) -> None:
        answer = await api.post(f"/v1/users/{uid}/messages", json=document)
        assert answer.status_code == 200, answer.text

    dice = random.Random(uid)
    number = 0
    while time.time() < until:
        number += 1
        now = round(time.time(), 3)
        # At whole seconds, when whoever kills is about: so that some die in the middle of something.
        times = [math.ceil(now + 0.5), math.ceil(now + 2.5)]
        await post(message(f"r{number}", "mail", created=now, remind_at=times))
        # Of reminders that are past on arrival only the latest fires: of the first nothing is promised then.
        is_late = time.time() >= times[1]
        (expected.perhaps if is_late else expected.reminders).add((f"r{number}", times[0]))
        expected.reminders.add((f"r{number}", times[1]))
        await post(message(f"x{number}", "mail", expires="+1.5"))
        expected.expiries.add(f"x{number}")
        await post(message(f"q{number}", "mail", remind_at=["+2"], expires="+4"))
        await post({"system": "gregor", "body": {"dismiss": {"ids": [f"q{number}"]}}})
        expected.quiet.add(f"q{number}")
        await post({**message(f"d{number}", "mail"), "id": f"d{number}", "not_before": now + 1})
        expected.late.add(f"d{number}")
        await post(message(f"f{number}", "fold"))
        expected.folded.add(f"f{number}")
        await post(message(f"p{number}", "told"))
        expected.pushed.add(f"p{number}")
        await asyncio.sleep(0.3 + dice.random() / 2)


@dataclass
class Havoc:
    """What was done to schedulers: one at a time, never to all. `taken_over`: what was done late, after a lease."""

    kills: int = 0
    stops: int = 0
    taken_over: int = 0

    async def go_on(self, cluster: Cluster) -> None:
        """Until cancelled."""
        dice = random.Random(7)
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(1 - time.time() % 1 + dice.random() * 0.15)
                victim = dice.choice(cluster.schedulers)
                self.taken_over += await taken_over(victim)
                if dice.random() < 0.2:
                    # It comes back in the middle of something that another has taken over meanwhile.
                    victim.signal(signal.SIGSTOP)
                    self.stops += 1
                    try:
                        await asyncio.sleep(LEASE_S + dice.random())
                    finally:
                        victim.signal(signal.SIGCONT)
                else:
                    victim.kill()
                    self.kills += 1
                    try:
                        await asyncio.sleep(dice.random() / 2)
                    finally:
                        victim.start()


async def taken_over(scheduler: Service) -> int:
    """How much a scheduler has done so late that a lease must have run out before."""
    async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
        try:
            answer = await client.get(scheduler.probes[0].replace("/readyz", "/metrics"))
        except httpx.HTTPError:
            return 0  # it has only just begun
    late = 0.0
    for line in answer.text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("gregor_timer_lateness_seconds_bucket") and 'le="+Inf"' in name:
            late += float(value)
        elif name.startswith("gregor_timer_lateness_seconds_bucket") and 'le="2.5"' in name:
            late -= float(value)
    return round(late)


class Told:
    """What was announced to one device."""

    def __init__(self, phone: WireDevice) -> None:
        self.reminders: Counter[tuple[str, float]] = Counter()
        self.created: Counter[str] = Counter()
        self.dismissed: Counter[tuple[str, str]] = Counter()
        for frame in phone.live:
            body = frame["body"]
            self.reminders.update((id_, at) for id_, at in body.get("remind", {}).items())
            self.created.update(list(body.get("create", {})))
            dismiss = body.get("dismiss", {})
            self.dismissed.update((dismiss.get("reason", ""), id_) for id_ in dismiss.get("ids", []))

    def missing(self, expected: Expected) -> set[object]:
        """What was promised and has not come yet."""
        ended = {id_ for _, id_ in self.dismissed}
        reminders = expected.reminders - self.reminders.keys()
        return reminders | (expected.expiries | expected.quiet) - ended | expected.late - self.created.keys()


async def test_killing_schedulers_under_load_changes_no_final_state_and_doubles_no_announcement(
    tmp_path: Path,
) -> None:
    (tmp_path / "categories.toml").write_text(CATEGORIES)
    uids = [f"user{number}" for number in range(USERS)]
    expected = {uid: Expected() for uid in uids}
    async with AsyncExitStack() as stack:
        cluster = stack.enter_context(
            Cluster(
                tmp_path / "c",
                gateways=1,
                ingests=1,
                schedulers=3,
                lease=LEASE_S,
                categories=tmp_path / "categories.toml",
            )
        )
        api = await stack.enter_async_context(cluster.api())
        push = {"provider": "fcm", "token": "t", "topic": "x", "sandbox": False}
        phones = {}
        for uid in uids:
            device = {"platform": "android", "push": {**push, "token": uid}}
            assert (await api.put(f"/v1/users/{uid}/devices/phone", json=device)).status_code == 200
            wire = WireDevice(cluster.gateway_urls[0], cluster.token(uid, "phone"), {})
            phones[uid] = await stack.enter_async_context(wire)
            await phones[uid].synced()
        havoc = Havoc()
        going_on = asyncio.create_task(havoc.go_on(cluster))
        until = time.time() + LOAD_S
        await asyncio.gather(*(load(api, uid, expected[uid], until) for uid in uids))
        going_on.cancel()
        await going_on

        for uid in uids:
            await _complete(phones[uid], expected[uid])
        await _check_folds(api, uids, expected)
        for uid in uids:
            _check(Told(phones[uid]), expected[uid], phones[uid])
            await _check_state(api, uid, expected[uid], phones[uid])
        havoc.taken_over += sum([await taken_over(scheduler) for scheduler in cluster.schedulers])
        assert havoc.kills >= 12 and havoc.stops >= 2 and havoc.taken_over >= 5, havoc
        assert _pushed(cluster) == {(uid, id_) for uid in uids for id_ in expected[uid].pushed}


async def _complete(phone: WireDevice, expected: Expected) -> None:
    """Wait for all that was promised, as long as any of it still comes: how fast that is, is up to the machine."""

    def missing() -> set[object]:
        return Told(phone).missing(expected)

    while left := len(missing()):

        def has_come(left: int = left) -> bool:
            return len(missing()) < left

        await wait_until(has_come, lambda: f"{missing()} is told; syncs: {phone.syncs}", 60)


async def _check_folds(api: httpx.AsyncClient, uids: list[str], expected: dict[str, Expected]) -> None:
    """Each item of the folding type is live or in a summary that is: none lost, none twice."""
    for uid in uids:

        async def is_folded(uid: str = uid) -> bool:
            items = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
            return sum(item["category"] == "fold" for item in items.values()) == 1

        await wait_until(is_folded, f"one summary of {uid}", 30)
        items = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
        (summary,) = (item["body"]["summary"] for item in items.values() if item["category"] == "fold")
        assert summary["count"] == len(expected[uid].folded)


def _check(told: Told, expected: Expected, phone: WireDevice) -> None:
    assert told.reminders == Counter(expected.reminders | expected.perhaps & told.reminders.keys())
    assert {id_ for id_ in expected.expiries if told.dismissed["expired", id_] != 1} == set()
    assert {id_ for id_ in expected.late if told.created[id_] != 1} == set()
    assert max(told.created.values()) == 1 and max(told.dismissed.values()) == 1
    assert all(told.dismissed["", id_] == 1 for id_ in expected.quiet)
    assert not phone.mirror.items.keys() & (expected.expiries | expected.quiet)
    assert [frame["seq"] for frame in phone.live] == sorted({frame["seq"] for frame in phone.live})


async def _check_state(api: httpx.AsyncClient, uid: str, expected: Expected, phone: WireDevice) -> None:
    """The state is what it would be had no scheduler died, and the device's copy is that state."""
    state = (await api.get(f"/v1/users/{uid}/state")).json()
    assert {id_ for id_, item in state["items"].items() if item["category"] != "fold"} == expected.live
    assert (phone.mirror.digest, set(phone.mirror.items)) == (state["digest"], set(state["items"]))
    gone = set()
    page = f"/v1/users/{uid}/history?limit=1000"
    while page:
        answer = await api.get(page)
        gone |= {(entry["id"], entry["gone"]["reason"]) for entry in answer.json()["entries"] if entry["gone"]}
        page = answer.links.get("next", {}).get("url", "")
    assert {(id_, "expired") for id_ in expected.expiries} <= gone
    assert {(id_, "dismissed") for id_ in expected.quiet} == {each for each in gone if each[1] == "dismissed"}
    assert {(id_, "aggregated") for id_ in expected.folded} <= gone


def _pushed(cluster: Cluster) -> set[tuple[str, str]]:
    """Who was to be told what: entries of one key are one."""
    with redis.Redis.from_url(cluster.server.url, decode_responses=True) as client:
        entries = client.xrange("gregor:deliveries:fcm")
    return {(fields["uid"], fields["item"]) for _, fields in entries}
