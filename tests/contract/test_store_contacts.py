"""Contacts and preferences, in every store."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from gregor.core.errors import Problem
from gregor.core.notify.contact import (
    MAX_PREFERENCES,
    NO_CONTACT,
    NO_PREFERENCES,
    Contact,
    Preferences,
    contact_document,
    count_preferences,
    is_channel_allowed,
    parse_contact,
    parse_preferences,
    preferences_document,
)
from gregor.store.contract.store import Store
from tests.support.builders import NOW_US

CONTACT = parse_contact(
    {
        "email": "alice@example.com",
        "locale": "it-IT",
        "timezone": "Europe/Rome",
        "quiet_hours": {"from": "22:00", "to": "07:30"},
    }
)
OFF = {"email": False}
PREFERENCES = parse_preferences({"user": {"push": True, "email": False}, "*": {"push": False}})


async def test_contact_and_preferences_round_trip(store: Store) -> None:
    await store.contacts.put_contact("alice", CONTACT)
    await store.contacts.put_preferences("alice", PREFERENCES)

    assert await store.contacts.contact("alice") == CONTACT
    assert await store.contacts.preferences("alice") == PREFERENCES
    assert (await store.contacts.contact("bob"), await store.contacts.preferences("bob")) == (
        NO_CONTACT,
        NO_PREFERENCES,
    )


async def test_no_contact_deletes_only_the_contact(store: Store) -> None:
    await store.contacts.put_contact("alice", CONTACT)
    await store.contacts.put_preferences("alice", PREFERENCES)
    await store.contacts.put_contact("alice", NO_CONTACT)

    assert await store.contacts.contact("alice") == NO_CONTACT
    assert await store.contacts.preferences("alice") == PREFERENCES


async def test_contact_is_deleted_with_the_user(store: Store) -> None:
    await store.contacts.put_contact("alice", CONTACT)
    await store.contacts.put_preferences("alice", PREFERENCES)
    await store.users.delete_user("alice", NOW_US)

    assert await store.contacts.contact("alice") == NO_CONTACT
    assert await store.contacts.preferences("alice") == NO_PREFERENCES


async def test_end_mails_keeps_other_preferences(store: Store) -> None:
    await store.contacts.put_preferences("alice", parse_preferences({"user": {"push": True, "email": True}}))

    await store.contacts.end_mails("alice", ["user", "bill.due"])
    await store.contacts.end_mails("alice", ["user", "bill.due"])
    await store.contacts.end_mails("bob", ["*"])

    assert preferences_document(await store.contacts.preferences("alice")) == {
        "user": {"push": True, "email": False},
        "bill.due": {"email": False},
    }
    assert preferences_document(await store.contacts.preferences("bob")) == {"*": {"email": False}}


async def test_concurrent_end_mails_all_apply(store: Store) -> None:
    full = {f"c{n}": {"push": True} for n in range(MAX_PREFERENCES - 5)}
    await store.contacts.put_preferences("alice", parse_preferences(full))

    await asyncio.gather(*(store.contacts.end_mails("alice", [f"d{n}"]) for n in range(5)))

    kept = await store.contacts.preferences("alice")
    assert preferences_document(kept) == full | {f"d{n}": {"email": False} for n in range(5)}


async def test_end_mails_never_exceed_the_preferences_of_a_user(store: Store) -> None:
    full = {f"c{n}": {"push": True} for n in range(MAX_PREFERENCES - 300)} | {f"d.{n}": OFF for n in range(299)}
    await store.contacts.put_preferences("alice", parse_preferences(full))
    await store.contacts.put_preferences("bob", parse_preferences({f"c{n}": OFF for n in range(MAX_PREFERENCES)}))

    await asyncio.gather(*(store.contacts.end_mails("alice", [f"d.new{n}"]) for n in range(5)))
    await store.contacts.end_mails("bob", ["new"])

    kept = await store.contacts.preferences("alice")
    assert kept.by_prefix["d"] == OFF and count_preferences(kept.by_prefix) <= MAX_PREFERENCES
    assert not any(is_channel_allowed(kept, name, "email") for name in ("d.0", "d.new0", "d.new4"))
    assert preferences_document(await store.contacts.preferences("bob")) == {"*": OFF}


async def test_concurrent_changes_all_apply(store: Store) -> None:
    def with_zone(kept: Contact) -> Contact:
        return replace(kept, timezone="Europe/Rome")

    def with_address(kept: Contact) -> Contact:
        return replace(kept, email="alice@example.com")

    def muting(name: str) -> Callable[[Preferences], Preferences]:
        return lambda kept: parse_preferences({**preferences_document(kept), name: {"push": False}})

    contacts = store.contacts
    await asyncio.gather(contacts.change_contact("alice", with_zone), contacts.change_contact("alice", with_address))
    await asyncio.gather(*(contacts.change_preferences("alice", muting(f"c{n}")) for n in range(4)))

    assert contact_document(await contacts.contact("alice")) == {
        "email": "alice@example.com",
        "timezone": "Europe/Rome",
    }
    assert sorted(preferences_document(await contacts.preferences("alice"))) == ["c0", "c1", "c2", "c3"]


async def test_refused_change_changes_nothing(store: Store) -> None:
    await store.contacts.put_contact("alice", CONTACT)

    with pytest.raises(Problem):
        await store.contacts.change_contact("alice", lambda _: parse_contact({"email": 7}))
    assert await store.contacts.contact("alice") == CONTACT
    assert await store.contacts.change_contact("alice", lambda _: NO_CONTACT) == NO_CONTACT
    assert await store.contacts.contact("alice") == NO_CONTACT
    assert await store.contacts.change_contact("alice", lambda _: NO_CONTACT) == NO_CONTACT


async def test_preferences_bytes_are_those_of_the_document(store: Store) -> None:
    assert await store.contacts.preferences_bytes("alice") == 0
    await store.contacts.put_preferences("alice", parse_preferences({"user": {"push": True}, "bill": OFF}))
    assert await store.contacts.preferences_bytes("alice") == len('{"user":{"push":true},"bill":{"email":false}}')
    await store.contacts.put_preferences("alice", NO_PREFERENCES)
    assert await store.contacts.preferences_bytes("alice") == 0


async def test_change_to_the_same_value_is_a_change(store: Store) -> None:
    await store.contacts.put_preferences("alice", PREFERENCES)

    assert await store.contacts.change_preferences("alice", lambda kept: kept) == PREFERENCES
    assert await store.contacts.change_preferences("alice", lambda _: NO_PREFERENCES) == NO_PREFERENCES
    assert await store.contacts.change_preferences("alice", lambda kept: kept) == NO_PREFERENCES
    assert await store.contacts.preferences("alice") == NO_PREFERENCES
