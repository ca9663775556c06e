"""Schedulers killed at random under load: what was to happen happens, and nothing is announced twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.support.cluster import Cluster
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
LOAD_S = 25
LEASE_S = 3


@dataclass
class Expected:
    """What one user was promised."""

    reminders: set[tuple[str, float]] = field(default_factory=set)
    expiries: set[str] = field(default_factory=set)
    quiet: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    folded: set[str] = field(default_factory=set)
    pushed: set[str] = field(default_factory=set)


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
        times = [round(now + 0.5 + dice.random(), 3), round(now + 2.5, 3)]
        await post(message(f"r{number}", "mail", created=now, remind_at=times))
        expected.reminders |= {(f"r{number}", at) for at in times}
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


async def kill_at_random(cluster: Cluster) -> int:
    """Until cancelled: a scheduler at a time, never all; how often is told by the length of its logs."""
    dice, kills = random.Random(7), 0
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.5 + dice.random())
            victim = dice.choice(cluster.schedulers)
            victim.kill()
            kills += 1
            await asyncio.sleep(dice.random() / 2)
            victim.start()
    return kills


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

    def is_complete(self, expected: Expected) -> bool:
        ended = {id_ for _, id_ in self.dismissed}
        return (
            expected.reminders <= self.reminders.keys()
            and expected.expiries | expected.quiet <= ended
            and expected.late <= self.created.keys()
        )


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
        killing = asyncio.create_task(kill_at_random(cluster))
        until = time.time() + LOAD_S
        await asyncio.gather(*(load(api, uid, expected[uid], until) for uid in uids))
        killing.cancel()
        kills = await killing
        for scheduler in cluster.schedulers:
            if not scheduler.is_running:
                scheduler.start()

        for uid in uids:
            await wait_until(
                lambda uid=uid: Told(phones[uid]).is_complete(expected[uid]), f"all that {uid} was promised", 40
            )
        await _check_folds(api, uids, expected)
        for uid in uids:
            _check(Told(phones[uid]), expected[uid], phones[uid])
        assert kills >= 10
        assert _pushed(cluster) == {(uid, id_) for uid in uids for id_ in expected[uid].pushed}


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
    assert told.reminders == Counter(expected.reminders)
    assert {id_ for id_ in expected.expiries if told.dismissed["expired", id_] != 1} == set()
    assert {id_ for id_ in expected.late if told.created[id_] != 1} == set()
    assert max(told.created.values()) == 1 and max(told.dismissed.values()) == 1
    assert all(told.dismissed["", id_] == 1 for id_ in expected.quiet)
    assert not phone.mirror.items.keys() & (expected.expiries | expected.quiet)
    assert [frame["seq"] for frame in phone.live] == sorted({frame["seq"] for frame in phone.live})


def _pushed(cluster: Cluster) -> set[tuple[str, str]]:
    """Who was to be told what: entries of one key are one."""
    with redis.Redis.from_url(cluster.server.url, decode_responses=True) as client:
        entries = client.xrange("gregor:deliveries:fcm")
    return {(fields["uid"], fields["item"]) for _, fields in entries}
