"""Contact and preferences in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gregor.core.notify.contact import Contact, Preferences, without_email

from .data import MemoryData


class MemoryContacts:
    """``contacts.Contacts`` over dictionaries."""

    def __init__(self, shelf: MemoryData) -> None:
        self._shelf = shelf

    async def contact(self, uid: str) -> Contact:
        """As ``Contacts`` says."""
        return self._shelf.owner(uid).contact

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """As ``Contacts`` says."""
        self._shelf.owner(uid).contact = contact

    async def change_contact(self, uid: str, change: Callable[[Contact], Contact]) -> Contact:
        """As ``Contacts`` says."""
        owner = self._shelf.owner(uid)
        owner.contact = change(owner.contact)
        return owner.contact

    async def preferences(self, uid: str) -> Preferences:
        """As ``Contacts`` says."""
        return self._shelf.owner(uid).preferences

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """As ``Contacts`` says."""
        self._shelf.owner(uid).preferences = preferences

    async def change_preferences(self, uid: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """As ``Contacts`` says."""
        owner = self._shelf.owner(uid)
        owner.preferences = change(owner.preferences)
        return owner.preferences

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """As ``Contacts`` says."""
        owner = self._shelf.owner(uid)
        owner.preferences = without_email(owner.preferences, categories)
