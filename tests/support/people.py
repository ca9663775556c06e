"""Many users with a device of each provider and an address, and items to tell them of, put straight into the store."""

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
AWAY_S = 120
"""So long the store may be away at most."""
DEVICES = {"apns": "phone", "fcm": "tablet", "webpush": "browser", EMAIL: ""}


@dataclass(frozen=True, slots=True)
class Person:
    """`channels`: those that reach this user."""

    uid: str
    channels: tuple[str, ...]

    def intents(self, item: str) -> list[Intent]:
        """What an item is to be told by."""
        return [Intent(self.uid, item, IntentKind.ITEM, channel, DEVICES[channel]) for channel in self.channels]


async def apply_types(store: RedisStore) -> CategoryPolicies:
    """Make the types hold; what a process that follows them needs to make commits."""
    await store.categories.apply(TYPES, time.time_ns() // 1_000)
    registry = CategoryRegistry(store)
    await registry.refresh()
    return registry.current


async def settle_in(store: RedisStore, people: Sequence[Person], browsers: Sequence[dict[str, Any]]) -> None:
    """Register the devices and contacts of all. `browsers`: a subscription for each person who has Web Push."""
    left = iter(browsers)

    async def one(person: Person) -> None:
        now_us = time.time_ns() // 1_000
        for channel in person.channels:
            if channel == EMAIL:
                await store.contacts.put_contact(person.uid, Contact(email=f"{person.uid}@example.com"))
            else:
                token = next(left) if channel == "webpush" else f"{person.uid}-{channel}".encode().hex()
                push = {"provider": channel, "token": token}
                await store.devices.put_device(person.uid, DEVICES[channel], Registration(None, push, "en"), now_us)

    for start in range(0, len(people), AT_ONCE):
        await asyncio.gather(*map(one, people[start : start + AT_ONCE]))


def creation(items: Sequence[str], entries: CategoryPolicies, words: str = WORDS) -> Commit:
    """The commit that creates these."""
    create = {item: {"category": CATEGORY, "body": {"words": words}} for item in items}
    return _commit({"create": create}, entries)


def dismissal(items: Sequence[str], entries: CategoryPolicies) -> Commit:
    """The commit that dismisses these."""
    return _commit({"dismiss": {"ids": list(items)}}, entries)


def _commit(body: dict[str, Any], entries: CategoryPolicies) -> Commit:
    message = parse_message({"system": "gregor", "body": body}, LIMITS)
    return plan(message, Sender(), time.time_ns() // 1_000, random.randbytes(3), LIMITS, entries)


async def insist(call: Callable[[], Awaitable[Found]]) -> Found:
    """What a backend does while the store is away: the same again."""

    async def found() -> tuple[Found] | None:
        try:
            return (await call(),)
        except Unavailable:
            return None

    answered: tuple[Found] = await wait_until(found, "the store answers", AWAY_S, step_s=0.2)
    return answered[0]
