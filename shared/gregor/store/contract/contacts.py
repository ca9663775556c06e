"""What a store promises of how a user may be reached; a part of ``contract.Store``. Values: ``core.contact``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gregor.core.notify.contact import Contact, Preferences


class Contacts(Protocol):
    """Contact and preferences of users: until they are deleted, or the user is forgotten."""

    async def contact(self, uid: str) -> Contact:
        """``NO_CONTACT`` where none is kept."""
        ...

    async def put_contact(self, uid: str, contact: Contact) -> None:
        """Replace it; ``NO_CONTACT`` deletes it."""
        ...

    async def change_contact(self, uid: str, change: Callable[[Contact], Contact]) -> Contact:
        """Put ``change`` of what is kept in its place, and return it; no other change comes between. ``change`` may be
        called again, and may raise: then nothing is changed."""
        ...

    async def preferences(self, uid: str) -> Preferences:
        """``NO_PREFERENCES`` where none are kept."""
        ...

    async def put_preferences(self, uid: str, preferences: Preferences) -> None:
        """Replace them."""
        ...

    async def change_preferences(self, uid: str, change: Callable[[Preferences], Preferences]) -> Preferences:
        """As ``change_contact``."""
        ...

    async def end_mails(self, uid: str, categories: Sequence[str]) -> None:
        """The user wants no mail of these categories (or of any, ``*``); what else is preferred stays. Repeatable."""
        ...
