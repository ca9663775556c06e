"""Properties that only the Redis store has: keys, slots, memory pressure, scripts."""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gregor.clock import ManualClock
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.notify.intents import Intent, IntentKind
from gregor.jobs.broadcast import BROADCAST, BroadcastSteps
from gregor.jobs.runner import JobStep
from gregor.redis.client import RedisClient
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Unavailable
from gregor.store.jobs import Job
from gregor.store.redis.delivery.queue_reader import open_queue_reader
from gregor.store.redis.delivery.queue_writer import open_queue_writer
from gregor.store.redis.errors import StoreFull
from gregor.store.redis.keys import PERMANENT, Keys
from gregor.store.redis.store import RedisStore, open_store
from tests.support.resets import reset_all_users
from tests.support.servers import BINARIES, Server
from tests.support.wait import wait_until

NOW_US = 1_700_000_000_000_000
EPOCH_SEED = b"abc"
LIMITS = Limits()


def committed(body: object, system: str = "gregor", now_us: int = NOW_US, sender: str = BACKEND) -> Commit:
    """Commit one message; external ones get an id."""
    document = {"system": system, "body": body} | ({} if system == "gregor" else {"id": "m1"})
    return plan(parse_message(document, LIMITS), Sender(sender), now_us, EPOCH_SEED, LIMITS)


def creation(item_id: str, size: int = 10, **fields: object) -> Commit:
    """Return a message that creates one item."""
    return committed({"create": {item_id: {"category": "user.joined", "body": "x" * size, **fields}}})


pytestmark = pytest.mark.redis


@pytest.fixture(params=BINARIES, ids=lambda path: Path(path).name)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """Start a server of each installed kind."""
    made = Server(request.param, tmp_path).start()
    yield made
    made.kill()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """Return a store on it, in its own namespace."""
    opened = await open_store(server.url, LIMITS, f"test-{secrets.token_hex(4)}")
    yield opened
    await opened.close()


@pytest.fixture
async def link(server: Server) -> AsyncIterator[RedisClient]:
    """Return a second connection."""
    opened = RedisClient(server.url)
    await opened.open()
    yield opened
    await opened.close()


async def test_every_other_key_has_a_ttl(store: RedisStore, link: RedisClient) -> None:
    """No key is kept forever by accident: `keys.py` lists the permanent ones."""
    users, devices = store.users, store.devices
    await users.commit("alice", creation("a", times={"expires": "+60", "remind_at": ["+30"]}))
    await users.commit("alice", creation("b", for_device="*"))
    await users.commit("alice", committed({"dismiss": {"ids": ["b", "unknown"], "intervals": [{"category": "sys"}]}}))
    await users.commit("alice", committed({"x": 1}, system="kbfs"))
    await devices.ensure_device("alice", "phone", NOW_US)
    await devices.acknowledge("alice", View("phone"), 1, NOW_US)
    await devices.revoke("alice", "phone", NOW_US, NOW_US)
    await store.access.create_key(["ingest"], now_us=NOW_US)
    await store.access.take("alice:phone", 10, 50, 1, NOW_US)
    await store.suppressions.suppress("alice@example.com", "bounce", NOW_US)
    await reset_all_users(store, 1)

    keys = [key.decode() for key in await link.call("KEYS", "*")]
    endless = {store.keys.kind_of(key) for key in keys if await link.call("PTTL", key) == -1}

    assert len(keys) > 10
    assert endless <= PERMANENT


async def test_batch_survives_a_lost_server(store: RedisStore, server: Server) -> None:
    """Otherwise the log of a gateway fills with unhandled failures each time the store is unreachable."""
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    server.kill()

    with pytest.raises(Unavailable):
        await store.users.heads(["alice", "bob", "carol"])
    gc.collect()

    assert unheard == []


async def test_commit_many_reports_unavailable_for_each(store: RedisStore, server: Server) -> None:
    server.kill()

    told = await store.users.commit_many([("alice", creation("a")), ("bob", committed({"dismiss": {"ids": ["b"]}}))])

    assert [type(each) for each in told] == [Unavailable, Unavailable]


async def test_commit_many_serves_the_others_of_a_damaged_user(store: RedisStore, link: RedisClient) -> None:
    await store.users.commit_many([("alice", creation("a")), ("bob", creation("a"))])
    head = await link.call("HGET", store.keys.of_user("alice").state, ".h")
    await link.call("HSET", store.keys.of_user("alice").state, ".h", head[:4])

    damaged, served = await store.users.commit_many([("alice", creation("b")), ("bob", creation("b"))])

    assert isinstance(damaged, Problem) and damaged.code == "internal"
    assert isinstance(served, Receipt) and served.created == ("b",)


async def test_broadcast_waits_for_a_server_that_refuses_writes(store: RedisStore, link: RedisClient) -> None:
    """Reads work and writes do not: a replica of this shard is under maintenance."""
    uids = [f"user-{n}" for n in range(20)]
    for uid in uids:
        await store.devices.ensure_device(uid, "phone", NOW_US)
    counts: Counter[str] = Counter()
    clock = ManualClock(NOW_US)
    steps = BroadcastSteps(store, clock, LIMITS, lambda kind, outcome, number: counts.update({outcome: number}))
    params = {"system": "chat", "body": 1, "spread": 0, "audience": "all"}
    job, _ = await store.jobs.create("b", BROADCAST, params, NOW_US)

    async def run_pass(job: Job) -> tuple[Job, JobStep]:
        while True:
            step = await steps.step(job)
            job = replace(job, cursor=step.cursor)
            if step.is_last or step.waits_for:
                return job, step

    await link.call("CONFIG", "SET", "min-replicas-to-write", 1)
    job, refused = await run_pass(job)
    await link.call("CONFIG", "SET", "min-replicas-to-write", 0)
    job, last = await run_pass(job)

    assert "NOREPLICAS" in str(refused.waits_for) and refused.result == {"sent": 0, "offline": 0, "refused": 0}
    assert last.is_last and last.result == {"sent": 20, "offline": 0, "refused": 0}
    assert counts == {"sent": 20}
    assert [head.seq for head in await store.users.heads(uids) if head is not None] == [1] * 20


async def test_commit_many_keeps_order_after_script_loss(store: RedisStore, link: RedisClient) -> None:
    await link.call("SCRIPT", "FLUSH")
    dismissal = committed({"dismiss": {"ids": ["a"]}})

    told = await store.users.commit_many([("alice", creation("a")), ("alice", dismissal), ("alice", creation("b"))])

    assert [each.seq for each in told if isinstance(each, Receipt)] == [1, 2, 3]


def test_keys_of_a_user_share_one_slot() -> None:
    """One script must be able to use them in a cluster."""
    from redis.crc import key_slot

    keys = Keys("gregor").of_user("alice")

    of_scripts = (
        keys.commit.general,
        keys.every,
        keys.collect,
        keys.sync,
        keys.plan,
        keys.record_outcome,
        keys.replay,
        keys.push_context,
    )
    slots = {key_slot(key.encode()) for key in (*chain.from_iterable(of_scripts), keys.channel)}

    assert len(slots) == 1


async def test_full_server_still_accepts_dismissals(store: RedisStore, link: RedisClient) -> None:
    """At maxmemory dismissals still work and nothing is applied partially, so the user can free memory."""
    await store.users.commit("alice", creation("first", 1_000))
    await link.call("CONFIG", "SET", "maxmemory", 1)

    with pytest.raises(StoreFull) as refusal:
        await store.users.commit("alice", creation("second", 1_000))
    (told,) = await store.users.commit_many([("alice", creation("second", 1_000))])
    receipt = await store.users.commit("alice", committed({"dismiss": {"ids": ["first"]}}))

    await link.call("CONFIG", "SET", "maxmemory", 0)
    assert receipt.dismissed == ("first",)
    assert (await store.users.state("alice", View(), NOW_US)).items == ()
    # The problem must not contain the server's own text, which names scripts.
    assert isinstance(told, StoreFull)
    detail = refusal.value.problem().detail
    assert "full" in detail and "OOM" not in detail


async def test_full_server_refuses_what_must_be_remembered(store: RedisStore, link: RedisClient) -> None:
    """Dismissals that add to memory are refused at maxmemory: otherwise one device could fill the server with them."""
    await store.users.commit("alice", creation("first", 1_000))
    skipping = {"dismiss": {"intervals": [{"category_prefix": "user", "end": 5, "skip": ["a"]}]}}
    unknown = {"dismiss": {"ids": ["never-created"]}}
    await link.call("CONFIG", "SET", "maxmemory", 1)

    for body in (skipping, unknown):
        with pytest.raises(StoreFull):
            await store.users.commit("alice", committed(body))
    everything = {"dismiss": {"intervals": [{"category_prefix": "", "end": NOW_US // 1_000_000}]}}
    receipt = await store.users.commit("alice", committed(everything))

    await link.call("CONFIG", "SET", "maxmemory", 0)
    assert receipt.dismissed == ("first",)
    assert (await store.users.commit("alice", committed(unknown))).is_unchanged


async def test_full_server_still_expires_and_forgets(store: RedisStore, link: RedisClient) -> None:
    """Both free memory. An expiry is committed with the housekeeping that is due, so neither may be refused."""
    await store.users.commit("alice", creation("old", 1_000))
    await store.users.commit("alice", committed({"dismiss": {"ids": ["old"]}}))
    later_us = NOW_US + LIMITS.history_body_age_us + 1_000_000
    expires = (later_us - 1) // 1_000_000
    await store.users.commit("alice", creation("short", times={"expires": expires, "created": 1}))
    await link.call("CONFIG", "SET", "maxmemory", 1)

    await store.users.commit_due("alice", later_us)

    await link.call("CONFIG", "SET", "maxmemory", 0)
    assert (await store.users.state("alice", View(), later_us)).items == ()
    (_, old) = await store.users.history("alice", View(), None, 2, later_us)
    assert old.id == "old" and old.is_trimmed


async def test_process_starts_on_a_full_server(store: RedisStore, server: Server, link: RedisClient) -> None:
    """Without schedulers nothing expires, so a restart must not end a deployment."""
    await link.call("CONFIG", "SET", "maxmemory", 1)

    opened = await open_store(server.url, LIMITS, store.keys.namespace, service="scheduler")

    assert await opened.deployment.peers() == [opened.deployment.process]
    await opened.close()


async def test_process_of_a_new_deployment_waits_for_room(server: Server, link: RedisClient) -> None:
    await link.call("CONFIG", "SET", "maxmemory", 1)
    opened = await open_store(server.url, LIMITS, "new", service="scheduler")
    assert await opened.deployment.partitions() is None

    await link.call("CONFIG", "SET", "maxmemory", 0)

    await wait_until(opened.deployment.partitions, "the process has agreed")
    await opened.close()


async def test_new_device_joins_a_full_server(store: RedisStore, link: RedisClient) -> None:
    """A registration with a push token is refused: it may have kilobytes."""
    await store.users.commit("alice", creation("a"))
    await link.call("CONFIG", "SET", "maxmemory", 1)

    await store.devices.ensure_device("alice", "phone", NOW_US)
    session = DeviceSession("s", "c", "g", NOW_US)
    await store.devices.open_session("alice", "phone", session, NOW_US, 60_000_000)

    assert list(await store.devices.list_devices("alice", NOW_US)) == ["phone"]
    with pytest.raises(StoreFull):
        push = Registration(push={"provider": "apns", "token": "t"})
        await store.devices.put_device("alice", "phone", push, NOW_US)


async def test_deliveries_go_on_while_the_server_of_the_queue_is_full(server: Server, link: RedisClient) -> None:
    """Also if the worker is started again then. What waits is stored already, and what is sent frees memory."""
    namespace = f"test-{secrets.token_hex(4)}"
    writer, intent = (
        await open_queue_writer(server.url, namespace, 10),
        Intent("alice", "a", IntentKind.ITEM, "apns", "phone", 0, 1, NOW_US),
    )
    await (await open_queue_reader(server.url, namespace, "apns")).close()
    await writer.enqueue([intent])
    await link.call("CONFIG", "SET", "maxmemory", 1)

    reader = await open_queue_reader(server.url, namespace, "apns")
    [claimed] = await reader.claim(1, 1.0)
    await reader.retry_later(claimed, NOW_US)
    assert await reader.enqueue_due(NOW_US, 1) == (1, 0)
    [claimed] = await reader.claim(1, 1.0)
    await reader.ack([claimed])

    assert claimed.intent == intent and (await reader.sizes(NOW_US)).claimed == 0
    await reader.close()
    await writer.close()


async def test_scripts_are_reloaded_after_script_flush(store: RedisStore, link: RedisClient) -> None:
    """A restart or failover empties the script cache; callers do not notice."""
    await store.users.commit("alice", creation("a"))
    await link.call("SCRIPT", "FLUSH")

    receipt = await store.users.commit("alice", creation("b"))

    assert receipt.created == ("b",)


async def test_user_without_data_has_no_key(store: RedisStore, link: RedisClient) -> None:
    """Reading creates no key; deleting a user deletes every key of its state."""
    await store.users.state("nobody", View(), NOW_US)
    await store.users.commit("alice", creation("a", times={"expires": "+60"}))
    await store.users.delete_user("alice", NOW_US)

    keys = {store.keys.kind_of(key.decode()) for key in await link.call("KEYS", "*")}

    assert keys <= {"partitions", "formats", "rev", "forgotten"}


async def test_state_with_only_history_is_compacted(store: RedisStore, link: RedisClient) -> None:
    state = store.keys.of_user("alice").state
    await store.users.commit("alice", creation("a", size=300))
    await store.users.commit("alice", committed({"dismiss": {"ids": ["a", "unknown"]}}))
    assert await link.call("OBJECT", "ENCODING", state) == b"hashtable"
    before = await link.call("HGETALL", state)

    await store.users.collect("alice", NOW_US + LIMITS.history_body_age_us)

    assert await link.call("OBJECT", "ENCODING", state) == b"listpack"
    after = await link.call("HGETALL", state)
    assert sorted(after[::2]) == sorted([*before[::2], *({b".c"} - {*before[::2]})])
    known = await store.users.commit("alice", creation("a", size=300))
    assert [(item_id, why.value) for item_id, why in known.ignored] == [("a", "dismissed")]


async def test_state_with_live_items_is_not_compacted(store: RedisStore, link: RedisClient) -> None:
    await store.users.commit("alice", creation("a", size=300))
    await store.users.commit("alice", creation("b", size=1))
    await store.users.commit("alice", committed({"dismiss": {"ids": ["a"]}}))
    await link.call("CONFIG", "RESETSTAT")

    await store.users.collect("alice", NOW_US + LIMITS.history_body_age_us)

    assert b"cmdstat_hgetall" not in await link.call("INFO", "commandstats")
    assert len((await store.users.state("alice", View(), NOW_US)).items) == 1
