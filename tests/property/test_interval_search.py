"""Items of intervals are found page by page before the commit: the result is that of one scan at the commit.

Other commands are executed between the pages. The memory store executes them before the commit with the intervals.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gregor.core.errors import Problem
from gregor.core.ids import EVERY_DEVICE, MAX_DOTTED_LENGTH
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.user_state import ScriptPages
from tests.property.conversations import SENDERS, Sent, updates, worlds
from tests.support.builders import LIMITS, NOW, NOW_US, RESET, SEED, interval, item, message
from tests.support.interleaved import Interleaved
from tests.support.receipts import untimed
from tests.support.replica import view_of
from tests.support.servers import open_client

pytestmark = pytest.mark.redis

UID = "alice"
PHONE = Sender("phone")
SWEEP = Sent(PHONE, message(intervals=[interval(prefix="")]))
SEEDS = itertools.count(0x200000)
Step = Callable[[Store], Awaitable[Any]]


def _sends(sent: Sent) -> Step:
    return lambda store: store.users.commit(UID, sent.at(NOW_US))


def _forgets(device: str) -> Step:
    return lambda store: store.devices.forget_device(UID, device, NOW_US, SEED)


def _deletes_the_user() -> Step:
    """Return a step that deletes the user and begins a new epoch; processes choose the seed of an epoch at random."""
    seed = next(SEEDS).to_bytes(3, "big")
    first = replace(Sent(SENDERS[0], message(ids=["z"])).at(NOW_US), epoch_seed=seed)

    async def delete(store: Store) -> Any:
        await store.users.delete_user(UID, NOW_US)
        return await store.users.commit(UID, first)

    return delete


def _reads_the_head(store: Store) -> Awaitable[Any]:
    return store.users.heads([UID])


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[Step], list[Step], Step]:
    """Generate messages that prepare a user, steps between the pages of a search, and a message with intervals."""
    world = draw(worlds(is_explicit=False))
    sends = updates(world, is_explicit=False).map(_sends)
    sweeps = st.builds(
        lambda sender, skip: _sends(Sent(sender, message(intervals=[interval(prefix="user", skip=skip)]))),
        st.sampled_from(SENDERS[:3]),
        st.lists(st.sampled_from("abcd"), max_size=1),
    )
    others = st.sampled_from((_forgets("phone"), _sends(Sent(SENDERS[0], RESET)))) | st.builds(_deletes_the_user)
    before = [_sends(Sent(SENDERS[0], message(world)))] * draw(st.integers(0, 1))
    before += draw(st.lists(sends, max_size=3))
    return before, draw(st.lists(sends | sends | others, max_size=6)), draw(sweeps)


@settings(phases=(Phase.generate,))
@given(search=searches())
def test_search_equals_one_scan(redis_server: str, search: tuple[list[Step], list[Step], Step]) -> None:
    asyncio.run(_compare(redis_server, *search))


DEPTHS = st.integers(0, 8) | st.integers(0, 62)
DEEP = st.builds(lambda depth, last: ".".join([*["a"] * depth, last]), DEPTHS, st.sampled_from(("a", "b", "ab")))
TIMES = st.integers(NOW - 6, NOW - 1)


@st.composite
def scans(draw: st.DrawFn) -> tuple[Step, Step]:
    """Generate items, and a message with many intervals whose prefixes have up to 32 lengths."""
    one = st.sampled_from([*draw(st.lists(DEEP, min_size=6, max_size=12)), "z" * MAX_DOTTED_LENGTH])
    times = st.lists(TIMES, min_size=2, max_size=2).map(sorted)
    spans = st.builds(lambda name, at: interval(name, begin=at[0], end=at[1]), one, times) | st.builds(
        lambda name, at: interval(prefix=name, begin=at[0], end=at[1]), one | one | one | st.just(""), times
    )
    made = draw(st.lists(st.builds(item, one, created=TIMES), min_size=12, max_size=24))
    intervals = draw(st.lists(spans, min_size=1, max_size=LIMITS.intervals))
    created = message({f"i{n}": each for n, each in enumerate(made)})
    return _sends(Sent(SENDERS[0], created)), _sends(Sent(SENDERS[0], message(intervals=intervals)))


@settings(phases=(Phase.generate,))
@given(scan=scans())
def test_many_intervals_dismiss_the_items_that_they_match(redis_server: str, scan: tuple[Step, Step]) -> None:
    created, sweep = scan
    asyncio.run(_compare(redis_server, [created], [], sweep))


def _created(*ids: str, device: str = EVERY_DEVICE) -> Step:
    return _sends(Sent(SENDERS[0], message({each: item("user", created=NOW, for_device=device) for each in ids})))


@pytest.mark.parametrize(
    ("before", "between"),
    [
        ([_created("a", "b"), _sends(SWEEP)], [_sends(SWEEP), _sends(SWEEP), _forgets("phone")]),
        ([_created("a", "b")], [_sends(Sent(PHONE, message(ids=["a"])))] * 3),
        ([_created("a", "b", "c")], [_created("d")] * 4),
        ([_created("a"), _created("b")], [_created("c"), _created("d")] * 2),
        ([_created("a", "b")], [_reads_the_head, _deletes_the_user(), _created("c", "d", "e")]),
    ],
    ids=["device removed", "item dismissed", "one message", "item created", "user deleted"],
)
def test_change_during_a_search_counts(redis_server: str, before: list[Step], between: list[Step]) -> None:
    asyncio.run(_compare(redis_server, before, between, _sends(SWEEP)))


async def _compare(url: str, before: list[Step], between: list[Step], sweep: Step) -> None:
    namespace = f"test-{secrets.token_hex(4)}"
    async with open_client(url) as connection:
        memory = MemoryStore(LIMITS, MemoryPubSub())
        other, interleaved = RedisStore(connection, LIMITS, namespace), Interleaved(connection)
        searching = RedisStore(interleaved, LIMITS, namespace, pages=ScriptPages(search=1))
        for step in before:
            await _both(step, memory, other)
        waiting = list(between)

        def steps() -> Iterator[Callable[[], Awaitable[Any]]]:
            while waiting:
                step = waiting.pop(0)
                yield lambda step=step: _both(step, memory, other)

        interleaved.steps = steps()
        found = await _outcome(sweep(searching))
        assert found == await _outcome(sweep(memory))
        for view in (View(), View("phone"), View("tablet")):
            await _both(lambda store, view=view: _read(store, view), memory, other)


async def _read(store: Store, view: View) -> Any:
    full = await store.users.state(UID, view, NOW_US)
    return full.epoch, full.seq, full.digest, view_of(full.items)


async def _both(step: Step, memory: Store, other: Store) -> None:
    assert await _outcome(step(memory)) == await _outcome(step(other))


async def _outcome(asked: Awaitable[Any]) -> Any:
    try:
        return untimed(await asked)
    except Problem as problem:
        return problem.code
