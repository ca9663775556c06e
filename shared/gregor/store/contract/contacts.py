"""The part of the store contract about contact data and notification preferences. Values: `core.notify.contact`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gregor.core.notify.contact import Contact, Preferences


class Contacts(Protocol):
    """Contact and preferences of users. They are kept until they or the user are deleted."""

    async def contact(self, uid: str) -> Contact:
        """Return the contact, or ``NO_CONTACT``."""
        ...

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """Replace the contact; ``NO_CONTACT`` deletes it."""
        ...

    async def change_contact(self, uid: str, change: Callable[[Contact], Contact]) -> Contact:
        """Replace the contact by the result of ``change`` and return it, atomically.

        ``change`` may be called several times. If it raises, nothing is changed.
        """
        ...

    async def preferences(self, uid: str) -> Preferences:
        """Return the preferences, or ``NO_PREFERENCES``."""
        ...

    async def preferences_bytes(self, uid: str) -> int:
        """Return the length of the preferences as JSON, in constant time; 0 if there are none."""
        ...

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """Replace the preferences."""
        ...

    async def change_preferences(self, uid: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """Replace the preferences by the result of ``change``; see ``change_contact``."""
        ...

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """Unsubscribe the user from mails of these categories (``*``: all). Other preferences stay. Repeatable.

        If the preferences are full, mails of more categories end (``core.notify.unsubscribing``).
        """
        ...
