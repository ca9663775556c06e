"""A message of a device is charged for the bytes that Redis writes for it, and for the time of Redis, on every way in.

A small change of a record writes all of it: hiding 99 items of 10 KB writes 1 MB, for a message of 1 KB.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from msgspec import structs

from gregor.auth.device_tokens import Caller
from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.cost import EXTRA_BYTES_PER_UNIT, REDIS_UNIT_NS, REDIS_UNITS, text_weight
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import DELAYED_BURST, delayed_bucket
from gregor.cpu_meter import CpuMeter
from gregor.metrics.process import Metrics
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.agenda import DueWork, WorkKind
from gregor.store.redis.store import RedisStore
from gregor_gateway.sessions.device_messages import DeviceMessages
from gregor_scheduler.handlers.delayed_messages import commit_delayed_message
from tests.support.api import Api, code_of
from tests.support.builders import BY_BACKEND, LIMITS, NOW, NOW_US, Document, interval, item, message, planned
from tests.support.servers import open_client
from tests.unit.ingest.test_rate_limit_fields import heavy_message, limits_of
from tests.unit.scheduler.conftest import build

NEVER_US = 1 << 62
COUNT = 99
IDS = [f"i{n}" for n in range(COUNT)]
UNITS = COUNT * (10_000 + 1_311) // 65_536
"""Each hidden item also counts as 1,311 bytes: it can be made visible and hidden again."""
HIDE = message(ids=IDS)
LONG = "x" * 10_000
UNITS_OF_SKIPS = 4 * 1_000 * 127 // 2 // 65_536
"""A read byte counts half as much as a written byte."""
SMALL, TOO_MANY = (message({f"{body[:1]}{n}": item("a", body=body) for n in range(10)}) for body in ("b", LONG))


@pytest.fixture
async def store(redis_server: str) -> AsyncIterator[RedisStore]:
    """A store with 99 items of 10 KB for all devices of alice."""
    async with open_client(redis_server) as connection:
        store = RedisStore(connection, Limits(), f"test-{secrets.token_hex(4)}", allow_oom=True)
        for item_id in IDS:
            new = {item_id: item(for_device="*", body=LONG)}
            await store.users.commit("alice", planned(message(new), BY_BACKEND))
        yield store


async def test_receipt_has_the_weight_of_what_was_written(store: RedisStore) -> None:
    async def extra_weight(document: Document, device: str) -> int:
        return (await store.users.commit("alice", planned(document, Sender(device)))).extra_weight

    async def least_weight(document: Document, device: str) -> int:
        # Reading 99 items takes 2 ms, and the charge for time begins at 5 ms: a busy machine may reach them once.
        commit = planned(document, Sender(device))
        return min([(await store.users.rehearse("alice", commit)).extra_weight for _ in range(10)])

    assert await least_weight(HIDE, "phone") == 0
    assert await extra_weight(HIDE, "phone") == UNITS
    assert await least_weight(HIDE, "phone") == 0
    assert await least_weight(message({"a": item(), "b": item()}, ids=["i0"]), "desk") == 0


async def test_small_items_that_are_hidden_again_and_again_are_charged(store: RedisStore) -> None:
    """Forgetting the device makes them visible. One token took 11 % of Redis with 2,000 of them."""
    await create_small(store, "bob", 1_000)

    receipt = await store.users.commit("bob", planned(message(intervals=[interval("small")]), Sender("phone")))

    assert receipt.extra_weight >= 1_000 // 50


async def create_small(store: RedisStore, uid: str, count: int) -> None:
    """Create short items for all devices of a user."""
    for start in range(0, count, 100):
        new = {f"s{start + n}": item("small", for_device="*") for n in range(100)}
        await store.users.commit(uid, planned(message(new), BY_BACKEND))


async def test_forgetting_is_charged_for_the_dismissals_that_it_deletes(store: RedisStore) -> None:
    """Without a charge, one token could hide 2,000 items and forget its device every five seconds."""
    await create_small(store, "bob", 200)
    await store.users.commit("bob", planned(message(intervals=[interval("small")]), Sender("phone")))

    forget = store.devices.forget_device
    weights = [await forget("bob", "phone", NOW_US, b"abc"), await forget("bob", "phone", NOW_US, b"abc")]

    assert weights[0] >= 200 * 3 * 1_311 // 65_536
    assert weights[1] == 0


async def test_long_forgetting_counts_ten_times(redis_server: str) -> None:
    """Redis takes more than 5 ms to read 10,000 items. The default limit of live items is lower."""
    async with open_client(redis_server) as connection:
        store = RedisStore(connection, replace(Limits(), live=20_000), f"test-{secrets.token_hex(4)}")
        await create_small(store, "bob", 10_000)

        weight = await store.devices.forget_device("bob", "phone", NOW_US, b"abc")

    assert 10 <= weight < 1_000


@pytest.mark.parametrize("is_device", [True, False])
async def test_forgetting_of_a_device_uses_its_rate_of_messages(store: RedisStore, is_device: bool) -> None:
    """The removal is charged when it is done, so a sign-out succeeds. A service key is not charged."""
    await create_small(store, "bob", 300)
    path, nothing = "/v1/users/bob/devices/phone", {"dismiss": {"ids": ["none"]}}
    async with Api(store, device_rate=0.001) as api:
        token, caller = api.token("bob", "phone"), await api.make_key("devices", rate=100)
        hidden = await api.send("bob", {"dismiss": {"intervals": [{"category": "small"}]}}, token)
        for _ in range(limits_of(hidden)["messages"][2]):
            await api.send("bob", nothing, token)
        in_debt = [await api.send("bob", nothing, token)]
        forgotten = await api.call("DELETE", path, token if is_device else caller)
        in_debt.append(await api.send("bob", nothing, token))

    waits_s = [float(each.headers["retry-after"]) for each in in_debt]
    assert (hidden.status_code, forgotten.status_code) == (200, 204)
    assert [code_of(each) for each in in_debt] == [(429, "rate_limited")] * 2
    charged = (waits_s[1] - waits_s[0]) / 1_000
    assert charged >= 300 * 3 * 1_311 // 65_536 if is_device else charged == 0


async def test_displacement_is_charged_for_the_items_that_it_reads(store: RedisStore) -> None:
    """Each creation in a full category reads all items of it."""
    bound = (("full", 40),)
    for n in range(41):
        new = {f"f{n}": item("full", body=LONG)}
        commit = planned(message(new), Sender("phone"))
        receipt = await store.users.commit("bob", structs.replace(commit, max_live=bound))

    assert receipt.extra_weight >= 41 * 10_000 // 2 // 65_536 >= 3


async def test_repeated_dismissals_are_charged_for_the_records_they_replace(store: RedisStore) -> None:
    """The dismissals of other devices are written again, and the skipped ids of other intervals of the same prefix."""
    skips = [f"{n:03}{'s' * 120}" for n in range(1_000)]
    unknown = [f"none{n}" for n in range(30)]
    for n in range(60):
        await store.users.commit("alice", planned(message(ids=unknown), Sender(f"{n:02}" + "d" * 126)))
    before = message(intervals=[interval(prefix="a", end=NOW - 100, skip=skips)])
    await store.users.commit("alice", planned(before, Sender("desk")))
    for document in (message(ids=unknown), message(intervals=[interval(prefix="a", begin=NOW - 50, end=NOW - 40)])):
        receipt = await store.users.commit("alice", planned(document, Sender("desk")))
        assert receipt.extra_weight >= 1, document


async def test_message_is_charged_for_the_time_of_redis(redis_server: str) -> None:
    """Duplicates write nothing: 10,000 of them take Redis some 40 ms. No process accepts so many in one message."""
    parts = [planned(message({f"d{n}-{k}": item("many") for k in range(100)}), BY_BACKEND) for n in range(100)]
    commit = structs.replace(parts[0], creations=tuple(each for part in parts for each in part.creations))
    async with open_client(redis_server) as connection:
        namespace = f"test-{secrets.token_hex(4)}"
        store = RedisStore(connection, replace(Limits(), live=20_000), namespace)
        await store.users.commit("bob", commit)

        receipt = await store.users.commit("bob", commit)
        full = RedisStore(connection, replace(Limits(), live=9_000), namespace)
        with pytest.raises(Problem) as refused:
            await full.users.commit("carol", commit)

    assert receipt.is_unchanged
    assert 1 <= receipt.extra_weight < 1_000
    assert refused.value.code == "state_full"
    assert 1 <= refused.value.extra_weight < 1_000


async def test_long_message_without_effect_counts_ten_times(redis_server: str) -> None:
    """It can be sent again at once. Two a second, of 13 ms each, multiplied the p99 latency of another user by four."""
    parts = [planned(message({f"d{n}-{k}": item("many") for k in range(100)}), BY_BACKEND) for n in range(50)]
    first, dismissal = (planned(message(intervals=[interval(name, end=NOW + 5)])) for name in ("other", "many"))
    async with open_client(redis_server) as connection:
        limits, namespace = replace(Limits(), live=20_000), f"test-{secrets.token_hex(4)}"
        users = RedisStore(connection, limits, namespace).users
        for each in (first, *parts):
            await users.commit("bob", each)

        full = RedisStore(connection, replace(limits, spans=1), namespace).users
        with pytest.raises(Problem) as refused:
            await full.commit("bob", dismissal)
        rehearsed = await users.rehearse("bob", dismissal)
        receipt = await users.commit("bob", dismissal)

    assert refused.value.code == "too_many_dismissals"
    assert len(receipt.dismissed) == len(rehearsed.dismissed) == 5_000
    assert refused.value.extra_weight > receipt.extra_weight > 1
    assert rehearsed.extra_weight > receipt.extra_weight


async def test_message_is_charged_for_the_search_of_its_items(redis_server: str) -> None:
    """The pages of a search take Redis longer than the commit after them: some 30 ms for 10,000 categories."""
    parts = [planned(message({f"i{n}-{k}": item(f"c{n}.{k}") for k in range(100)})) for n in range(100)]
    last = planned(message({f"l{k}": item("last", for_device="*") for k in range(3)}))
    phone, past = Sender("phone"), interval(prefix="", begin=NOW - 20, end=NOW - 10)
    meter = CpuMeter(lambda: 0)
    async with open_client(redis_server) as connection:
        namespace, limits = f"test-{secrets.token_hex(4)}", replace(Limits(), live=20_000)
        users = RedisStore(connection, limits, namespace).users
        for each in (*parts, last):
            await users.commit("bob", each)

        without_effect = planned(message(intervals=[past]), phone)
        rehearsed = await users.rehearse("bob", without_effect)
        receipt = await meter.run(users.commit("bob", without_effect))
        few = RedisStore(connection, replace(limits, device_dismissals=2), namespace).users
        with pytest.raises(Problem) as refused:
            await few.commit("bob", planned(message(intervals=[past, interval("last")]), phone))

    assert receipt.is_unchanged
    assert 1 <= rehearsed.extra_weight < 1_000
    assert 1 <= receipt.extra_weight < 1_000
    assert meter.commit_ns >= receipt.extra_weight * REDIS_UNITS * REDIS_UNIT_NS
    assert refused.value.code == "too_many_dismissals"
    assert 1 <= refused.value.extra_weight < 1_000


async def test_creation_is_charged_for_the_intervals_that_it_reads(store: RedisStore) -> None:
    """A creation that remembered intervals may dismiss reads all their skipped ids: 10,000 of them take 4 ms."""
    await remember_skips(store)
    users, new, too_many = store.users, planned(SMALL, Sender("phone")), planned(TOO_MANY, Sender("phone"))

    assert (await users.rehearse("alice", new)).extra_weight == UNITS_OF_SKIPS
    assert (await users.commit("alice", new)).extra_weight == UNITS_OF_SKIPS
    assert (await users.commit("alice", new)).extra_weight == UNITS_OF_SKIPS, "it changed nothing"
    with pytest.raises(Problem) as refused:
        await users.commit("alice", too_many)
    assert (refused.value.code, refused.value.extra_weight) == ("state_full", UNITS_OF_SKIPS)


async def remember_skips(store: RedisStore) -> None:
    """Make alice remember 4,000 skipped ids, and an interval that ends later: creations are compared with them."""
    documents = [message(intervals=[interval("other", end=NOW + 50)])]
    for n in range(4):
        skips = [f"{n}-{k:04}{'s' * 120}" for k in range(1_000)]
        past = interval(prefix="", begin=NOW - 100 * n - 99, end=NOW - 100 * n - 50, skip=skips)
        documents.append(message(intervals=[past]))
    for each in documents:
        await store.users.commit("alice", planned(each, Sender("phone")))


@pytest.mark.parametrize(("document", "status"), [(SMALL, 200), (TOO_MANY, 409)])
@pytest.mark.parametrize("is_dry", [True, False])
async def test_message_without_effect_is_charged_for_its_reads(
    store: RedisStore, document: Document, status: int, is_dry: bool
) -> None:
    await remember_skips(store)
    async with Api(store, device_rate=0.001) as api:
        token, path = api.token(device="phone"), "/v1/users/alice/messages" + "?dry_run=true" * is_dry
        before = await api.send("alice", {"dismiss": {"ids": ["none"]}}, token)
        answer = await api.call("POST", path, token, json=document)
        after = await api.send("alice", {"dismiss": {"ids": ["none"]}}, token)

    assert answer.status_code == status
    spent = limits_of(before)["messages"][2] - limits_of(after)["messages"][2]
    assert spent >= 2 + UNITS_OF_SKIPS + text_weight(len(answer.request.content)) - 1


async def test_message_to_ingest_is_charged(store: RedisStore) -> None:
    async with Api(store, device_rate=0.001) as api:
        answer = await api.send("alice", HIDE["body"], api.token(device="phone"))

    assert answer.status_code == 200
    assert limits_of(answer)["messages"][2] == LIMITS.device_burst - 1 - UNITS


@pytest.mark.parametrize("is_device", [True, False])
async def test_batch_of_a_device_is_charged(store: RedisStore, is_device: bool) -> None:
    """A key is not: the user whom it writes to chooses the state, and could use up its rate."""
    async with Api(store, device_rate=0.001) as api:
        lines = [{"uid": "alice", **HIDE, "device": "phone"}]
        caller = api.token(device="phone") if is_device else await api.make_key("ingest", rate=100)
        before = await api.send("alice", {"dismiss": {"ids": ["none"]}}, caller)
        await api.call("POST", "/v1/messages", caller, json=lines)
        after = await api.send("alice", {"dismiss": {"ids": ["none"]}}, caller)

    taken = limits_of(before)["messages"][2] - limits_of(after)["messages"][2]
    assert taken == 2 + UNITS if is_device else taken <= 2


async def test_message_to_a_gateway_is_charged(store: RedisStore) -> None:
    async with Api(store) as api:
        limits = Limits(device_rate=0.001, device_burst=UNITS)
        categories = CategoryRegistry(store)
        gateway = DeviceMessages(store, api.clock, limits, Metrics(), categories)
        caller = Caller("alice", "phone", NEVER_US)
        await gateway.commit(caller, lambda: HIDE, 1_000)
        with pytest.raises(Problem) as raised:
            await gateway.commit(caller, lambda: HIDE, 1_000)

    assert raised.value.code == "rate_limited"
    # One unit was charged before the commit, and these after it: the next message lacks all of them.
    assert raised.value.retry_after_s == pytest.approx(2 * 1_000, rel=0.01)


async def test_heavy_message_at_a_gateway_leaves_a_debt(store: RedisStore) -> None:
    """As at ingest: its weight is 171, and the burst 50."""
    async with Api(store) as api:
        gateway = DeviceMessages(store, api.clock, Limits(), Metrics(), CategoryRegistry(store))
        caller = Caller("alice", "phone", NEVER_US)
        await gateway.commit(caller, heavy_message, 9_000)
        with pytest.raises(Problem) as raised:
            await gateway.commit(caller, lambda: HIDE, 1_000)

    assert raised.value.retry_after_s == pytest.approx(12.2)


@pytest.mark.parametrize("size", [9_000, 120_000, 250_000])
async def test_refused_message_at_a_gateway_is_accepted_after_its_wait(store: RedisStore, size: int) -> None:
    """A client that waited exactly as long as the gateway stated was refused again and again."""
    waits: list[float] = []
    async with Api(store) as api:
        gateway = DeviceMessages(store, api.clock, Limits(), Metrics(), CategoryRegistry(store))
        caller = Caller("alice", "phone", NEVER_US)
        await gateway.commit(caller, heavy_message, 9_000)
        while len(waits) < 4:
            try:
                await gateway.commit(caller, lambda: {**heavy_message(), "id": "second"}, size)
                break
            except Problem as problem:
                waits.append(problem.retry_after_s or 0.0)
                api.clock.advance(waits[-1])

    assert len(waits) == 2


async def test_other_tasks_run_between_the_steps_of_a_long_message(store: RedisStore) -> None:
    """Decoding a message of 256 KiB takes up to 0.08 s, and so does parsing it."""
    order: list[str] = []

    def read() -> Document:
        asyncio.get_running_loop().call_soon(order.append, "other")
        return {"unknown": 1}

    async with Api(store) as api:
        gateway = DeviceMessages(store, api.clock, Limits(), Metrics(), CategoryRegistry(store))
        for size in (1_000, 100_000):
            with pytest.raises(Problem):
                await gateway.commit(Caller("alice", f"d{size}", NEVER_US), read, size)
            order.append(f"parsed {size}")

    assert order == ["parsed 1000", "other", "other", "parsed 100000"]


async def test_delayed_message_is_charged_at_its_time(store: RedisStore) -> None:
    context = replace((await build()).context, store=store)
    delayed = DelayedMessage({**HIDE, "id": "m1"}, Sender("phone"), NOW_US)
    await store.agenda.delay("alice", "m1", delayed.encode(), NOW_US)
    await commit_delayed_message(context, "alice", DueWork(WorkKind.DELAYED, "m1", NOW_US, b"dm1"))
    left = await store.access.take_all("alice", (delayed_bucket("alice"),), 0, NOW_US)

    charged = COUNT * (10_000 + 1_311) * REDIS_UNITS / EXTRA_BYTES_PER_UNIT
    assert DELAYED_BURST - left.remaining == pytest.approx(charged, rel=0.02)
