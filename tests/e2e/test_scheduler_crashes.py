"""Schedulers that are killed or frozen under load: all due work is executed, once.

A scheduler is frozen, and then killed only if it holds users under a lease, hence most of them die in the middle of
work. ``tests/unit/scheduler/test_crash_recovery.py`` covers every single step.
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

from gregor.store.redis.keys import Keys
from tests.support.cluster import Cluster, Service
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

CATEGORIES = """
["fold"]
title = "{{ body.n }}"
aggregate = { window = "1s", at_least = 3 }
["events"]
title = "A word"
push = { after = "1s" }
"""
USERS = 12
LOAD_S = 120
"""Longest search for enough moments with leases."""
LEASE_S = 3


@dataclass
class Expected:
    """The expected events of one user.

    ``perhaps``: reminders that were past on arrival because the machine was slow.
    """

    reminders: set[tuple[str, float]] = field(default_factory=set)
    perhaps: set[tuple[str, float]] = field(default_factory=set)
    expiries: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    folded: set[str] = field(default_factory=set)
    pushed: set[str] = field(default_factory=set)

    @property
    def live(self) -> set[str]:
        """Return the ids that are live at the end, without the summary."""
        return {id_ for id_, _ in self.reminders} | self.late | self.pushed


def message(id_: str, category: str, **times: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {id_: {"category": category, "times": times, "body": {"n": id_}}}}}


async def load(api: httpx.AsyncClient, uid: str, expected: Expected, chaos: SchedulerChaos) -> None:
    """Submit work of all kinds for one user until enough schedulers were killed."""

    async def post(document: dict[str, Any]) -> None:
        answer = await api.post(f"/v1/users/{uid}/messages", json=document)
        assert answer.status_code == 200, answer.text

    dice = random.Random(uid)
    number = 0
    until = time.time() + LOAD_S
    while time.time() < until and not chaos.is_enough:
        number += 1
        now = round(time.time(), 3)
        # Work is due at whole seconds, at which schedulers are frozen.
        times = [math.ceil(now + 0.5), math.ceil(now + 2.5)]
        await post(message(f"r{number}", "mail", created=now, remind_at=times))
        # If both reminders are past on arrival, only the later one fires, and nothing is promised for the first.
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
        await post(message(f"p{number}", "events"))
        expected.pushed.add(f"p{number}")
        await asyncio.sleep(0.3 + dice.random() / 2)


class Leases:
    """The leases at this moment: users whose due work waits for the end of a lease."""

    def __init__(self, server_url: str, uids: list[str]) -> None:
        self._client = redis.Redis.from_url(server_url, decode_responses=True)
        self._keys = {uid: Keys("gregor").of_user(uid) for uid in uids}

    def held(self) -> set[tuple[str, float]]:
        """Return the leased users with the ends of their leases."""
        pipeline = self._client.pipeline(transaction=True)
        for uid, keys in self._keys.items():
            pipeline.zscore(keys.due, uid)
            pipeline.zrange(keys.agenda, 0, 0, withscores=True)
        answers = pipeline.execute()
        now_us = time.time() * 1e6
        return {
            (uid, due_us)
            for uid, due_us, first in zip(self._keys, answers[::2], answers[1::2], strict=True)
            if due_us is not None and first and first[0][1] <= now_us < due_us
        }

    async def are_left_by(self, frozen: Service) -> bool:
        """Return whether a frozen scheduler holds leases: they remain, while other schedulers complete theirs."""
        held = self.held()
        for _ in range(10):
            if not held:
                return False
            await asyncio.sleep(0.01)
            held &= self.held()
        return True


@dataclass
class SchedulerChaos:
    """Kills and freezes schedulers, one at a time. ``amid``: how many of them held leases."""

    leases: Leases = field(repr=False)
    kills: int = 0
    stops: int = 0
    amid: int = 0

    @property
    def is_enough(self) -> bool:
        return self.kills >= 12 and self.stops >= 2 and self.amid >= 8

    async def run(self, cluster: Cluster) -> None:
        """Kill and freeze until cancelled."""
        dice = random.Random(7)
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(1 - time.time() % 1)
                victim = dice.choice(cluster.schedulers)
                try:
                    self.amid += await self._freeze(victim)
                    if dice.random() < 0.2:
                        # It resumes in the middle of work that another scheduler has claimed since.
                        self.stops += 1
                        await asyncio.sleep(LEASE_S + dice.random())
                    else:
                        victim.kill()
                        self.kills += 1
                        await asyncio.sleep(dice.random() / 2)
                finally:
                    if victim.is_running:
                        victim.signal(signal.SIGCONT)
                    else:
                        victim.start()

    async def _freeze(self, victim: Service) -> bool:
        """Freeze a scheduler at a moment with leases, if one is found within a second. Returns whether it was."""
        until = time.monotonic() + 1
        while True:
            victim.signal(signal.SIGSTOP)
            is_amid = await self.leases.are_left_by(victim)
            if is_amid or time.monotonic() >= until:
                return is_amid
            victim.signal(signal.SIGCONT)
            await asyncio.sleep(0.005)


class DeviceEvents:
    """Everything that was announced to one device."""

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
        """Return the expected events that the device has not received yet."""
        ended = {id_ for _, id_ in self.dismissed}
        reminders = expected.reminders - self.reminders.keys()
        return reminders | (expected.expiries | expected.quiet) - ended | expected.late - self.created.keys()


async def test_killed_schedulers_lose_and_repeat_nothing(
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
        chaos = SchedulerChaos(Leases(cluster.server.url, uids))
        running_chaos = asyncio.create_task(chaos.run(cluster))
        await asyncio.gather(*(load(api, uid, expected[uid], chaos) for uid in uids))
        running_chaos.cancel()
        await running_chaos

        for uid in uids:
            await _complete(phones[uid], expected[uid])
        await _check_folds(api, uids, expected)
        for uid in uids:
            _check(DeviceEvents(phones[uid]), expected[uid], phones[uid])
            await _check_state(api, uid, expected[uid], phones[uid])
        assert chaos.is_enough, chaos
        assert _pushed(cluster) == {(uid, id_) for uid in uids for id_ in expected[uid].pushed}


async def _complete(phone: WireDevice, expected: Expected) -> None:
    """Wait for all expected events, as long as new ones arrive: the speed depends on the machine."""

    def missing() -> set[object]:
        return DeviceEvents(phone).missing(expected)

    while left := len(missing()):

        def has_come(left: int = left) -> bool:
            return len(missing()) < left

        await wait_until(has_come, lambda: f"{missing()} is events; syncs: {phone.syncs}", 60)


async def _check_folds(api: httpx.AsyncClient, uids: list[str], expected: dict[str, Expected]) -> None:
    """Check that each aggregated item is in the live summary: none is lost, none counts twice."""
    for uid in uids:

        async def is_folded(uid: str = uid) -> bool:
            items = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
            return sum(item["category"] == "fold" for item in items.values()) == 1

        await wait_until(is_folded, f"one summary of {uid}", 30)
        items = (await api.get(f"/v1/users/{uid}/state")).json()["items"]
        (summary,) = (item["body"]["summary"] for item in items.values() if item["category"] == "fold")
        assert summary["count"] == len(expected[uid].folded)


def _check(events: DeviceEvents, expected: Expected, phone: WireDevice) -> None:
    assert events.reminders == Counter(expected.reminders | expected.perhaps & events.reminders.keys())
    assert {id_ for id_ in expected.expiries if events.dismissed["expired", id_] != 1} == set()
    assert {id_ for id_ in expected.late if events.created[id_] != 1} == set()
    assert max(events.created.values()) == 1 and max(events.dismissed.values()) == 1
    assert all(events.dismissed["", id_] == 1 for id_ in expected.quiet)
    assert not phone.mirror.items.keys() & (expected.expiries | expected.quiet)
    assert [frame["seq"] for frame in phone.live] == sorted({frame["seq"] for frame in phone.live})


async def _check_state(api: httpx.AsyncClient, uid: str, expected: Expected, phone: WireDevice) -> None:
    """Check that the state equals that of a run without crashes, and that the device has the same state."""
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
    """Return the users and items with an enqueued push; entries with the same key count once."""
    with redis.Redis.from_url(cluster.server.url, decode_responses=True) as client:
        entries = client.xrange("gregor:deliveries:fcm")
    return {(fields["uid"], fields["item"]) for _, fields in entries}
