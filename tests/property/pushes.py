"""The world of the law of pushes: a user with three devices and an e-mail address, and checking providers.

Scheduler and delivery workers are the real ones, over a store in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry

from gregor.core.items.announcement import AnnouncementKind
from gregor.core.items.sync import StoredItem, View
from gregor.core.messages.model import Sender
from gregor.core.notify.contact import parse_contact
from gregor.core.notify.intents import EMAIL, Intent
from gregor.core.notify.ledger import DeliveryBudget, push_budget
from gregor.reference.store import MemoryQueueWriter
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Unavailable
from gregor_delivery.attempt import DeliveryContext, attempt
from gregor_delivery.channels.contract import MailMessage, PushMessage
from gregor_delivery.channels.verdict import Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.decision import ClaimFirst, SendDecision, SendNow
from gregor_delivery.decide.mail import MailDecider
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from tests.support.builders import BACKEND, NOW_US, SECOND_US, message
from tests.unit.delivery.mail_harness import LINKS
from tests.unit.scheduler import conftest as scheduler

UID: Final = "alice"
PUSHED: Final = {"phone": "apns", "tablet": "fcm"}
DEVICES: Final = (*PUSHED, "desk")
RECLAIM_US: Final = 5 * SECOND_US
ENTRIES: Final[dict[str, Any]] = {
    "news": {"title": "{{ id }}", "text": "-", "push": {"after": "10s"}, "email": {"after": "60s", "unless": "acked"}},
    "count": {"title": "{{ id }}", "text": "-", "push": {"after": "0s"}, "collapse": "all"},
}
VERDICTS: Final[dict[str, Verdict]] = {
    "sent": Sent("200"),
    "retry": Retry(None, "503", "later"),
    "refused": Refused("400", "never"),
    "unknown": Unknown("no answer"),
    "late": Sent("200"),
    "late answer": Sent("200"),
}
LATE_US: Final = 5 * SECOND_US
"""How long a provider takes to process a push ("late"), or to answer when it has processed the push ("late answer")."""
Meanwhile = Callable[[], Awaitable[None]]


class Killed(BaseException):
    """The process of a delivery worker was killed."""


@dataclass
class Watchful:
    """A provider that checks the law at each request, and then responds as configured."""

    name: str
    world: World

    async def open(self) -> None:
        """Do nothing."""

    async def send(self, said: PushMessage | MailMessage, deadline_s: float) -> Verdict:
        """Deliver or not, and return the verdict, or kill the caller."""
        world = self.world
        await (world.check_mail(said) if isinstance(said, MailMessage) else world.check_push(said, self.name))
        arrives, answer = world.answers.popleft() if world.answers else (True, "sent")
        if world.in_flight:
            await world.in_flight.popleft()()
        if answer == "late":
            await world.wait()
        if arrives and isinstance(said, PushMessage):
            world.arrive(said)
        if answer == "killed":
            raise Killed
        if answer == "refused" and isinstance(said, PushMessage) and said.kind == "background":
            world.given_up[said.device] |= set(said.data["withdraw"])
        if answer == "late answer":
            await world.wait()
        return VERDICTS[answer]

    async def close(self) -> None:
        """Do nothing."""

    async def check(self) -> str | None:
        """Return that it is healthy."""
        return None


@dataclass
class InterruptedDecider:
    """A decider with an event between its decision and the claim of the delivery."""

    decider: PushDecider | MailDecider
    world: World

    async def decide(self, intent: Intent, now_us: int) -> SendDecision | ClaimFirst:
        """Return the other decider's decision."""
        decision = await self.decider.decide(intent, now_us)
        if isinstance(decision, SendNow | ClaimFirst) and self.world.after_decision:
            self.world.raced.add(intent.item)
            await self.world.after_decision.popleft()()
        return decision


class Streams(MemoryQueueWriter):
    """The queue writer of the scheduler, which can be unavailable."""

    is_away = False

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[Intent] = []

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """Enqueue; if it is unavailable, half of the intents may have been written before."""
        if self.is_away:
            await super().enqueue(intents[::2], at_us)
            raise Unavailable("the streams are away")
        return await super().enqueue(intents, at_us)

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """Remove intents that wait, also those that the delivery service has taken before."""
        await super().remove_waiting(intents)
        self.removed += intents


@dataclass
class World:
    """One user, its devices and its screens.

    ``queue``: postponed intents and their times. ``screens``: device to collapse id to the item shown there.
    ``cleared``: ids that each device dismissed itself. ``given_up``: withdrawals that the provider refused for good
    (delivery.md). ``raced``: items with an event between a decision and its claim: a push for them may be wrong for a
    moment. ``in_flight`` and ``after_decision``: the events at these points. ``late``: the attempts whose provider is
    late, and when it continues.
    """

    due: scheduler.SchedulerHarness
    streams: Streams
    budget: DeliveryBudget | None = None
    queue: list[tuple[int, Intent]] = field(default_factory=list)
    answers: deque[tuple[bool, str]] = field(default_factory=deque)
    in_flight: deque[Meanwhile] = field(default_factory=deque)
    after_decision: deque[Meanwhile] = field(default_factory=deque)
    screens: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    cleared: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    given_up: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    raced: set[str] = field(default_factory=set)
    reminded: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    late: list[tuple[int, asyncio.Event, asyncio.Task[None]]] = field(default_factory=list)
    _is_waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        store, registry, metrics = self.due.store, self.due.categories, DeliveryMetrics(CollectorRegistry())
        clock = self.due.clock
        deciders = {EMAIL: MailDecider(store, registry, LINKS, "gregor.example", clock=clock)}
        self.contexts = {
            channel: DeliveryContext(
                channel,
                Watchful(channel, self),
                store,
                InterruptedDecider(
                    deciders.get(channel) or PushDecider(store, registry, None, self.budget, clock), self
                ),
                clock,
                metrics,
                Breaker(None),
            )
            for channel in (*PUSHED.values(), EMAIL)
        }

    @property
    def now_us(self) -> int:
        """The clock of all processes."""
        return self.due.clock.now_us()

    # ---- what people do

    async def create(self, item_id: str, fields: dict[str, Any]) -> None:
        await self.due.submit(message({item_id: fields}))

    async def dismiss(self, sender: str, item_id: str | None = None) -> None:
        """Dismiss one item, or all of them."""
        known = {each.id for each in (await self.view(sender)).values()}
        ids = sorted(known) if item_id is None else [item_id]
        self.cleared[sender] |= known.intersection(ids)
        for shown in self.cleared[sender] & set(self.screens[sender].values()):
            self._clear(sender, [shown])
        if ids:
            await self.due.submit(message(ids=ids), Sender(sender))

    async def show(self, device: str) -> None:
        """Let a device show its user everything."""
        head = (await self.due.store.users.heads([UID]))[0]
        if head is not None:
            await self.due.store.devices.acknowledge(UID, View(device), head.seq, self.now_us)

    async def come(self, device: str, *, foreground: bool) -> None:
        """Connect a device, move it to or from the foreground, or disconnect it."""
        session = DeviceSession("s", f"c-{device}", "g", self.now_us, foreground)
        await self.due.store.devices.open_session(UID, device, session, self.now_us, 60 * SECOND_US)

    # ---- time

    async def settle(self) -> None:
        """Do all due work."""
        await self._continue_late()
        await self.due.due_loop.run_due()
        while True:
            await self._take_over()
            due = [each for each in self.queue if each[0] <= self.now_us]
            if not due:
                return
            self.queue = [each for each in self.queue if each[0] > self.now_us]
            for _, intent in due:
                await self._begin(intent)

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock from one due time to the next."""
        until_us = self.now_us + round(seconds * SECOND_US)
        await self.settle()
        while (next_us := await self._next_us()) < until_us:
            self.due.clock.advance(max(next_us - self.now_us, SECOND_US // 10) / SECOND_US)
            await self.settle()
        self.due.clock.advance(max(0, until_us - self.now_us) / SECOND_US)
        await self.settle()

    async def lose(self) -> None:
        """Enqueue due work, and then lose the queue."""
        await self.due.due_loop.run_due()
        await self._take_over()
        self.queue.clear()

    async def _next_us(self) -> int:
        firsts = [at_us for at_us in (await self.due.store.agenda.next_due_times()).values() if at_us is not None]
        late = (at_us for at_us, _, _ in self.late)
        return min([*firsts, *late, *(at_us for at_us, _ in self.queue)], default=1 << 60)

    async def _take_over(self) -> None:
        """Move the enqueued intents into the queue."""
        handed = self.streams
        # A removal finds only what waits, as in Redis.
        self.queue = [each for each in self.queue if each[0] <= self.now_us or each[1] not in handed.removed]
        handed.removed.clear()
        self.queue += [(handed.delayed.get(intent, self.now_us), intent) for intent in handed.intents]
        handed.intents.clear()
        handed.delayed.clear()

    async def wait(self) -> None:
        """Let the provider of the current attempt be late."""
        continues = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        self.late.append((self.now_us + LATE_US, continues, task))
        self._is_waiting.set()
        await continues.wait()

    async def _begin(self, intent: Intent) -> None:
        """Attempt a delivery until it ends, or until its provider is late."""
        self._is_waiting.clear()
        attempting = asyncio.create_task(self._bring_forward(intent))
        waiting = asyncio.create_task(self._is_waiting.wait())
        await asyncio.wait((attempting, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if attempting.done():
            attempting.result()

    async def _continue_late(self) -> None:
        """End the attempts whose provider answers now."""
        due = [each for each in self.late if each[0] <= self.now_us]
        self.late = [each for each in self.late if each[0] > self.now_us]
        for _, continues, attempting in due:
            continues.set()
            await attempting

    async def _bring_forward(self, intent: Intent) -> None:
        trade = self.contexts[intent.channel]
        try:
            again_us = await attempt(trade, intent)
        except Killed:
            again_us = self.now_us + round(trade.claim_lease_s * SECOND_US) + RECLAIM_US  # others find it idle
        if again_us is not None:
            self.queue.append((again_us, intent))

    # ---- what providers see, and what screens show

    async def check_push(self, push: PushMessage, channel: str) -> None:
        """Check that a push shows only live, unacknowledged items, and that a withdrawal removes no live item."""
        assert PUSHED[push.device] == channel
        live, item_id = await self.view(push.device), push.data["id"]
        assert not [each for each in push.data["withdraw"] if each in live], f"{push.data} withdraws what is live"
        assert push.badge == len(live) or self.raced
        if push.kind == "background" or item_id in self.raced:
            return
        assert item_id in live, f"{item_id} is pushed to {push.device}, and it is gone"
        assert not await self._is_shown(live[item_id], {push.device}, push.data["kind"] == "remind"), "it was shown"
        _, presence = (await self.due.store.devices.list_devices(UID, self.now_us))[push.device]
        assert not presence.foreground, "somebody looks"

    async def check_mail(self, mail: MailMessage) -> None:
        """Check that an e-mail has only live items that no device has shown or dismissed."""
        live = await self.view("")
        for item_id in set(re.findall(r"\bi\d+\b", f"{mail.subject} {mail.text}")) - self.raced:
            assert item_id in live, f"{item_id} is mailed, and it is gone"
            assert not await self._is_shown(live[item_id], set(DEVICES), True), "it was shown"
            assert not any(item_id in cleared for cleared in self.cleared.values())

    async def _is_shown(self, item: StoredItem, devices: set[str], also_reminders: bool) -> bool:
        """Return whether one of these devices has shown the item up to its last cause."""
        self._hear()
        acks = await self.due.store.devices.acknowledged(UID)
        causes = [item.seq, *(self.reminded[item.id] if also_reminders else ())]
        held = [
            acked for view, acked in acks.items() if view.device in devices and item.id in await self.view(view.device)
        ]
        return all(any(acked >= seq for acked in held) for seq in causes)

    def _hear(self) -> None:
        for announcement in self.due.announcements():
            if announcement.kind is AnnouncementKind.REMIND:
                self.reminded[announcement.entries[0].id].append(announcement.seq)

    def arrive(self, push: PushMessage) -> None:
        """Update the screen of a device by an arriving push."""
        self._clear(push.device, push.data["withdraw"])
        if push.kind == "alert":
            self.screens[push.device][push.collapse_id] = push.data["id"]

    def _clear(self, device: str, ids: list[str]) -> None:
        left = {place: shown for place, shown in self.screens[device].items() if shown not in ids}
        self.screens[device] = left

    async def view(self, device: str) -> dict[str, StoredItem]:
        """Return the live items of a view."""
        copy = await self.due.store.users.state(UID, View(device) if device else BACKEND, self.now_us)
        return {item.id: item for item in copy.items}


async def build(pushes_per_hour: int | None = None) -> World:
    """Return a world without connections and items."""
    streams = Streams()
    house = await scheduler.build(ENTRIES, queue=streams)
    for device in DEVICES:
        push = {"provider": PUSHED[device], "token": device} if device in PUSHED else None
        await house.store.devices.put_device(UID, device, Registration(push=push), NOW_US)
    await house.store.contacts.put_contact(UID, parse_contact({"email": "alice@example.com"}))
    return World(house, streams, None if pushes_per_hour is None else push_budget(pushes_per_hour))
