"""Dry runs of messages, in every store."""

from __future__ import annotations

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.store.contract.store import Store
from tests.contract.conftest import MakeStore
from tests.support.builders import BACKEND, NOW, NOW_US, creating, dismissing, interval, sweeping
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


async def test_dry_run_names_the_devices_that_have_dismissed_an_item(store: Store) -> None:
    for device in ("phone", "laptop"):
        await store.users.commit("alice", dismissing("a", sender=Sender(device)))
    await store.users.commit("alice", sweeping(interval("mail", end=NOW), sender=Sender("tablet")))

    news = creating("a", "b", for_device="*", category="news")
    mail = creating("b", for_device="*", category="mail", created=NOW)

    assert (await store.users.rehearse("alice", news)).hidden_by == (("a", frozenset({"phone", "laptop"})),)
    assert (await store.users.rehearse("alice", mail)).hidden_by == (("b", frozenset({"tablet"})),)
    assert (await store.users.rehearse("alice", creating("a"))).hidden_by == ()


async def test_dry_run_is_refused_like_the_message(make_store: MakeStore) -> None:
    store = await make_store(Limits(live=1))
    await store.users.commit("alice", creating("a"))

    with pytest.raises(Problem, match="state_full"):
        await store.users.rehearse("alice", creating("b"))
