"""The newest gone items keep their bodies (semantics.md "History"), whichever steps the collection is made in.

The same holds for hidings: a cursor from before one gets it in a delta, or is too old for a delta (L9).

The store counts each gone item once, and keeps the count. Dismissed unknown ids and hidings are among the gone items,
and repeated dismissals move them. Several processes collect in turns, with pages of different sizes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.core.items.sync import Delta, Full, View, cursor_for
from gregor.core.messages.model import Sender
from gregor.redis.client import RedisClient
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
# The store still has the removal of the hidden item, and answers with a delta.
@example(
    steps=[
        *[("hide", ["i0"]), ("unknown", ["u0", "u1"]), ("wait", 2), ("unknown", ["u0"]), ("wait", 4)],
        *[("leave", ["i0"]), ("sync", 3)],
    ],
    bodies=0,
    age=1,
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
            copies = {0: frozenset[str]()}
            note = partial(_note, memory, copies)
            now_us = NOW_US
            for number, (kind, value) in enumerate(steps):
                store = stores[number % 2]
                if kind == "wait":
                    now_us += value * HOUR_US
                elif kind == "read":
                    read = [await each.users.item(UID, value, View(), now_us) for each in readers]
                    assert len({entry and entry.is_trimmed for entry in read}) == 1
                elif kind == "sync":
                    for each in stores:
                        await _check_sync(each, memory, copies, value, now_us)
                elif kind == "older version":
                    await _write_older_counts(connection, stores[1].keys.of_user(UID).state)
                elif kind == "collect":
                    # Between two scripts of a collection, entries arrive and move, and another process collects.
                    between = [partial(_commit, stores[1], kind, ids, now_us) for kind, ids in value]
                    interleaved.steps = iter([*between, partial(stores[1].users.collect, UID, now_us)])
                    await stores[0].users.collect(UID, now_us)
                    for step in interleaved.steps:
                        await step()
                    for kind, ids in value:
                        await _commit(memory, kind, ids, now_us, note)
                else:
                    await _commit(store, kind, value, now_us)
                    await _commit(memory, kind, value, now_us, note)
                assert await _bodies(store, now_us) == await _bodies(memory, now_us)

    asyncio.run(compare())


async def _write_older_counts(connection: RedisClient, state: str) -> None:
    """Write the counts that an older version knows."""
    counts = await connection.call("HGET", state, ".c")
    if counts is not None:
        await connection.call("HSET", state, ".c", counts[:OLDER_COUNTS])


async def _commit(
    store: Store, kind: str, ids: list[str], now_us: int, note: Callable[[int], Awaitable[None]] | None = None
) -> None:
    """Commit a step. ``note``: called after each commit."""
    parts = [dismissing(*ids, now_us=now_us, sender=HIDER if kind == "hide" else BY_BACKEND)]
    if kind != "unknown":
        parts.insert(0, creating(*ids, now_us=now_us, for_device="*"))
    for each in parts:
        await store.users.commit(UID, each)
        if note is not None:
            await note(now_us)


async def _note(store: Store, copies: dict[int, frozenset[str]], now_us: int) -> None:
    """Keep the items that the hider sees now, by the seq of its copy."""
    full = await store.users.state(UID, View(HIDER.device), now_us)
    copies[full.seq] = frozenset(each.id for each in full.items)


async def _check_sync(store: Store, memory: Store, copies: dict[int, frozenset[str]], back: int, now_us: int) -> None:
    """Check that both give the hider the same copy. The store may keep more removals, as it collects in steps."""
    form, *expected = await _answer(memory, copies, back, now_us)
    answered_form, *answer = await _answer(store, copies, back, now_us)
    assert answer == expected
    assert answered_form is not Full or form is Full


async def _answer(
    store: Store, copies: dict[int, frozenset[str]], back: int, now_us: int
) -> tuple[type, int, bytes, frozenset[str]]:
    """Return what the hider gets for its cursor ``back`` commits ago: the answer's form, and its copy after that."""
    view = View(HIDER.device)
    full = await store.users.state(UID, view, now_us)
    seq = max(0, full.seq - back)
    answer = await store.users.sync(UID, view, cursor_for(full.epoch, view, seq), None, now_us)
    copy = copies[seq]
    if isinstance(answer, Full):
        copy = frozenset(each.id for each in answer.items)
    elif isinstance(answer, Delta):
        copy = copy.difference(answer.dismiss).union(each.id for each in answer.create)
    assert copy == {each.id for each in full.items}
    return type(answer), answer.seq, answer.digest, copy


async def _bodies(store: Store, now_us: int) -> list[tuple[str, bool]]:
    entries = await store.users.history(UID, View(), None, 100, now_us)
    return [(entry.id, entry.is_trimmed) for entry in entries]
