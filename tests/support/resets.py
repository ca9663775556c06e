"""A reset of all users without a job, for tests of a store."""

from __future__ import annotations

import itertools

from gregor.store.contract.store import Store

_NUMBERS = itertools.count(1)


async def reset_all_users(store: Store, spread_s: int) -> None:
    """Start a new epoch of every user, and publish it to the gateways."""
    partitions = range(store.agenda.partition_count)
    assert len(await store.users.reset_partitions(next(_NUMBERS), partitions, spread_s)) == len(partitions)
    await store.users.announce_reset(spread_s)
