"""Schedulers killed at random under load, or standing still past their lease: what was to happen happens, once.

Most of them die in the middle of something: one is frozen, and killed only where it then holds users under a lease.
What each single step is worth is tried one by one in `tests/unit/scheduler/test_dying.py`.
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
["told"]
title = "A word"
push = { after = "1s" }
"""
USERS = 12
LOAD_S = 120
"""The longest that is sought for enough of moments to kill at."""
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


async def load(api: httpx.AsyncClient, uid: str, expected: Expected, havoc: Havoc) -> None:
    """Everything that asks for time, of one user, until enough was killed."""

    async def post(document: dict[str, Any]) -> None:
        answer = await api.post(f"/v1/users/{uid}/messages", json=document)
        assert answer.status_code == 200, answer.text

    dice = random.Random(uid)
    number = 0
    until = time.time() + LOAD_S
    while time.time() < until and not havoc.is_enough:
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


class Leases:
    """Who is claimed just now: something is due by the agenda, and yet the user is due only when a lease is over."""

    def __init__(self, server_url: str, uids: list[str]) -> None:
        self._client = redis.Redis.from_url(server_url, decode_responses=True)
        self._keys = {uid: Keys("gregor").of_user(uid) for uid in uids}

    def held(self) -> set[tuple[str, float]]:
        """The users, and when their leases are over."""
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
        """Whether a scheduler that was just frozen holds some: they stay, where those of others are soon settled."""
        held = self.held()
        for _ in range(10):
            if not held:
                return False
            await asyncio.sleep(0.01)
            held &= self.held()
        return True


@dataclass
class Havoc:
    """What was done to schedulers: one at a time, never to all. `amid`: how often while it held leases."""

    leases: Leases = field(repr=False)
    kills: int = 0
    stops: int = 0
    amid: int = 0

    @property
    def is_enough(self) -> bool:
        return self.kills >= 12 and self.stops >= 2 and self.amid >= 8

    async def go_on(self, cluster: Cluster) -> None:
        """Until cancelled."""
        dice = random.Random(7)
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(1 - time.time() % 1)
                victim = dice.choice(cluster.schedulers)
                try:
                    self.amid += await self._freeze(victim)
                    if dice.random() < 0.2:
                        # It comes back in the middle of something that another has taken over meanwhile.
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
        """Stop it where it holds leases, as far as that is found within a second. Whether it does."""
        until = time.monotonic() + 1
        while True:
            victim.signal(signal.SIGSTOP)
            is_amid = await self.leases.are_left_by(victim)
            if is_amid or time.monotonic() >= until:
                return is_amid
            victim.signal(signal.SIGCONT)
            await asyncio.sleep(0.005)


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
        havoc = Havoc(Leases(cluster.server.url, uids))
        going_on = asyncio.create_task(havoc.go_on(cluster))
        await asyncio.gather(*(load(api, uid, expected[uid], havoc) for uid in uids))
        going_on.cancel()
        await going_on

        for uid in uids:
            await _complete(phones[uid], expected[uid])
        await _check_folds(api, uids, expected)
        for uid in uids:
            _check(Told(phones[uid]), expected[uid], phones[uid])
            await _check_state(api, uid, expected[uid], phones[uid])
        assert havoc.is_enough, havoc
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
