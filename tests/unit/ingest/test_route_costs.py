"""Each request of a device token costs Redis in proportion to what it is charged, also for the largest users.

A route of device tokens without a call here fails `test_calls_cover_all_routes_of_devices`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from gregor.core import rate_limit
from gregor.core.items.sync import View
from gregor.core.limits import DAY_US, Limits
from gregor.core.messages.model import Sender
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import DeviceSession
from gregor.store.redis.store import RedisStore, open_store
from gregor_ingest.auth.rules import ACCESS_RULES, DeviceAccess
from tests.bench.sockets import redis_cpu_s
from tests.support.api import NOW_S, Api
from tests.support.builders import creating, dismissing, interval, sweeping
from tests.support.command_counts import executed
from tests.support.servers import BINARIES, open_client, running_server
from tests.unit.ingest.test_rate_limit_fields import limits_of

pytestmark = pytest.mark.slow

NOW_US = NOW_S * 1_000_000
REQUEST_MS = 1.0
"""Redis time of one unit of the rate of requests: 50 a second are then 5 % of a core."""
MESSAGE_MS = 5.0
"""Redis time of one unit of the rate of messages: 10 a second."""
MARGIN = 2
"""Test machines are slower and busier than the machine of docs/performance.md."""
ATTEMPTS = 3
"""Other work on the machine can only make a measurement longer, so the shortest one counts."""
DEVICES = [f"d{n:02}" + "x" * 125 for n in range(63)]
PREFIXES = tuple(f"a{n:03}" + ".b" * 61 for n in range(100))
USER = "/v1/users/alice"
MESSAGES = f"{USER}/messages"
DEVICE = f"{USER}/devices/phone"

CALLS: list[tuple[str, str, Any]] = [
    ("POST /v1/users/{uid}/messages", MESSAGES, {"system": "gregor", "body": {"dismiss": {"ids": ["none"]}}}),
    ("POST /v1/messages", "/v1/messages", [{"uid": "alice", "system": "gregor", "body": {}}]),
    ("GET /v1/users/{uid}/messages", MESSAGES, None),
    ("DELETE /v1/users/{uid}/messages/{id}", f"{MESSAGES}/m1", None),
    ("GET /v1/users/{uid}/state", f"{USER}/state", None),
    ("GET /v1/users/{uid}/state", f"{USER}/state?device=phone&category_prefix=none", None),
    ("GET /v1/users/{uid}/state", f"{USER}/state?at={NOW_S - 60}", None),
    ("GET /v1/users/{uid}/state", f"{USER}/state?at={NOW_S - 60}&category_prefix=none", None),
    ("GET /v1/users/{uid}/items/{id}", f"{USER}/items/i0", None),
    ("GET /v1/users/{uid}/items/{id}", f"{USER}/items/none", None),
    ("GET /v1/users/{uid}/history", f"{USER}/history?limit=10", None),
    ("GET /v1/users/{uid}/history", f"{USER}/history?limit=1000", None),
    ("GET /v1/users/{uid}/history", f"{USER}/history?limit=10&category_prefix=none", None),
    ("GET /v1/users/{uid}/sync", f"{USER}/sync", None),
    ("GET /v1/users/{uid}/sync", f"{USER}/sync?cursor={{cursor}}", None),
    ("GET /v1/users/{uid}/sync", f"{USER}/sync?cursor={{cursor}}&category_prefix=none", None),
    ("POST /v1/tickets", "/v1/tickets", {}),
    ("PUT /v1/users/{uid}/devices/{device}", DEVICE, {"platform": "ios"}),
    ("PATCH /v1/users/{uid}/devices/{device}", DEVICE, {"locale": "it"}),
    ("GET /v1/users/{uid}/devices/{device}", DEVICE, None),
    ("PUT /v1/users/{uid}/preferences", f"{USER}/preferences", {"a": {"push": False}}),
    ("PATCH /v1/users/{uid}/preferences", f"{USER}/preferences", {"a": {"push": True}}),
    ("GET /v1/users/{uid}/preferences", f"{USER}/preferences", None),
    ("PUT /v1/users/{uid}/quiet-hours", f"{USER}/quiet-hours", {"timezone": "Europe/Rome"}),
    ("GET /v1/users/{uid}/quiet-hours", f"{USER}/quiet-hours", None),
    ("DELETE /v1/users/{uid}/devices/{device}", DEVICE, None),
]


def test_calls_cover_all_routes_of_devices() -> None:
    routes = {f"{rule.method} {rule.path}" for rule in ACCESS_RULES if rule.device_access is not DeviceAccess.NOTHING}

    assert {route for route, _, _ in CALLS} == routes


# --- the largest users


async def _commit(store: RedisStore, *commits: Any) -> None:
    for commit in commits:
        await store.users.commit("alice", commit)


def _hundreds(count: int, letter: str) -> list[list[str]]:
    return [[f"{letter}{n}" for n in range(at, min(count, at + 100))] for at in range(0, count, 100)]


async def _many_items(store: RedisStore) -> None:
    for ids in _hundreds(2_000, "i"):
        await _commit(store, creating(*ids, category="c", body="x" * 400, now_us=NOW_US))


async def _dismissed_items(store: RedisStore) -> None:
    """156 items of 6 KB, which 63 devices have dismissed."""
    ids = [f"i{n}" for n in range(156)]
    for some in (ids[:40], ids[40:80], ids[80:120], ids[120:]):
        await _commit(store, creating(*some, category="c", body="x" * 6_000, for_device="*", now_us=NOW_US))
    for name in DEVICES:
        for some in (ids[:100], ids[100:]):
            await _commit(store, dismissing(*some, sender=Sender(name), now_us=NOW_US))


async def _history(store: RedisStore) -> None:
    for ids in _hundreds(10_000, "g"):
        await _commit(store, creating(*ids, category="c", now_us=NOW_US - 90_000_000))
        await _commit(store, dismissing(*ids, now_us=NOW_US - 30_000_000))


async def _large_history(store: RedisStore) -> None:
    """196 items of 16 KB, which 48 devices had dismissed before their creation, left in the last 28 messages."""
    begun_us = NOW_US - 90_000_000
    await _commit(store, creating(*(f"i{n}" for n in range(80)), category="c", now_us=begun_us))
    for name in DEVICES[:48]:
        await _commit(store, sweeping(interval("g", end=NOW_S + 3_000), sender=Sender(name), now_us=begun_us))
    for start in range(0, 196, 14):
        ids = [f"g{n}" for n in range(start, start + 14)]
        await _commit(store, creating(*ids, category="g", body="x" * 15_900, for_device="*", now_us=begun_us))
        await _commit(store, dismissing(*ids, now_us=NOW_US - 30_000_000))


async def _presence(store: RedisStore) -> None:
    sessions = [
        ("alice", device, DeviceSession(f"s{n}", f"c{n}", "", NOW_US + n, True, PREFIXES, PREFIXES))
        for device, n in product([*DEVICES, "phone"], range(8))
    ]
    for at in range(0, len(sessions), 16):
        await store.devices.renew_sessions(sessions[at : at + 16], NOW_US, DAY_US)
    for device, n in product([*DEVICES, "phone"], range(16)):
        await store.devices.acknowledge("alice", View(device, (*PREFIXES[:6], f"v{n}")), n + 1, NOW_US)


async def _deliveries(store: RedisStore) -> None:
    for n in range(40):
        intents = [Intent("alice", f"i{m}", IntentKind.ITEM, "apns", DEVICES[n], m, at_us=NOW_US) for m in range(50)]
        await store.ledger.plan(intents, DeliveryState.PLANNED, None, NOW_US)


async def _user_of_many_items(api: Api, store: RedisStore) -> None:
    await _history(store)
    await _many_items(store)
    await _presence(store)
    await _deliveries(store)


async def _user_of_dismissed_items(api: Api, store: RedisStore) -> None:
    await _dismissed_items(store)
    await _presence(store)


async def _user_of_large_items_that_left(api: Api, store: RedisStore) -> None:
    await _large_history(store)


async def _user_of_delayed_messages(api: Api, store: RedisStore) -> None:
    later = {"system": "gregor", "not_before": NOW_S + 86_400, "body": {"dismiss": {"ids": ["x" * 100] * 6}}}
    for n in range(1_000):
        assert (await api.call("POST", MESSAGES, json={"id": f"m{n}", **later})).status_code == 200


USERS = {
    "many items": _user_of_many_items,
    "dismissed items": _user_of_dismissed_items,
    "large items that left": _user_of_large_items_that_left,
    "delayed messages": _user_of_delayed_messages,
}


# --- the costs


async def _with_cursor(api: Api, path: str) -> str:
    """Return the path of a sync with the cursor that its view had before the last 28 messages."""
    if "{cursor}" not in path:
        return path
    whole = await api.call("GET", path.replace("cursor={cursor}", ""), api.token())
    tag, _, seq = whole.json()["cursor"].partition("-")
    return path.format(cursor=f"{tag}-{max(0, int(seq) - 28)}")


async def _cost_ms(api: Api, url: str, method: str, path: str, body: Any) -> tuple[float, float]:
    """Return the CPU milliseconds of Redis for a request, and those that its caller was charged for."""
    costs = []
    for _ in range(ATTEMPTS):
        api.clock.advance(20)  # the limits are full again
        before_s = redis_cpu_s(url)
        answer = await api.call(method, path, api.token(), json=body)
        used_ms = 1_000 * (redis_cpu_s(url) - before_s)
        assert answer.status_code < 500, answer.text
        name, (burst, _, left, _) = next(iter(limits_of(answer).items()))
        charged = burst - left
        if name != "messages":
            # What a request cost more than its weight is charged when it ends: the next one, of weight 1, shows it.
            after = limits_of(await api.call("GET", f"{USER}/quiet-hours", api.token()))
            charged = max(charged, burst - after[name][2] - 1)
        costs.append((used_ms, charged * (MESSAGE_MS if name == "messages" else REQUEST_MS)))
    return min(costs, key=lambda cost: cost[0] - cost[1])


@pytest.mark.parametrize("user", USERS)
async def test_request_costs_redis_no_more_than_its_charge(
    user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each owner has a grace, which the first requests would use up.
    monkeypatch.setattr(rate_limit, "_GRACE", (5.0, 0))
    with running_server(BINARIES[-1], tmp_path) as server:
        # Unlike the store of `open_store`, this one measures the limits with the clock of `Api`.
        async with open_client(server.url) as client:
            store = RedisStore(client, Limits(), "gregor")
            async with Api(store) as api:
                await USERS[user](api, store)
                excesses = {}
                for route, path, body in CALLS:
                    method = route.partition(" ")[0]
                    used_ms, charged_ms = await _cost_ms(api, server.url, method, await _with_cursor(api, path), body)
                    if used_ms > MARGIN * charged_ms:
                        excesses[f"{method} {path}"] = used_ms, charged_ms

    assert excesses == {}


async def test_put_of_a_device_reads_its_sessions_once(tmp_path: Path) -> None:
    """Eight sessions with long filters have 200 KB; the response needs them."""
    with running_server(BINARIES[-1], tmp_path) as server:
        store = await open_store(server.url, Limits(), "gregor")
        async with Api(store) as api:
            for n in range(8):
                opened = DeviceSession(f"s{n}", f"c{n}", "", NOW_US, True, PREFIXES, PREFIXES)
                await store.devices.renew_sessions([("alice", "phone", opened)], NOW_US, DAY_US)
            assert (await api.call("PUT", DEVICE, json={})).status_code == 200
            before = executed([server.port])
            answer = await api.call("PUT", DEVICE, json={})
            commands = executed([server.port]) - before
        await store.close()

    assert answer.json()["online"] is True
    assert commands["hgetall"] == 1
