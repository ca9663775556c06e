"""A repeatable commit has no further effect when it is executed again, immediately or later (semantics.md L2, L3)."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.limits import Limits
from gregor.core.messages.model import Commit
from gregor.store.redis.keys import Keys
from gregor.store.redis.users.commit_command import CommitCommands
from tests.support.builders import (
    BACKEND,
    NOW,
    NOW_US,
    RESET,
    creating,
    dismissing,
    external,
    interval,
    item,
    message,
    planned,
    sweeping,
)
from tests.support.store_backends import memory_backend

COMMANDS = CommitCommands(Keys("gregor"), Limits(), allow_oom=True, general=False)
IDS = st.sampled_from(["a", "b", "c"])


@st.composite
def commits(draw: st.DrawFn, at: int = 0) -> Commit:
    """Return a commit of any kind, planned within some seconds."""
    now_us = NOW_US + draw(st.integers(0, 5)) * 1_000_000
    match draw(st.sampled_from(["create", "timed", "dismiss", "sweep", "both", "external", "reset"])):
        case "create":
            return creating(
                *draw(st.sets(IDS, min_size=1)), now_us=now_us, created=draw(st.none() | st.just(NOW + 1.0))
            )
        case "timed":
            return creating(draw(IDS), now_us=now_us, expires="+1h", remind_at=["+10m"])
        case "dismiss":
            return dismissing(*draw(st.sets(IDS, min_size=1)), now_us=now_us)
        case "sweep":
            return sweeping(interval("news", end=draw(st.none() | st.just(NOW + 2.0))), now_us=now_us)
        case "both":
            both = message({draw(IDS): item()}, ["d"], [interval("news")])
            return planned(both, now_us=now_us)
        case "external":
            return planned(external({"x": 1}, message_id=draw(st.none() | st.just("m1"))), now_us=now_us)
    return planned(RESET | draw(st.sampled_from([{}, {"id": "m2"}])), now_us=now_us)


@given(st.lists(commits(), min_size=1, max_size=6), st.data())
def test_repeated_commit_changes_nothing(sequence: list[Commit], data: st.DataObject) -> None:
    repeated = data.draw(st.sampled_from(sequence))
    script, _ = COMMANDS.of("alice", repeated)

    async def run() -> None:
        async with memory_backend(Limits()) as backend:
            users = backend.store.users
            for commit in sequence:
                await users.commit("alice", commit)
            before = await users.state("alice", BACKEND, NOW_US + 9_000_000)
            await users.commit("alice", repeated)
            after = await users.state("alice", BACKEND, NOW_US + 9_000_000)
            if script.is_repeatable:
                kinds = [
                    (len(c.creations), c.ids, [x.is_open for x in c.spans], c.is_reset, bool(c.external), c.now_us)
                    for c in [*sequence, repeated]
                ]
                assert after == before, kinds

    asyncio.run(run())
