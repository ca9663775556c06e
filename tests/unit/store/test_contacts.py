"""The stored preferences of a user."""

from __future__ import annotations

import re

import msgspec

from gregor.core.notify.contact import MAX_PREFERENCES, Preferences
from gregor.store.redis.contacts import RedisContacts, decode_preferences
from tests.support.python_calls import calls_of
from tests.unit.store.redis_setup import RedisSetup, count_calls


def test_stored_preferences_are_not_parsed_again() -> None:
    """Each read of 1,000 preferences, and each push decision, took 10 ms."""
    stored = msgspec.json.encode({f"c{n}": {"push": True, "email": False} for n in range(MAX_PREFERENCES)})

    assert calls_of(lambda: decode_preferences(stored)) < 20


async def test_change_that_changes_nothing_writes_nothing(real_setup: RedisSetup) -> None:
    """The write of 159 KB went to each replica and to the append-only file, for each POST of an unsubscribe link."""
    contacts = RedisContacts(real_setup.connection, real_setup.keys)
    await contacts.end_mails("alice", ["user"])

    again = await count_calls(real_setup, contacts.end_mails("alice", ["user"]))
    nothing = await count_calls(real_setup, contacts.end_mails("bob", []))
    assert again == nothing == {"hget": 1}


async def test_change_sends_the_document_once(real_setup: RedisSetup) -> None:
    async def received() -> int:
        found = re.search(r"total_net_input_bytes:(\d+)", (await real_setup.connection.call("INFO", "stats")).decode())
        assert found is not None
        return int(found[1])

    contacts = RedisContacts(real_setup.connection, real_setup.keys)
    full = {f"c{n}.{'x' * 120}": {"push": True, "email": True} for n in range(MAX_PREFERENCES)}
    await contacts.put_preferences("alice", Preferences(full))
    await contacts.end_mails("alice", ["*"])  # loads the script
    length = await contacts.preferences_bytes("alice")

    before = await received()
    await contacts.change_preferences("alice", lambda _: Preferences(full))
    assert 0.9 * length < await received() - before < 1.5 * length
