"""Contact and preferences in Redis, as the JSON of the API: one hash a user; see ``contacts.Contacts``."""

from __future__ import annotations

from collections.abc import Sequence
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
    without_mail,
)

from . import scripts
from .contract import Unavailable
from .keys import Keys
from .link import Connection, Script
from .replies import answer

_CONTACT: Final = "contact"
_PREFERENCES: Final = "preferences"
_TRIES: Final = 8
"""How often a change starts anew because another came between."""


class RedisContacts:
    """``contacts.Contacts`` over one Redis-protocol server."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._replace = scripts.load("replace_field")

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """Every script, for a process that loads them before it serves."""
        return (self._replace,)

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
        return _preferences_of(document)

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """See ``contacts.Contacts.put_preferences``."""
        await self._write(uid, _PREFERENCES, preferences_document(preferences))

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """See ``contacts.Contacts.end_mails``."""
        key = self._keys.of_user(uid).contact
        for _ in range(_TRIES):
            raw = await answer(self._connection.call("HGET", key, _PREFERENCES))
            ended = without_mail(_preferences_of(None if raw is None else msgspec.json.decode(raw)), categories)
            wanted = msgspec.json.encode(preferences_document(ended))
            if raw is None:
                is_done = await answer(self._connection.call("HSETNX", key, _PREFERENCES, wanted))
            else:
                is_done = await answer(self._connection.evalsha(self._replace, (key,), (_PREFERENCES, raw, wanted)))
            if is_done:
                return
        raise Unavailable("the preferences are being changed by others again and again")

    async def _read(self, uid: str, field: str) -> Any:
        raw = await answer(self._connection.call("HGET", self._keys.of_user(uid).contact, field))
        return None if raw is None else msgspec.json.decode(raw)

    async def _write(self, uid: str, field: str, document: Any) -> None:
        key = self._keys.of_user(uid).contact
        if document:
            await answer(self._connection.call("HSET", key, field, msgspec.json.encode(document)))
        else:
            await answer(self._connection.call("HDEL", key, field))


def _preferences_of(document: Any) -> Preferences:
    return NO_PREFERENCES if document is None else parse_preferences(document, most=None)
