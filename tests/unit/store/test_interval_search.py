"""A commit does not use a search that is too old, or that was made by a server with other commits."""

from typing import Any

import pytest

from gregor.store.redis.users.commit_command import CommitCommands
from gregor.store.redis.users.interval_search import SearchPage, pack_found, pack_page_search, search_commit
from tests.support.builders import LIMITS, creating, interval, sweeping
from tests.unit.store.redis_setup import RedisSetup, make_store

SWEEP = sweeping(interval(prefix="news"))
US = 1_000_000


@pytest.mark.parametrize(
    ("later", "age_us", "is_used"),
    [(0, 0, True), (0, 900_000 - US, True), (0, US, False), (1, 0, False)],
    ids=["new", "of a later clock", "old", "lost commits"],
)
async def test_old_search_is_repeated(setup: RedisSetup, later: int, age_us: int, is_used: bool) -> None:
    await make_store(setup).users.commit("alice", creating("a"))
    calls = CommitCommands(setup.keys, LIMITS, allow_oom=setup.allow_oom, general=False, search_page=1)

    async def send(commit: Any, argument: bytes) -> Any:
        return await setup.connection.run(calls.of("alice", commit, search=argument))

    page = SearchPage(*(await send(search_commit(SWEEP), pack_page_search(1, 0, SWEEP)))[1:])
    seq, read_us = (int.from_bytes(each, "big") for each in (page.read_at[3:8], page.read_at[8:]))
    read_at = page.read_at[:3] + (seq + later).to_bytes(5, "big") + (read_us - age_us).to_bytes(7, "big")

    reply = await send(SWEEP, pack_found([page._replace(read_at=read_at)]))
    assert reply[0] == (b"ok" if is_used else b"search")
