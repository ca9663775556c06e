"""L3: a creation is compared with all remembered intervals, however the script sorts and groups them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.ids import EVERY_DEVICE, MAX_NAME_LENGTH
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from tests.property.conversations import Sent
from tests.support.builders import BY_BACKEND, LIMITS, NOW, NOW_US, interval, item, message
from tests.support.receipts import untimed
from tests.support.replica import view_of
from tests.support.servers import open_client

pytestmark = pytest.mark.redis

UID = "alice"
DEVICES = ("phone", "tablet")
SENDERS = (BY_BACKEND, *map(Sender, DEVICES))
CATEGORIES = ("a", "a.b", "a.b.c", "ab")
IDS = ("u", "v", "w", "x", "y", "z" * MAX_NAME_LENGTH)
TIMES = st.integers(NOW - 12, NOW - 1)


@st.composite
def dismissals(draw: st.DrawFn) -> Sent:
    """Generate a message that dismisses an interval, open or not, with some exempt ids."""
    begin, end = sorted((draw(TIMES), draw(TIMES)))
    is_prefix, category = draw(st.booleans()), draw(st.sampled_from(CATEGORIES))
    found = interval(
        None if is_prefix else category,
        prefix=draw(st.sampled_from((category, ""))) if is_prefix else None,
        begin=draw(st.sampled_from((begin, None))),
        end=draw(st.sampled_from((end, end, end, None))),
        skip=draw(st.lists(st.sampled_from(IDS), max_size=2, unique=True)),
    )
    return Sent(draw(st.sampled_from(SENDERS)), message(intervals=[found]))


items = st.builds(
    item,
    st.sampled_from(CATEGORIES),
    created=TIMES | TIMES | TIMES | st.none(),
    for_device=st.sampled_from((None, EVERY_DEVICE, *DEVICES)),
)
creations = st.fixed_dictionaries(dict.fromkeys(IDS, items))


@settings(phases=(Phase.generate,))
@given(before=st.lists(dismissals(), min_size=3, max_size=9), created=creations)
def test_l3_creations_meet_all_intervals(redis_server: str, before: list[Sent], created: dict[str, Any]) -> None:
    asyncio.run(_compare(redis_server, [*before, Sent(BY_BACKEND, message(created))]))


async def _compare(url: str, sent: list[Sent]) -> None:
    async with open_client(url) as connection:
        memory = MemoryStore(LIMITS, MemoryPubSub())
        stored = RedisStore(connection, LIMITS, f"test-{secrets.token_hex(4)}")
        for each in sent:
            assert await _outcome(memory, each) == await _outcome(stored, each)
        for view in (View(), *map(View, DEVICES)):
            assert await _read(memory, view) == await _read(stored, view)


async def _outcome(store: Store, sent: Sent) -> Any:
    try:
        return untimed(await store.users.commit(UID, sent.at(NOW_US)))
    except Problem as problem:
        return problem.code


async def _read(store: Store, view: View) -> Any:
    full = await store.users.state(UID, view, NOW_US)
    return full.seq, full.digest, view_of(full.items)
