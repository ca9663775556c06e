"""A user with a phone, and the delivery of one channel over the memory store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gregor.clock import ManualClock
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryRecord, DeliveryState
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor_delivery.attempt import DeliveryContext
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Sent, Verdict
from gregor_delivery.decide.decision import ClaimFirst, Decider, SendDecision
from gregor_delivery.worker import RECLAIM_AFTER_OUTAGE_S, Worker
from tests.support.builders import BY_BACKEND, LIMITS, NOW_US, SEED, item, message
from tests.support.wait import wait_until
from tests.unit.delivery.sample_categories import TOKEN


class NullPublisher:
    """Discards the announcements of the store."""

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Discard an announcement."""


@dataclass
class FakeChannel:
    """A channel that returns scripted verdicts, and `Sent` after the end of the script."""

    name: str = "apns"
    verdicts: list[Verdict] = field(default_factory=list)
    pushes: list[PushMessage] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def open(self) -> None:
        """Do nothing."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Record the push and return the next verdict."""
        self.pushes.append(message)
        if self.hold is not None:
            await self.hold.wait()
        return self.verdicts.pop(0) if self.verdicts else Sent("200", "id-1")

    async def close(self) -> None:
        """Do nothing."""

    async def check(self) -> str | None:
        """Return None."""
        return None


@dataclass
class StallingDecider:
    """Stalls the process after each decision, as if it were stopped, swapped out, or moved to another machine."""

    decider: Decider
    clock: ManualClock
    for_s: float

    async def decide(self, intent: Intent, now_us: int) -> SendDecision | ClaimFirst:
        """Return the decision of the wrapped decider after the stall."""
        decision = await self.decider.decide(intent, now_us)
        self.clock.advance(self.for_s)
        return decision


@dataclass
class DeliveryHarness:
    """A user with a phone, items, and the delivery of one channel."""

    store: MemoryStore
    clock: ManualClock
    provider: FakeChannel
    context: DeliveryContext
    registry: CategoryRegistry

    async def create(self, item_id: str, seq_of: str = "phone", uid: str = "alice", **fields: Any) -> Intent:
        """Create an item, and plan a push to the phone as the scheduler does."""
        document = message({item_id: item(**{"body": {"title": f"about {item_id}"}, **fields})})
        commit = plan(parse_message(document, LIMITS), BY_BACKEND, NOW_US, SEED, LIMITS, self.registry.current)
        receipt = await self.store.users.commit(uid, commit)
        intent = Intent(uid, item_id, IntentKind.ITEM, "apns", seq_of, 0, receipt.seq, self.clock.now_us())
        await self.store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
        return intent

    async def create_for(self, uid: str) -> Intent:
        """Create an item of another user with a phone, and plan a push to it."""
        token = {**TOKEN, "token": uid}
        await self.store.devices.put_device(uid, "phone", Registration("ios", token, "it"), NOW_US)
        return await self.create("a", uid=uid)

    async def dismiss(self, *ids: str) -> None:
        """Dismiss items as the backend."""
        commit = plan(parse_message(message(ids=ids), LIMITS), BY_BACKEND, NOW_US, SEED, LIMITS)
        await self.store.users.commit("alice", commit)

    async def entry(self, item_id: str) -> DeliveryRecord:
        """Return the only delivery of an item."""
        [found] = await self.store.ledger.of_item("alice", item_id)
        return found

    async def outcome(self, item_id: str) -> tuple[DeliveryState, str | None]:
        """Return the state of the item's delivery, and the reason."""
        found = await self.entry(item_id)
        return found.state, found.history.reason


async def reach_first_reclaim(worker: Worker, clock: ManualClock) -> None:
    """Let the time pass in which a worker that was just started reclaims nothing."""
    await wait_until(lambda: not worker._has_queue_returned, "the worker uses its queue")
    clock.advance(RECLAIM_AFTER_OUTAGE_S)
