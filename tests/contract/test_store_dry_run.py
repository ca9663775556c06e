"""Dry runs of messages, in every store."""

from __future__ import annotations

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.store.contract.store import Store
from tests.contract.conftest import MakeStore
from tests.support.builders import BACKEND, NOW_US, creating, dismissing
from tests.support.store_backends import AnnouncementRecorder


async def test_dry_run_returns_the_receipt_only(store: Store, recorder: AnnouncementRecorder) -> None:
    await store.users.commit("alice", creating("a"))
    before = await store.users.state("alice", BACKEND, NOW_US)

    made = await store.users.rehearse("alice", creating("b"))
    ended = await store.users.rehearse("alice", dismissing("a"))
    again = await store.users.rehearse("alice", creating("a"))

    assert (made.seq, made.created, made.is_unchanged) == (1, ("b",), False)
    assert (ended.seq, ended.dismissed) == (1, ("a",))
    assert again.is_unchanged
    assert await store.users.state("alice", BACKEND, NOW_US) == before
    assert len(await recorder.announcements(1)) == 1


async def test_dry_run_of_an_unknown_user_creates_nothing(store: Store) -> None:
    receipt = await store.users.rehearse("nobody", creating("a"))

    assert (receipt.seq, receipt.created) == (0, ("a",))
    assert await store.users.heads(["nobody"]) == [None]


async def test_dry_run_is_refused_like_the_message(make_store: MakeStore) -> None:
    store = await make_store(Limits(live=1))
    await store.users.commit("alice", creating("a"))

    with pytest.raises(Problem, match="state_full"):
        await store.users.rehearse("alice", creating("b"))
