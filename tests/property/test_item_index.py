"""The history is read in steps. An item that stays stored is in it once, whatever other commands run between them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.items.sync import View
from gregor.store.contract.store import Store
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.user_state import ScriptPages
from tests.support.builders import LIMITS, NOW_US, creating, dismissing
from tests.support.interleaved import Interleaved
from tests.support.servers import open_client

pytestmark = pytest.mark.redis

UID = "alice"
Step = Callable[[Store], Awaitable[Any]]


def _creates(item_id: str) -> Step:
    return lambda store: store.users.commit(UID, creating(item_id, now_us=NOW_US))


def _dismisses(item_id: str) -> Step:
    return lambda store: store.users.commit(UID, dismissing(item_id, now_us=NOW_US))


STEPS = st.lists(st.builds(_creates, st.sampled_from("abcdefgh")) | st.builds(_dismisses, st.sampled_from("abcdefgh")))


@settings(max_examples=50)
@given(before=STEPS, between=STEPS)
def test_stored_item_is_in_the_history_once(redis_server: str, before: list[Step], between: list[Step]) -> None:
    async def read() -> None:
        async with open_client(redis_server) as connection:
            namespace = f"test-{secrets.token_hex(4)}"
            store, interleaved = RedisStore(connection, LIMITS, namespace), Interleaved(connection, is_first_free=False)
            reading = RedisStore(interleaved, LIMITS, namespace, pages=ScriptPages(history=1))
            for step in before:
                await step(store)
            stored_before = set(await _history_ids(store))

            def steps() -> Iterator[Callable[[], Awaitable[Any]]]:
                for step in between:
                    yield lambda step=step: step(store)

            interleaved.steps = steps()
            found = await _history_ids(reading)
            interleaved.steps = iter(())
            assert len(found) == len(set(found))
            assert stored_before <= set(found) <= set(await _history_ids(store))

    asyncio.run(read())


async def _history_ids(store: Store) -> list[str]:
    return [entry.id for entry in await store.users.history(UID, View(), None, 100, NOW_US)]
