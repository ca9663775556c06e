"""Users with devices and addresses, and items for them, written straight into the store: for load tests."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gregor.core.categories.policy import CategoryPolicies
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.notify.contact import Contact
from gregor.core.notify.intents import EMAIL, Intent, IntentKind
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Unavailable
from gregor.store.redis.store import RedisStore
from tests.support.wait import wait_until

Found = TypeVar("Found")
LIMITS = Limits()
CATEGORY = "told"
TYPES = {
    CATEGORY: {
        "title": "told {{ id }}.",
        "text": "{{ body.words }}",
        "push": {"after": "0s"},
        "email": {"after": "0s"},
    }
}
WORDS = "You shared files with Bob, and he has joined."
AT_ONCE = 200
MAX_OUTAGE_S = 120
"""Longest outage of the store."""
DEVICES = {"apns": "phone", "fcm": "tablet", "webpush": "browser", EMAIL: ""}


@dataclass(frozen=True, slots=True)
class LoadUser:
    """`channels`: those that the user is registered for."""

    uid: str
    channels: tuple[str, ...]

    def intents(self, item: str) -> list[Intent]:
        """Return the intents of an item, one per channel."""
        return [Intent(self.uid, item, IntentKind.ITEM, channel, DEVICES[channel]) for channel in self.channels]


async def apply_categories(store: RedisStore) -> CategoryPolicies:
    """Apply the categories, and return them for `creation`."""
    await store.categories.apply(TYPES, time.time_ns() // 1_000)
    registry = CategoryRegistry(store)
    await registry.refresh()
    return registry.current


async def register_users(store: RedisStore, users: Sequence[LoadUser], browsers: Sequence[dict[str, Any]]) -> None:
    """Register devices and contacts of all users. `browsers`: one subscription for each user of Web Push."""
    left = iter(browsers)

    async def one(user: LoadUser) -> None:
        now_us = time.time_ns() // 1_000
        for channel in user.channels:
            if channel == EMAIL:
                await store.contacts.put_contact(user.uid, Contact(email=f"{user.uid}@example.com"))
            else:
                token = next(left) if channel == "webpush" else f"{user.uid}-{channel}".encode().hex()
                push = {"provider": channel, "token": token}
                await store.devices.put_device(user.uid, DEVICES[channel], Registration(None, push, "en"), now_us)

    for start in range(0, len(users), AT_ONCE):
        await asyncio.gather(*map(one, users[start : start + AT_ONCE]))


def creation(items: Sequence[str], entries: CategoryPolicies, words: str = WORDS) -> Commit:
    """Return the commit that creates the items."""
    create = {item: {"category": CATEGORY, "body": {"words": words}} for item in items}
    return _commit({"create": create}, entries)


def dismissal(items: Sequence[str], entries: CategoryPolicies) -> Commit:
    """Return the commit that dismisses the items."""
    return _commit({"dismiss": {"ids": list(items)}}, entries)


def _commit(body: dict[str, Any], entries: CategoryPolicies) -> Commit:
    message = parse_message({"system": "gregor", "body": body}, LIMITS)
    return plan(message, Sender(), time.time_ns() // 1_000, random.randbytes(3), LIMITS, entries)


async def retry_while_unavailable(call: Callable[[], Awaitable[Found]]) -> Found:
    """Repeat a call while the store is unavailable, as a backend does."""

    async def found() -> tuple[Found] | None:
        try:
            return (await call(),)
        except Unavailable:
            return None

    answered: tuple[Found] = await wait_until(found, "the store answers", MAX_OUTAGE_S, step_s=0.2)
    return answered[0]
