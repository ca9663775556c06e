"""A user, a scheduler and the delivery of mail over the memory store; due work runs when a test advances time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from gregor.auth.unsubscribe_links import UnsubscribeLinks
from gregor.core.messages.model import Receipt, Sender
from gregor.core.notify.contact import parse_contact, parse_preferences
from gregor.core.notify.intents import EMAIL, Intent
from gregor.core.notify.ledger import DeliveryRecord
from gregor.core.notify.unsubscribe_token import derive_key
from gregor.store.contract.devices import DeviceSession, Registration
from gregor_delivery.attempt import DeliveryContext, attempt
from gregor_delivery.channels.contract import MailMessage
from gregor_delivery.channels.verdict import Sent, Verdict
from gregor_delivery.decide.mail import MailDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from tests.support.builders import NOW_US, SECOND_US, item, message
from tests.unit.scheduler import conftest as scheduler

ADDRESS = "alice@example.com"
KEY = derive_key("a secret of the tests")
LINKS = UnsubscribeLinks("https://gregor.example/", KEY)


@dataclass
class FakeMailChannel:
    """A mail channel that returns scripted verdicts, and `Sent` after the end of the script.

    `judge`: returns the verdict on a mail; `None` to accept it.
    """

    name: str = EMAIL
    verdicts: list[Verdict] = field(default_factory=list)
    mails: list[MailMessage] = field(default_factory=list)
    hold: asyncio.Event | None = None
    judge: Callable[[MailMessage], Verdict | None] | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def send(self, message: MailMessage, deadline_s: float) -> Verdict:
        """Record the mail and return the next verdict."""
        self.mails.append(message)
        if self.hold is not None:
            await self.hold.wait()
        if self.judge is not None and (verdict := self.judge(message)) is not None:
            return verdict
        return self.verdicts.pop(0) if self.verdicts else Sent("250", f"q{len(self.mails)}")

    async def close(self) -> None:
        """Do nothing."""

    async def check(self) -> str | None:
        """Return None."""
        return None


class DeliveryHarness:
    """Alice, with an address and a desktop device. `queue`: mail intents with the time of their next attempt (µs)."""

    def __init__(self, due: scheduler.SchedulerHarness) -> None:
        self.store, self.clock, self.registry = due.store, due.clock, due.categories
        self.relay = FakeMailChannel()
        self.queue: list[tuple[int, Intent]] = []
        self.due = due
        decider = MailDecider(self.store, self.registry, LINKS, "gregor.example", clock=self.clock)
        metrics = DeliveryMetrics(CollectorRegistry())
        self.context = DeliveryContext(EMAIL, self.relay, self.store, decider, self.clock, metrics, Breaker())

    async def create(self, *ids: str, **fields: Any) -> Receipt:
        """Create items that differ only in their title."""
        made = {each: item(**{"category": "news", "body": {"title": f"about {each}"}, **fields}) for each in ids}
        return await self.due.submit(message(made))

    async def dismiss(self, *ids: str, device: str = "") -> None:
        """Dismiss items as the backend, or as a device."""
        await self.due.submit(message(ids=ids), Sender(device))

    async def connect(self, *, foreground: bool) -> DeviceSession:
        """Open a session of the desktop device."""
        now_us = self.clock.now_us()
        session = DeviceSession("s", f"c{now_us}", "g", now_us, foreground)
        await self.store.devices.open_session("alice", "desk", session, now_us, 86_400 * SECOND_US)
        return session

    async def leave(self, session: DeviceSession) -> None:
        """Close a session of the desktop device."""
        await self.store.devices.close_session("alice", "desk", session, self.clock.now_us())

    async def contact(self, **fields: Any) -> None:
        """Set alice's contact."""
        await self.store.contacts.put_contact("alice", parse_contact({"email": ADDRESS, **fields}))

    async def prefer(self, document: Any) -> None:
        """Set alice's preferences."""
        await self.store.contacts.put_preferences("alice", parse_preferences(document))

    async def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        """Advance the clock in steps; scheduler and delivery run after each."""
        left_s = seconds
        while left_s > 0:
            self.clock.advance(min(step_s, left_s))
            left_s -= step_s
            await self.due.due_loop.run_due()
            await self.deliver()

    async def deliver(self) -> None:
        """Attempt the due mails."""
        now_us = self.clock.now_us()
        self.queue += [(now_us, intent) for intent in self.handed()]
        due = [intent for at_us, intent in self.queue if at_us <= now_us]
        self.queue = [(at_us, intent) for at_us, intent in self.queue if at_us > now_us]
        for intent in due:
            again_us = await attempt(self.context, intent)
            if again_us is not None:
                self.queue.append((again_us, intent))

    def handed(self) -> list[Intent]:
        """Return the mail intents that were enqueued since the last call."""
        intents = [intent for intent in self.due.queue.intents if intent.channel == EMAIL]
        self.due.queue.intents.clear()
        return intents

    @property
    def subjects(self) -> list[str]:
        """Subjects of all mails, in order."""
        return [mail.subject for mail in self.relay.mails]

    async def entries(self, item_id: str) -> list[DeliveryRecord]:
        """Return the mail deliveries of an item."""
        return [each for each in await self.store.ledger.of_item("alice", item_id) if each.intent.channel == EMAIL]

    async def outcome(self, item_id: str) -> tuple[str, str | None]:
        """Return the state of the item's only mail, and the reason."""
        [found] = await self.entries(item_id)
        return found.state.wire_name, found.history.reason


NEWS = {"title": "{{ body.title }}", "text": "read it", "email": {"after": "60s"}}


async def build(entries: Mapping[str, Any] | None = None) -> DeliveryHarness:
    """Return a harness with these categories; by default `news` is mailed after a minute."""
    harness = DeliveryHarness(await scheduler.build(entries or {"news": NEWS}))
    await harness.store.devices.put_device("alice", "desk", Registration(), NOW_US)
    await harness.contact()
    return harness
