"""An item that many devices dismiss for themselves stays valid JSON for every reader (semantics.md L8, "Bounds")."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, Sender
from tests.support.builders import BACKEND, LIMITS, NOW, NOW_US, creating, dismissing, document_of, interval, sweeping
from tests.support.store_backends import FACTORIES

pytestmark = pytest.mark.redis

LENGTHS = st.integers(120, 128)


@settings(max_examples=3, deadline=None)
@given(count=st.integers(500, 520), length=LENGTHS, data=st.data())
async def test_item_dismissed_by_many_devices_stays_valid_json(count: int, length: int, data: st.DataObject) -> None:
    names = [f"{n:04}".ljust(length, "x") for n in range(count)]
    early = data.draw(st.integers(0, count))
    sweeps = data.draw(st.sets(st.integers(0, count - 1), max_size=20))
    async with FACTORIES["redis"](LIMITS) as opened:
        users, refused = opened.store.users, set[str]()

        async def is_accepted(commit: Commit) -> bool:
            try:
                await users.commit("alice", commit)
            except Problem as problem:
                assert problem.code == "too_many_dismissals"
                return False
            return True

        is_created = False
        for number, name in enumerate(names):
            if number == early:
                # Refused as well, if intervals and ids together have dismissed the item on too many devices before.
                creation = creating("a", created=NOW, for_device="*", body={"text": "hello"})
                is_created = await is_accepted(creation)
            dismissal = (
                sweeping(interval("news"), sender=Sender(name))
                if number in sweeps
                else dismissing("a", sender=Sender(name))
            )
            if not await is_accepted(dismissal):
                refused.add(name)
        if is_created:
            for view in (BACKEND, View("fresh"), View(names[0]), *map(View, sorted(refused))):
                items = (await users.state("alice", view, NOW_US)).items
                history = await users.history("alice", view, None, 10, NOW_US)
                texts = [entry.json for entry in items] + [entry.json for entry in history]
                assert all(document_of(json)["body"] == {"text": "hello"} for json in texts)
                assert len(items) == (view.device in ("", "fresh", *refused))
