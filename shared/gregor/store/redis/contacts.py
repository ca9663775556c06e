"""Contact and preferences in Redis, as the JSON of the API: one hash for each user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from gregor.core.notify.contact import (
    NO_CONTACT,
    NO_PREFERENCES,
    Contact,
    Preferences,
    contact_document,
    parse_contact,
    preferences_document,
)
from gregor.core.notify.unsubscribing import without_email
from gregor.redis.commands import RedisCommands, Script
from gregor.store.contract.store import Contended
from gregor.store.documents import decode_document

from . import scripts
from .errors import result_of
from .keys import Keys

_ANY: Final = msgspec.json.Decoder()
# Preferences are stored as they were parsed: to parse 1,000 of them again would take 10 ms.
_BY_PREFIX: Final = msgspec.json.Decoder(Mapping[str, Mapping[str, bool]])
_CONTACT: Final = "contact"
_PREFERENCES: Final = "preferences"
_Value = TypeVar("_Value")
_MAX_ATTEMPTS: Final = 8
"""Attempts of an optimistic update before it fails as contended."""


class RedisContacts:
    """``Contacts`` over one Redis-protocol server."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._replace = scripts.load("users/replace_document")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._replace,)

    async def contact(self, uid: str) -> Contact:
        """See ``Contacts.contact``."""
        return decode_contact(await self._read(uid, _CONTACT))

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """See ``Contacts.put_contact``."""
        await self._write(uid, _CONTACT, contact_document(contact))

    async def change_contact(self, uid: str, change: Callable[[Contact], Contact]) -> Contact:
        """See ``Contacts.change_contact``."""
        return await self._change(uid, _CONTACT, decode_contact, change, contact_document)

    async def preferences(self, uid: str) -> Preferences:
        """See ``Contacts.preferences``."""
        return decode_preferences(await self._read(uid, _PREFERENCES))

    async def preferences_bytes(self, uid: str) -> int:
        """See ``Contacts.preferences_bytes``."""
        key = self._keys.of_user(uid).contact
        return int(await result_of(self._connection.call("HSTRLEN", key, _PREFERENCES)))

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """See ``Contacts.put_preferences``."""
        await self._write(uid, _PREFERENCES, preferences_document(preferences))

    async def change_preferences(self, uid: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """See ``Contacts.change_preferences``."""
        return await self._change(uid, _PREFERENCES, decode_preferences, change, preferences_document)

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """See ``Contacts.end_mails``."""
        await self.change_preferences(uid, lambda kept: without_email(kept, categories))

    async def _change(
        self,
        uid: str,
        field: str,
        decode: Callable[[bytes | None], _Value],
        change: Callable[[_Value], _Value],
        document_of: Callable[[_Value], Any],
    ) -> _Value:
        """Replace a value by compare-and-set, and retry if another process changed it.

        Empty documents are deleted. A document that stays the same is not written.
        """
        key = self._keys.of_user(uid).contact
        for _ in range(_MAX_ATTEMPTS):
            raw = await result_of(self._connection.call("HGET", key, field))
            changed = change(decode(raw))
            document = document_of(changed)
            wanted = msgspec.json.encode(document) if document else b""
            # A write of 160 KB goes to each replica and to the append-only file.
            if wanted == (raw or b""):
                return changed
            expected = b"" if raw is None else hashlib.sha1(raw, usedforsecurity=False).hexdigest()
            if await result_of(self._connection.evalsha(self._replace, (key,), (field, expected, wanted))):
                return changed
        raise Contended(f"the {field} of the user was changed concurrently {_MAX_ATTEMPTS} times in a row; try again")

    async def _read(self, uid: str, field: str) -> Any:
        return await result_of(self._connection.call("HGET", self._keys.of_user(uid).contact, field))

    async def _write(self, uid: str, field: str, document: Any) -> None:
        key = self._keys.of_user(uid).contact
        if document:
            await result_of(self._connection.call("HSET", key, field, msgspec.json.encode(document)))
        else:
            await result_of(self._connection.call("HDEL", key, field))


def decode_contact(raw: bytes | None) -> Contact:
    """Return the contact from its stored JSON, or ``NO_CONTACT``."""
    return NO_CONTACT if raw is None else parse_contact(decode_document(_ANY, raw, _CONTACT))


def decode_preferences(raw: bytes | None) -> Preferences:
    """Return the preferences from their stored JSON, or ``NO_PREFERENCES``."""
    return NO_PREFERENCES if raw is None else Preferences(decode_document(_BY_PREFIX, raw, _PREFERENCES))
