"""Contact and preferences in Redis, as the JSON of the API: one hash a user; see ``contacts.Contacts``."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gregor.core.contact import (
    NO_CONTACT,
    NO_PREFERENCES,
    Contact,
    Preferences,
    contact_document,
    parse_contact,
    parse_preferences,
    preferences_document,
)

from .keys import Keys
from .link import Connection
from .replies import answer

_CONTACT: Final = "contact"
_PREFERENCES: Final = "preferences"


class RedisContacts:
    """``contacts.Contacts`` over one Redis-protocol server."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def contact(self, uid: str) -> Contact:
        """See ``contacts.Contacts.contact``."""
        document = await self._read(uid, _CONTACT)
        return NO_CONTACT if document is None else parse_contact(document)

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """See ``contacts.Contacts.put_contact``."""
        await self._write(uid, _CONTACT, contact_document(contact))

    async def preferences(self, uid: str) -> Preferences:
        """See ``contacts.Contacts.preferences``."""
        document = await self._read(uid, _PREFERENCES)
        return NO_PREFERENCES if document is None else parse_preferences(document)

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """See ``contacts.Contacts.put_preferences``."""
        await self._write(uid, _PREFERENCES, preferences_document(preferences))

    async def _read(self, uid: str, field: str) -> Any:
        raw = await answer(self._connection.call("HGET", self._keys.of_user(uid).contact, field))
        return None if raw is None else msgspec.json.decode(raw)

    async def _write(self, uid: str, field: str, document: Any) -> None:
        key = self._keys.of_user(uid).contact
        if document:
            await answer(self._connection.call("HSET", key, field, msgspec.json.encode(document)))
        else:
            await answer(self._connection.call("HDEL", key, field))
