"""Keys are processed in batches of bounded size, one batch at a time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gregor_gateway.fanout.batch import Batcher
from gregor_gateway.runtime.background import BackgroundTasks
from tests.support.wait import wait_until

Added = list[tuple[int, bool]]


@given(
    added=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60),
    later=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=20),
    batch_size=st.integers(1, 5),
)
def test_every_added_key_is_processed(added: Added, later: Added, batch_size: int) -> None:
    """A key that is added while a batch runs is processed in a later batch."""
    asyncio.run(_process_all(added, later, batch_size))


async def _process_all(added: Added, later: Added, batch_size: int) -> None:
    processed: list[tuple[int, bool]] = []
    running = 0

    def add(keys: Added) -> None:
        for key, flag in keys:
            batcher.add(key, flag=flag)

    async def process(batch: dict[int, bool]) -> None:
        nonlocal running
        running += 1
        assert running == 1 and 0 < len(batch) <= batch_size
        if not processed:
            add(later)
        processed.extend(batch.items())
        await asyncio.sleep(0)
        running -= 1

    batcher: Batcher[int] = Batcher(BackgroundTasks(), batch_size, process)
    add(added)
    expected = added + (later if added else [])
    keys = {key for key, _ in expected}
    flagged = {key for key, flag in expected if flag}

    def found(*, only_flagged: bool) -> set[int]:
        return {key for key, flag in processed if flag or not only_flagged}

    await wait_until(
        lambda: (found(only_flagged=False), found(only_flagged=True)) == (keys, flagged), "all keys are processed"
    )
    assert len(processed) <= len({key for key, _ in added}) + len({key for key, _ in later})


async def test_batches_of_a_paced_queue_are_apart() -> None:
    loop, starts = asyncio.get_running_loop(), []

    async def process(batch: dict[int, bool]) -> None:
        starts.append(loop.time())

    batcher: Batcher[int] = Batcher(BackgroundTasks(), 2, process, pause_s=0.02)
    for key in range(6):
        batcher.add(key)
    await wait_until(lambda: len(starts) == 3, "all batches")

    assert all(later - earlier >= 0.02 for earlier, later in pairwise(starts))
