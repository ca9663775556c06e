"""The number of Redis calls of a commit: timers must cost only the messages that have them."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind
from tests.support.builders import NOW, NOW_US, SECOND_US, creating, dismissing, interval, sweeping
from tests.unit.store.redis_setup import RedisSetup, make_store

TIMERS = (ItemTimer(ItemTimerKind.PUSH, NOW_US + SECOND_US), ItemTimer(ItemTimerKind.MAIL, NOW_US + SECOND_US))
TIMED = creating("t")
TIMED = replace(TIMED, creations=(replace(TIMED.creations[0], timers=TIMERS),))

PLAIN = {"get": 1, "hmget": 1, "hset": 1, "zadd": 1, "spublish": 1}
DISMISSAL = {"get": 1, "hmget": 1, "hset": 1, "zadd": 1, "zrem": 1, "zscore": 1, "spublish": 1}


@pytest.mark.parametrize(
    ("commit", "calls"),
    [
        (creating("a"), PLAIN),
        (creating("b", expires="+60", remind_at=["+5", "+6"]), PLAIN | {"zadd": 4}),
        (TIMED, PLAIN | {"zadd": 4}),
        (creating("c", for_device="phone"), PLAIN | {"hmget": 2}),
        (creating("plain"), {"get": 1, "hmget": 1}),
        (dismissing("plain"), DISMISSAL),
        (dismissing("timed"), DISMISSAL | {"zadd": 3, "zrem": 4}),
        (dismissing("own"), DISMISSAL | {"hmget": 2, "hdel": 2}),
        (dismissing("first"), {"get": 1, "hmget": 1}),
    ],
    ids=[
        "plain",
        "times",
        "timers",
        "for a device",
        "again",
        "dismissed",
        "dismissed with all",
        "dismissed for a device",
        "dismissed again",
    ],
)
async def test_fast_path_call_count(real_setup: RedisSetup, commit: Commit, calls: dict[str, int]) -> None:
    users = make_store(real_setup).users
    full = creating("timed", expires="+60", remind_at=["+5"])
    full = replace(full, creations=(replace(full.creations[0], timers=TIMERS),))
    for made in (creating("first"), dismissing("first"), creating("plain"), full, creating("own", for_device="phone")):
        await users.commit("alice", made)
    await users.commit("bob", replace(commit, now_us=NOW_US))  # loads the script
    await real_setup.connection.call("CONFIG", "RESETSTAT")

    await users.commit("alice", commit)

    assert await _calls(real_setup) == calls


async def test_category_bounds_take_one_scan(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    for n in range(10):
        await users.commit("alice", creating(*(f"{n}-{k}" for k in range(100)), category="full", created=NOW - n))
    bounds = (("full", 1_000), *((f"news.{n}", 5) for n in range(50)))
    await real_setup.connection.call("CONFIG", "RESETSTAT")

    await users.commit("alice", replace(creating("new", category="full"), max_live=bounds))

    calls = await _calls(real_setup)
    assert (calls["zrange"], calls["spublish"]) == (1, 2)


async def test_past_intervals_keep_creations_fast(real_setup: RedisSetup) -> None:
    users = make_store(real_setup).users
    await users.commit("alice", creating("a"))
    await users.commit("alice", sweeping(interval("news", end=NOW), interval("mail", end=NOW - 60)))
    await real_setup.connection.call("CONFIG", "RESETSTAT")

    later = [creating("b", now_us=NOW_US + 1), creating("c", created=NOW + 1)]
    caught = [creating("d"), creating("e", created=NOW), creating("f", created=NOW - 60)]
    for commit in later:
        assert (await users.commit("alice", commit)).created
    assert await _calls(real_setup) == {name: 2 * count for name, count in PLAIN.items()}
    for commit in caught:
        assert not (await users.commit("alice", commit)).created


async def test_expiry_reads_a_bounded_part_of_the_agenda(real_setup: RedisSetup) -> None:
    """Reading 9,000 entries for each item that expires took Redis 9 ms."""
    users = make_store(real_setup).users
    for part in range(8):
        ids = [f"{part}-{n}" for n in range(100)]
        await users.commit("alice", creating(*ids, remind_at=[f"+{20 + part}"]))
    for n in (1, 2):
        await users.commit("alice", creating(f"x{n}", expires=f"+{n}"))
    await users.commit("alice", creating("plain-1", now_us=NOW_US + SECOND_US))
    await real_setup.connection.call("CONFIG", "RESETSTAT")

    await users.commit("alice", creating("plain-2", now_us=NOW_US + 2 * SECOND_US))
    assert (await _calls(real_setup))["zrange"] <= 4

    # Nothing is due at the time of the last entry that was examined: one commit looks again, the next one need not.
    await users.commit("alice", creating("plain-3", now_us=NOW_US + 23 * SECOND_US))
    await real_setup.connection.call("CONFIG", "RESETSTAT")
    await users.commit("alice", creating("plain-4", now_us=NOW_US + 23 * SECOND_US))
    assert await _calls(real_setup) == PLAIN


async def _calls(setup: RedisSetup) -> dict[str, int]:
    """Return how often each command was called inside scripts since the statistics were reset."""
    stats = (await setup.connection.call("INFO", "commandstats")).decode()
    counted = {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", stats)}
    beside = {"evalsha", "info", "config|resetstat", "config"}
    return {name: count for name, count in counted.items() if name not in beside}
