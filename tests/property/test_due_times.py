"""Law: due times that are read only after a reported change equal a full read, whatever happens to the connections."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gregor.core.limits import Limits
from gregor.redis.tracking import ServerKeyTracker
from gregor.store.redis.delivery.due_times import RedisDueTimes
from gregor.store.redis.store import RedisStore
from tests.support.builders import NOW_US
from tests.support.servers import open_client
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

PARTITIONS = 64
USERS = [f"u{n}" for n in range(8)]

uids = st.sampled_from(USERS)
times_us = st.integers(NOW_US - 5, NOW_US + 5)
steps = st.one_of(
    st.tuples(st.just("delay"), uids, times_us),
    st.tuples(st.just("claim"), uids, times_us),
    st.tuples(st.just("complete"), uids, st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("kill"), st.none(), st.none()),
    st.tuples(st.just("refresh"), st.none(), st.none()),
    st.tuples(st.just("watch"), st.sets(st.integers(0, PARTITIONS - 1)), st.none()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=st.lists(steps, max_size=25))
def test_tracked_due_times_equal_a_full_read(redis_server: str, schedule: list[tuple[str, Any, Any]]) -> None:
    asyncio.run(compare(redis_server, schedule))


async def compare(url: str, schedule: list[tuple[str, Any, Any]]) -> None:
    async with open_client(url) as client:
        store = RedisStore(client, Limits(), f"test-{secrets.token_hex(4)}", partitions=PARTITIONS)
        tracker = ServerKeyTracker(url)
        times, watched = RedisDueTimes(client, store.keys, tracker), set(range(PARTITIONS))
        leases: dict[str, int] = {}
        try:
            for step, about, at_us in schedule:
                if step == "delay":
                    await store.agenda.delay(about, secrets.token_hex(4), b"{}", at_us)
                elif step == "claim":
                    leases |= dict.fromkeys(
                        await store.agenda.claim(partition_of(store, about), at_us, at_us + 9, 5), at_us + 9
                    )
                elif step == "complete" and about in leases:
                    await store.agenda.complete(about, leases.pop(about), [])
                elif step == "flush":
                    await client.call("FLUSHALL")
                elif step == "kill":
                    await kill_tracker(client)
                elif step == "watch":
                    watched = about
                    times.watch(watched)
                elif step == "refresh":
                    await times.refresh()
            await same_as_full_read(store, times, watched)
            assert times.missed_changes == 0
        finally:
            await tracker.close()


async def same_as_full_read(store: RedisStore, times: RedisDueTimes, watched: set[int]) -> None:
    async def is_tracked() -> bool:
        await times.refresh()
        return times.polled == 0

    await wait_until(is_tracked, "all watched partitions are tracked")
    # A reply on the connection of the tracker comes after the reports of all earlier changes.
    assert times._tracker is not None
    await times._tracker.read([("GET", "after")])
    full = await store.agenda.next_due_times()
    assert dict(await times.refresh()) == {each: full[each] for each in watched}


def partition_of(store: RedisStore, uid: str) -> int:
    return next(n for n in range(PARTITIONS) if store.keys.due(n) == store.keys.of_user(uid).due)


async def kill_tracker(client: Any) -> None:
    """Break the connection of the tracker, if it has one."""
    clients = (await client.call("CLIENT", "LIST")).decode().splitlines()
    for line in clients:
        fields = dict(field.partition("=")[::2] for field in line.split(" "))
        if fields["name"] == "gregor-tracking":
            await client.call("CLIENT", "KILL", "ID", fields["id"])
