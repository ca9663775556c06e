"""The Redis calls of messages that are expensive to apply: more parts of a message must not multiply them."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from gregor.clock import ManualClock
from gregor.core.items.read_cost import EXAMINED_NS
from gregor.core.items.sync import Full, View, cursor_for
from gregor.core.limits import MIB, Limits
from gregor.core.messages.encode import encode_sync
from gregor.core.messages.model import Sender
from gregor.cpu_meter import CpuMeter
from gregor.redis.commands import RedisCommands, Script
from gregor.redis.connection import Argument, Command
from gregor.store.contract.devices import Registration
from gregor.store.redis.devices import device_state
from gregor.store.redis.keys import CACHED_USERS, Keys
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.commit_command import CACHED_OPENINGS, CommitCommands
from gregor.store.redis.users.user_state import ScriptPages
from tests.support.builders import (
    HOUR_US,
    NOW,
    NOW_US,
    creating,
    dismissing,
    external,
    interval,
    item,
    message,
    planned,
    sweeping,
)
from tests.unit.store.redis_setup import APNS, LEASE_US, RedisSetup, count_calls, make_store, session

PHONE = Sender("phone")


async def _fill(setup: RedisSetup, for_device: str | None = None) -> None:
    new = {f"live-{n}": item(f"news.c{n % 7}", created=NOW, for_device=for_device) for n in range(100)}
    await make_store(setup).users.commit("alice", planned(message(new)))


async def test_many_intervals_are_one_scan_of_live_items(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    await _fill(real_setup)
    apart = [interval(prefix="news", begin=NOW - 900 + 20 * n, end=NOW - 890 + 20 * n) for n in range(32)]
    await users.commit("bob", sweeping(*apart))  # loads the script

    one, many = [
        await count_calls(real_setup, users.commit(uid, sweeping(*spans, sender=PHONE)))
        for uid, spans in (("alice", apart[:1]), ("alice", apart))
    ]

    assert (many["zrange"], many["hmget"]) == (one["zrange"], one["hmget"] + 1)  # it reads what was remembered before


async def test_many_own_creations_are_looked_up_once(real_setup: RedisSetup) -> None:
    """A replacement that is sent again looks up its creations, which all of its open intervals match."""
    users = make_store(real_setup).users
    new = {f"new-{n}": item("news.a") for n in range(50)}
    spans = [interval(prefix="news", begin=n) for n in range(32)]
    await users.commit("alice", planned(message(new)))

    calls = await count_calls(real_setup, users.commit("alice", planned(message(new, intervals=spans))))

    assert calls["hget"] + calls["zscore"] < 50 * 2 + 10


async def test_remembered_skips_are_read_in_one_call(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    for n in range(20):
        end = NOW - 9 * n
        spans = [interval(prefix="news", begin=end - 8, end=end, skip=[f"s{n}-{k}" for k in range(100)])]
        await users.commit("alice", sweeping(*spans, sender=PHONE))

    calls = await count_calls(real_setup, users.commit("alice", creating("a", "b", category="news", created=NOW - 4)))

    assert calls["hmget"] == 2


async def test_history_of_a_rare_category_needs_few_calls(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    for start in range(0, 1_500, 100):
        new = {f"i{n}": item("news.a", created=NOW) for n in range(start, start + 100)}
        await users.commit("alice", planned(message(new)))
    view = View("phone", ("rare",))
    await users.history("bob", view, None, 1, NOW_US)

    calls = await count_calls(real_setup, users.history("alice", view, None, 1, NOW_US))

    assert "hmget" not in calls  # the index has the categories


def test_cached_commands_of_users_are_bounded_in_memory() -> None:
    commands = CommitCommands(Keys("test"), Limits(), allow_oom=True, general=False)
    commits = creating("a"), creating("a", expires=NOW + 9)
    tracemalloc.start()
    for number in range(1_000):
        for commit in commits:
            commands.of(f"{number:0128x}", commit)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert CACHED_OPENINGS * size / 1_000 < 32 * MIB


async def test_sync_is_charged_for_examined_records(real_setup: RedisSetup) -> None:
    """A small answer may be much work."""
    users = make_store(real_setup).users
    for first in range(0, 300, 100):
        await users.commit("alice", creating(*(f"i{n}" for n in range(first, first + 100)), category="news"))
    before = await users.state("alice", View("phone"), NOW_US)
    await users.commit("alice", dismissing(*(f"i{n}" for n in range(200))))

    async def examined(view: View, seq: int) -> tuple[int, int]:
        # With a filter, the time of Redis is charged too if it is longer than usual: the least of ten reads is not.
        counts = []
        for _ in range(10):
            meter = CpuMeter(ManualClock(NOW_US).cpu_ns)
            result = await meter.run(users.sync("alice", view, cursor_for(before.epoch, view, seq), None, NOW_US))
            counts.append(meter.used_ns // EXAMINED_NS)
        return len(encode_sync(result, view, b"{}")), min(counts)

    large, removed = await examined(View("phone"), before.seq)
    small, other = await examined(View("phone", ("rare",)), before.seq)

    assert large > 1_000
    assert removed == 200
    assert small < 100
    # a live item of another category is only listed
    assert other == 200 + 100 // 4
    assert (await examined(View("phone"), before.seq + 1))[1] == 0


async def test_sync_after_large_items_left_reads_few_of_them(real_setup: RedisSetup) -> None:
    """The records of 50 items that left have 0.8 MB. The full copy of one short item needs less work."""
    users = make_store(real_setup).users
    await users.commit("alice", creating("stays", category="news"))
    before = await users.state("alice", View("phone"), NOW_US)
    for n in range(50):
        await users.commit("alice", creating(f"i{n}", category="news", body="x" * 15_000))
        await users.commit("alice", dismissing(f"i{n}"))
    meter = CpuMeter(ManualClock(NOW_US).cpu_ns)
    cursor = cursor_for(before.epoch, View("phone"), before.seq)

    result = await meter.run(users.sync("alice", View("phone"), cursor, None, NOW_US))

    assert isinstance(result, Full)
    assert [each.id for each in result.items] == ["stays"]
    assert 64 * 1024 < meter.used_ns // EXAMINED_NS * 256 < 300_000


async def test_sync_of_a_rare_category_reads_few_records(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    await _fill(real_setup)
    view = View("phone", ("rare",))

    calls = await count_calls(real_setup, users.sync("alice", view, cursor_for(b"\1\2\3", view, 0), bytes(32), NOW_US))

    assert calls == {"hmget": 1, "get": 1, "zrange": 1}  # the head, and the index of the live items


async def test_unknown_ids_are_collected_in_pages(real_setup: RedisSetup) -> None:
    """The newest items that left must be found behind all dismissals of unknown ids: one script would take 20 ms."""
    bounds = Limits(history_bodies=2)
    store = RedisStore(real_setup.connection, bounds, real_setup.keys.namespace, pages=ScriptPages(collect=100))
    await store.users.commit("alice", creating("a", "b", "c"))
    await store.users.commit("alice", dismissing("a", "b", "c"))
    for start in range(0, 1_000, 50):
        await store.users.commit("alice", dismissing(*(f"unknown{n}" for n in range(start, start + 50))))
    await real_setup.connection.call("CONFIG", "RESETSTAT")

    await store.users.collect("alice", NOW_US)

    stats = (await real_setup.connection.call("INFO", "commandstats")).decode()
    assert int(re.findall(r"cmdstat_evalsha:calls=(\d+)", stats)[0]) >= 10
    assert [entry.is_trimmed for entry in await store.users.history("alice", View(), None, 9, NOW_US)] == [
        False
    ] * 2 + [True]


async def test_gone_items_are_counted_once(real_setup: RedisSetup) -> None:
    """A read of an old gone item starts a collection, which must not examine later dismissals of unknown ids again."""
    users = make_store(real_setup, Limits(history_bodies=2)).users
    await users.commit("alice", sweeping(interval("news", end=NOW)))
    await users.commit("alice", creating("a", category="other"))
    await users.commit("alice", dismissing("a"))
    for start in range(0, 1_000, 50):
        await users.commit("alice", dismissing(*(f"unknown{n}" for n in range(start, start + 50))))
    await users.item("alice", "a", View(), NOW_US)

    again = await count_calls(real_setup, users.item("alice", "a", View(), NOW_US))
    await users.commit("alice", dismissing("unknown1000", "unknown1001"))
    later = await count_calls(real_setup, users.item("alice", "a", View(), NOW_US))

    assert "evalsha" not in again and sum(again.values()) < 10
    assert "hgetall" not in later  # no interval is due
    assert sum(later.values()) < 40


async def test_bodies_that_left_in_one_commit_are_trimmed_once(real_setup: RedisSetup) -> None:
    """A dismissal of an unknown id has the seq of the commit before it, and precedes the items of that commit."""
    users = make_store(real_setup, Limits(history_bodies=2)).users
    await users.commit("alice", creating("x", "y", "z"))
    await users.commit("alice", dismissing("x", "y", "z"))
    for start in range(0, 1_000, 50):
        await users.commit("alice", dismissing(*(f"unknown{n}" for n in range(start, start + 50))))
    await users.collect("alice", NOW_US)

    again = await count_calls(real_setup, users.collect("alice", NOW_US))

    entries = await users.history("alice", View(), None, 99, NOW_US)
    assert [(entry.id, entry.is_trimmed) for entry in entries] == [("z", False), ("y", False), ("x", True)]
    assert sum(again.values()) < 40


async def test_due_message_ids_read_no_history(real_setup: RedisSetup) -> None:
    """Message ids may be due ten times a second. Hidings before a gone item make a collection most expensive."""
    limits = Limits(external_age_us=HOUR_US)
    users = make_store(real_setup, limits).users
    ids = [f"i{n}" for n in range(100)]
    await users.commit("alice", creating(*ids, for_device="*"))
    for n in range(10):
        await users.commit("alice", dismissing(*ids, sender=Sender(f"d{n}")))
    await users.commit("alice", dismissing("i0"))
    await users.commit("alice", planned(external("x", message_id="first"), limits=limits))

    calls = await count_calls(real_setup, users.commit_due("alice", NOW_US + HOUR_US))

    assert calls["hdel"] == 1
    assert not calls.keys() & {"zcard", "zcount"}


async def test_full_history_is_collected_behind_unknown_ids(real_setup: RedisSetup) -> None:
    """Dismissals of unknown ids that are older than the history stay. A collection must not examine them each time."""
    users = make_store(real_setup, Limits(history=10, history_bodies=2)).users
    for start in range(0, 1_000, 50):
        await users.commit("alice", dismissing(*(f"unknown{n}" for n in range(start, start + 50))))
    reads = []
    for n in range(30):
        await users.commit("alice", creating(f"i{n}"))
        await users.commit("alice", dismissing(f"i{n}"))
        reads.append(await count_calls(real_setup, users.collect("alice", NOW_US)))

    assert len(await users.history("alice", View(), None, 99, NOW_US)) == 10
    assert max(sum(calls.values()) for calls in reads[15:]) < 60


async def test_hidings_at_the_end_of_a_page_leave_with_their_item(real_setup: RedisSetup) -> None:
    """A hiding leaves with the next item. If it stayed before the floor, no later collection would look at it."""
    bounds, phone = Limits(history=20), Sender("phone")
    store = RedisStore(real_setup.connection, bounds, real_setup.keys.namespace, pages=ScriptPages(collect=5))
    await store.users.commit("alice", dismissing("unknown"))
    for turn in range(12):
        ids = [f"{turn}-{n}" for n in range(7)]
        await store.users.commit("alice", creating(*ids, for_device="*"))
        await store.users.commit("alice", dismissing(*ids, sender=phone))
        await store.users.commit("alice", dismissing(*ids))
        await store.users.collect("alice", NOW_US)

    gone = await real_setup.connection.call("ZRANGE", store.keys.of_user("alice").gone, 0, -1)
    assert len(gone) <= 1 + 20
    assert sum(b"\0" in member for member in gone) <= 10


class RecordedScripts:
    """Commands of which the last argument of each script is recorded."""

    def __init__(self, connection: RedisCommands) -> None:
        self._connection = connection
        self.places: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        self.places.append(bytes(args[-1]))  # type: ignore[arg-type]
        return self._connection.evalsha(script, keys, args)


async def test_hidings_before_an_item_that_stays_are_read_once(real_setup: RedisSetup) -> None:
    """Pages that are full of hidings must not be read again for each page that follows."""
    recorded = RecordedScripts(real_setup.connection)
    pages = ScriptPages(collect=20)
    users = RedisStore(recorded, Limits(), real_setup.keys.namespace, pages=pages).users
    ids = [f"i{n}" for n in range(50)]
    await users.commit("alice", creating(*ids, for_device="*"))
    for n in range(4):
        await users.commit("alice", dismissing(*ids, sender=Sender(f"d{n}")))
    await users.commit("alice", dismissing("i0"))
    recorded.places.clear()

    await users.collect("alice", NOW_US)

    kept = [int(place.split()[1]) for place in recorded.places if place.startswith(b"d")]
    assert kept == list(range(20, 201, 20))


async def test_repeated_dismissals_collect_nothing(real_setup: RedisSetup) -> None:
    store = make_store(real_setup, Limits(history_bodies=2))
    unknown = dismissing(*(f"unknown{n}" for n in range(99)))
    await store.users.commit("alice", unknown)

    calls = await count_calls(real_setup, store.users.commit("alice", unknown))

    assert "zrange" not in calls and calls["hget"] < 10


async def test_names_that_contain_a_name_hide_for_themselves(real_setup: RedisSetup) -> None:
    """The search for a hiding finds a length byte and a name: another name may contain both."""
    name = "x" * 65  # its length byte is the letter A
    outer, phone = Sender("A" + name), Sender(name)
    users = make_store(real_setup).users
    await users.commit("alice", planned(message({"a": item("news.a", created=NOW, for_device="*")})))

    for sender in (outer, phone, phone):
        await users.commit("alice", sweeping(interval(prefix="news", end=NOW), sender=sender))

    for sender in (outer, phone):
        assert (await users.state("alice", View(sender.device), NOW_US)).items == ()
    assert len((await users.state("alice", View("tablet"), NOW_US)).items) == 1


async def test_hidden_items_are_not_hidden_again(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    await _fill(real_setup, for_device="*")
    for n in range(3):
        await users.commit("alice", sweeping(interval(prefix="news", end=NOW), sender=Sender(f"d{n}")))
    before = await users.commit("alice", sweeping(interval(prefix="news", end=NOW), sender=PHONE))
    again = await users.commit("alice", sweeping(interval(prefix="news", begin=1, end=NOW), sender=PHONE))

    assert (len(before.dismissed), again.dismissed) == (100, ())
    assert again.seq == before.seq


def test_cached_keys_of_users_are_bounded_in_memory() -> None:
    keys = Keys("test")
    tracemalloc.start()
    for number in range(1_000):
        keys.of_user(f"{number:032x}")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert CACHED_USERS * size / 1_000 < 48 * MIB


async def test_read_of_the_past_is_charged_for_its_bytes(real_setup: RedisSetup) -> None:
    """Bodies of items that left are not counted anywhere, so their cost is known only after the read.

    Redis reads those of other categories, too: it finds the category of an item in its record.
    """
    users = make_store(real_setup).users
    for n in range(3):
        await users.commit("alice", creating(f"i{n}", category="news", body="x" * 15_000))
        await users.commit("alice", dismissing(f"i{n}"))

    costs = []
    for uid, view in (("bob", View()), ("alice", View()), ("alice", View("", ("rare",)))):
        for read in (users.state_at(uid, view, NOW_US, NOW_US), users.history(uid, view, None, 9, NOW_US)):
            meter = CpuMeter(ManualClock(NOW_US).cpu_ns)
            await meter.run(read)
            costs.append(meter.used_ns)

    assert costs[:2] == [0, 0]
    # 128 KiB cost as much as a request, 2 ms
    assert all(cost > 3 * 15_000 * 2_000_000 // 131_072 for cost in costs[2:])


# ---- sessions of many devices


async def test_presence_of_a_repeated_user_is_read_once(real_setup: RedisSetup) -> None:
    devices = make_store(real_setup).devices
    await devices.open_session("alice", "phone", session("s"), NOW_US, LEASE_US)

    calls = await count_calls(real_setup, devices.reachable_presence(["alice", "bob"] * 500, NOW_US))

    assert calls == {"hlen": 4, "hvals": 2, "hgetall": 2}


async def test_presence_of_many_users_is_read_in_groups(
    real_setup: RedisSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have 13 MB of presence: Redis and the process must not hold that of many users at once."""
    monkeypatch.setattr(device_state, "_READ_AT_ONCE", 10)
    devices, call_many = make_store(real_setup).devices, real_setup.connection.call_many
    sizes = {f"user{n}": size for n, size in enumerate((0, 4, 1, 12, 0, 5, 5, 1))}
    for uid, size in sizes.items():
        for n in range(size):
            await devices.open_session(uid, f"d{n}", session("s"), NOW_US, LEASE_US)
    together: list[int] = []

    async def record(commands: Sequence[Command]) -> list[Any]:
        replies = await call_many(commands)
        together.append(sum(len(reply) // 2 for reply in replies if isinstance(reply, list)))
        return replies

    monkeypatch.setattr(real_setup.connection, "call_many", record)
    found = await devices.reachable_presence(list(sizes), NOW_US)

    assert together == [0, 5, 12, 10, 1]
    assert [(uid, status.online) for uid, status in found.items()] == [(uid, size > 0) for uid, size in sizes.items()]


async def test_sessions_of_other_devices_are_not_read(real_setup: RedisSetup) -> None:
    """The sessions of a user may have 13 MB: a join, a push and a read of a device need those of one device."""
    store = make_store(real_setup)
    devices = store.devices
    await devices.put_device("alice", "phone", Registration("ios", APNS), NOW_US)
    for n in range(12):
        await devices.open_session("alice", f"desk{n}", session("s"), NOW_US, LEASE_US)
    for n in range(3):
        await devices.open_session("alice", "phone", session(f"s{n}"), NOW_US, LEASE_US)
    calls = [
        devices.open_session("alice", "phone", session("new"), NOW_US, LEASE_US),
        devices.device("alice", "phone", NOW_US),
        store.push_contexts.read("alice", "phone", "apns", "a", NOW_US),
    ]

    counted = [await count_calls(real_setup, call) for call in calls]

    assert [(each["hkeys"], each["hmget"], each.get("hgetall", 0)) for each in counted] == [
        (1, 1, 0),
        (1, 1, 0),
        (1, 3, 1),  # the head, the contact; the withdrawals
    ]
