"""Executable specification: never runs in production. Contacts and preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gregor.core.notify.contact import Contact, Preferences, preferences_document
from gregor.core.notify.unsubscribing import without_email

from .data import MemoryData


class MemoryContacts:
    """``contract.Contacts`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def contact(self, uid: str) -> Contact:
        """See ``contract.Contacts.contact``."""
        return self._data.owner(uid).contact

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """See ``contract.Contacts.put_contact``."""
        self._data.owner(uid).contact = contact

    async def change_contact(self, uid: str, change: Callable[[Contact], Contact]) -> Contact:
        """See ``contract.Contacts.change_contact``."""
        owner = self._data.owner(uid)
        owner.contact = change(owner.contact)
        return owner.contact

    async def preferences(self, uid: str) -> Preferences:
        """See ``contract.Contacts.preferences``."""
        return self._data.owner(uid).preferences

    async def preferences_bytes(self, uid: str) -> int:
        """See ``contract.Contacts.preferences_bytes``."""
        document = preferences_document(self._data.owner(uid).preferences)
        return len(msgspec.json.encode(document)) if document else 0

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """See ``contract.Contacts.put_preferences``."""
        self._data.owner(uid).preferences = preferences

    async def change_preferences(self, uid: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """See ``contract.Contacts.change_preferences``."""
        owner = self._data.owner(uid)
        owner.preferences = change(owner.preferences)
        return owner.preferences

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """See ``contract.Contacts.end_mails``."""
        owner = self._data.owner(uid)
        owner.preferences = without_email(owner.preferences, categories)
