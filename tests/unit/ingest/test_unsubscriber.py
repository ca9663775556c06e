"""The pace of unsubscribe links: repeats cost little, and no objection is refused or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gregor.clock import ManualClock
from gregor.core.notify.contact import is_channel_allowed, parse_preferences
from gregor.reference.store.contacts import MemoryContacts
from gregor.reference.store.data import MemoryData
from gregor.store.contract.store import Unavailable
from gregor_ingest.routes.delivery.unsubscriber import Unsubscriber
from tests.support.builders import LIMITS, NOW_US


class CountingContacts(MemoryContacts):
    """Contacts that count the changes by links, and are unavailable for the first ``failures`` of them."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(MemoryData(LIMITS, None, "test"))
        self.failures = failures
        self.changes = 0

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """See ``contract.Contacts.end_mails``."""
        self.changes += 1
        await asyncio.sleep(0)
        if self.changes <= self.failures:
            raise Unavailable("no server")
        await super().end_mails(uid, categories)


async def test_concurrent_links_of_a_user_share_a_change() -> None:
    contacts = CountingContacts()
    unsubscriber = Unsubscriber(contacts, ManualClock(NOW_US))

    await asyncio.gather(*(unsubscriber.end_mails("alice", [f"c{n}"]) for n in range(50)))
    assert contacts.changes == 1
    kept = await contacts.preferences("alice")
    assert not [n for n in range(50) if is_channel_allowed(kept, f"c{n}", "email")]
    await asyncio.gather(*(unsubscriber.end_mails(uid, ["c"]) for uid in ("alice", "bob")))
    assert contacts.changes == 3


async def test_repeats_wait_if_the_preferences_are_long() -> None:
    """One connection with one link kept ingest busy: each POST reads all preferences of the user."""
    contacts, clock, loop = CountingContacts(), ManualClock(NOW_US), asyncio.get_running_loop()
    unsubscriber = Unsubscriber(contacts, clock)
    full = {f"c{n}.{'x' * 120}": {"push": True} for n in range(999)}
    await contacts.put_preferences("alice", parse_preferences(full))

    began_s = loop.time()
    await unsubscriber.end_mails("alice", ["d"])
    await asyncio.gather(*(unsubscriber.end_mails("alice", [name]) for name in ("d", "e", "d")))
    assert (loop.time() - began_s >= 0.3, contacts.changes) == (True, 2)
    assert not is_channel_allowed(await contacts.preferences("alice"), "e", "email")

    clock.advance(1)
    began_s = loop.time()
    await unsubscriber.end_mails("alice", ["d"])
    assert loop.time() - began_s < 0.3


async def test_failure_is_reported_to_all_and_ends_with_them() -> None:
    contacts = CountingContacts(failures=1)
    unsubscriber = Unsubscriber(contacts, ManualClock(NOW_US))

    failed = await asyncio.gather(*(unsubscriber.end_mails("alice", ["c"]) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in failed] == [Unavailable] * 3
    await unsubscriber.end_mails("alice", ["c"])
    assert not is_channel_allowed(await contacts.preferences("alice"), "c", "email")


async def test_request_that_ends_does_not_end_the_change() -> None:
    contacts = CountingContacts()
    unsubscriber = Unsubscriber(contacts, ManualClock(NOW_US))

    first, second = (asyncio.create_task(unsubscriber.end_mails("alice", [name])) for name in "ab")
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    kept = await contacts.preferences("alice")
    assert not [name for name in "ab" if is_channel_allowed(kept, name, "email")]
