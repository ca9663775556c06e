"""The newest gone items keep their bodies (semantics.md "History"), whichever steps the collection is made in.

The same holds for hidings: a cursor from before one gets it in a delta, or is too old for a delta (L9).

The store counts each gone item once, and keeps the count. Dismissed unknown ids and hidings are among the gone items,
and repeated dismissals move them. Several processes collect in turns, with pages of different sizes.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.core.items.sync import Delta, Full, View, cursor_for
from gregor.core.messages.model import Sender
from gregor.reference.store.store import MemoryStore
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.user_state import ScriptPages
from tests.support.builders import BY_BACKEND, HOUR_US, LIMITS, NOW_US, creating, dismissing
from tests.support.interleaved import Interleaved
from tests.support.servers import open_client

pytestmark = pytest.mark.redis

UID = "alice"
IDS = [f"i{number}" for number in range(12)]
UNKNOWN = [f"u{number}" for number in range(5)]
HIDER = Sender("phone")
OLDER_COUNTS = 48
"""Length of the counts of a user in an older version, which does not store how many bodies were counted."""
names = st.lists(st.sampled_from(IDS), min_size=1, max_size=6, unique=True)
changes = st.tuples(st.sampled_from(["leave", "hide"]), names) | st.tuples(
    st.just("unknown"), st.lists(st.sampled_from(UNKNOWN), min_size=1, unique=True)
)
STEPS = st.lists(
    st.one_of(
        changes,
        st.tuples(st.just("wait"), st.integers(1, 4)),
        st.tuples(st.just("collect"), st.lists(changes, max_size=3)),
        st.tuples(st.just("read"), st.sampled_from(IDS)),
        st.tuples(st.just("sync"), st.integers(0, 9)),
        st.tuples(st.just("older version"), st.none()),
    ),
    max_size=25,
)


# A collection is scheduled for a time long after the body of the next gone item becomes too old.
@example(steps=[("unknown", ["u0"]), ("collect", []), ("leave", ["i0"]), ("wait", 1)], bodies=1, age=1, pages=(1, 1))
@example(
    steps=[("leave", ["i1"]), ("wait", 1), ("leave", ["i0"]), ("leave", ["i0"]), ("wait", 1)],
    bodies=1,
    age=1,
    pages=(1, 1),
)
# An unknown id passes its retention after a hiding, in the same page and in a later one.
@example(
    steps=[("hide", ["i0"]), ("unknown", ["u0"]), ("wait", 4), ("wait", 2), ("collect", []), ("sync", 1)],
    bodies=4,
    age=9,
    pages=(9, 9),
)
@example(
    steps=[
        *[("hide", ["i0", "i1"]), ("unknown", ["u0"]), ("wait", 4), ("leave", ["i2"]), ("wait", 2)],
        *[("collect", []), ("sync", 3), ("sync", 2)],
    ],
    bodies=4,
    age=9,
    pages=(1, 1),
)
@settings(max_examples=600)
@given(
    steps=STEPS, bodies=st.integers(0, 4), age=st.integers(1, 9), pages=st.tuples(st.integers(1, 3), st.integers(1, 9))
)
def test_newest_gone_items_keep_their_bodies(
    redis_server: str, steps: list[tuple[str, Any]], bodies: int, age: int, pages: tuple[int, int]
) -> None:
    limits = replace(LIMITS, history_bodies=bodies, history_body_age_us=age * HOUR_US, retention_us=6 * HOUR_US)

    async def compare() -> None:
        async with open_client(redis_server) as connection:
            namespace = f"test-{secrets.token_hex(4)}"
            interleaved = Interleaved(connection, is_first_free=False)
            stores: list[RedisStore] = [
                RedisStore(interleaved, limits, namespace, pages=ScriptPages(collect=pages[0])),
                RedisStore(connection, limits, namespace, pages=ScriptPages(collect=pages[1])),
            ]
            memory = MemoryStore(limits)
            readers: list[Store] = [*stores, memory]
            now_us = NOW_US
            for number, (kind, value) in enumerate(steps):
                store = stores[number % 2]
                if kind == "wait":
                    now_us += value * HOUR_US
                elif kind == "read":
                    read = [await each.users.item(UID, value, View(), now_us) for each in readers]
                    assert len({entry and entry.is_trimmed for entry in read}) == 1
                elif kind == "sync":
                    assert len({await _answer(each, value, now_us) for each in readers}) == 1
                elif kind == "older version":
                    # It writes the counts that it knows.
                    state = stores[1].keys.of_user(UID).state
                    counts = await connection.call("HGET", state, ".c")
                    if counts is not None:
                        await connection.call("HSET", state, ".c", counts[:OLDER_COUNTS])
                elif kind == "collect":
                    # Between two scripts of a collection, entries arrive and move, and another process collects.
                    between = [partial(_commit, stores[1], kind, ids, now_us) for kind, ids in value]
                    interleaved.steps = iter([*between, partial(stores[1].users.collect, UID, now_us)])
                    await stores[0].users.collect(UID, now_us)
                    for step in interleaved.steps:
                        await step()
                    for kind, ids in value:
                        await _commit(memory, kind, ids, now_us)
                else:
                    for each in (store, memory):
                        await _commit(each, kind, value, now_us)
                assert await _bodies(store, now_us) == await _bodies(memory, now_us)

    asyncio.run(compare())


async def _commit(store: Store, kind: str, ids: list[str], now_us: int) -> None:
    if kind == "unknown":
        await store.users.commit(UID, dismissing(*ids, now_us=now_us))
        return
    await store.users.commit(UID, creating(*ids, now_us=now_us, for_device="*"))
    sender = HIDER if kind == "hide" else BY_BACKEND
    await store.users.commit(UID, dismissing(*ids, now_us=now_us, sender=sender))


async def _answer(store: Store, back: int, now_us: int) -> Any:
    """Return what the hider gets in answer to its cursor ``back`` commits ago."""
    view = View(HIDER.device)
    full = await store.users.state(UID, view, now_us)
    cursor = cursor_for(full.epoch, view, max(0, full.seq - back))
    answer = await store.users.sync(UID, view, cursor, None, now_us)
    created = answer.create if isinstance(answer, Delta) else answer.items if isinstance(answer, Full) else ()
    dismissed = answer.dismiss if isinstance(answer, Delta) else ()
    return type(answer), answer.seq, answer.digest, frozenset(each.id for each in created), frozenset(dismissed)


async def _bodies(store: Store, now_us: int) -> list[tuple[str, bool]]:
    entries = await store.users.history(UID, View(), None, 100, now_us)
    return [(entry.id, entry.is_trimmed) for entry in entries]
