"""What a commit costs the server, in calls: timers must cost those alone who ask for them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gregor.core.messages import Commit, Timer, TimerKind
from tests.support.builders import NOW_US, SECOND_US, creating, dismissing
from tests.unit.store.grounds import Ground, store_on

TIMERS = (Timer(TimerKind.PUSH, NOW_US + SECOND_US), Timer(TimerKind.MAIL, NOW_US + SECOND_US))
TIMED = creating("t")
TIMED = replace(TIMED, creations=(replace(TIMED.creations[0], timers=TIMERS),))

PLAIN = {"get": 1, "hget": 2, "hset": 2, "zadd": 1, "spublish": 1}
DISMISSAL = {"get": 1, "hget": 2, "hset": 2, "zadd": 1, "zrem": 1, "zscore": 1, "spublish": 1}


@pytest.mark.parametrize(
    ("commit", "calls"),
    [
        (creating("a"), PLAIN),
        (creating("b", expires="+60", remind_at=["+5", "+6"]), PLAIN | {"zadd": 4}),
        (TIMED, PLAIN | {"zadd": 4}),
        (dismissing("plain"), DISMISSAL),
        (dismissing("timed"), DISMISSAL | {"zadd": 3, "zrem": 4}),
    ],
    ids=["plain", "times", "timers", "dismissed", "dismissed with all"],
)
async def test_a_commit_on_a_fast_path_takes_so_many_calls(
    real_ground: Ground, commit: Commit, calls: dict[str, int]
) -> None:
    users = store_on(real_ground).users
    full = creating("timed", expires="+60", remind_at=["+5"])
    full = replace(full, creations=(replace(full.creations[0], timers=TIMERS),))
    for made in (creating("first"), dismissing("first"), creating("plain"), full):
        await users.commit("alice", made)
    await users.commit("bob", replace(commit, now_us=NOW_US))  # the script is loaded
    await real_ground.connection.call("CONFIG", "RESETSTAT")

    await users.commit("alice", commit)

    stats = (await real_ground.connection.call("INFO", "commandstats")).decode()
    counted = {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", stats)}
    beside = {"evalsha", "info", "config|resetstat", "config"}
    assert {name: count for name, count in counted.items() if name not in beside} == calls
