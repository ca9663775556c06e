"""The push budget of a user: no window has more pushes than it allows, and no delivery is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from gregor.clock import ManualClock
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryState, push_budget
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor_delivery.attempt import FOLDED, DeliveryContext, attempt
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import Breaker
from tests.support.builders import LIMITS, NOW_US, SECOND_US
from tests.unit.delivery.harness import DeliveryHarness, NullPublisher
from tests.unit.delivery.sample_categories import ENTRIES, TOKEN

PER_HOUR = 4
DEVICES = ("phone", "tablet")
ANSWERS: dict[str, Verdict] = {
    "sent": Sent("200"),
    "retry": Retry(None, "503", "later"),
    "refused": Refused("400", "bad"),
    "unknown": Unknown("no answer"),
    "misconfigured": Misconfigured("403", "key"),
}
COUNTED = (Sent, Unknown, Refused)


@dataclass
class AnsweringChannel:
    """A provider that answers as it was told, and records what it processed, with the time (µs)."""

    clock: ManualClock
    name: str = "apns"
    answers: list[Verdict] = field(default_factory=list)
    processed: list[tuple[int, PushMessage, Verdict]] = field(default_factory=list)

    async def open(self) -> None:
        """Do nothing."""

    async def send(self, message: PushMessage, deadline_s: float) -> Verdict:
        """Record the push and return the next answer."""
        verdict = self.answers.pop(0) if self.answers else Sent("200")
        if isinstance(verdict, COUNTED):
            self.processed.append((self.clock.now_us(), message, verdict))
        return verdict

    async def close(self) -> None:
        """Do nothing."""

    async def check(self) -> str | None:
        """Return None."""
        return None


class BudgetWorld:
    """Alice with two devices and two delivery processes, over one store."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW_US)
        self.store = MemoryStore(LIMITS, NullPublisher())
        self.registry = CategoryRegistry(self.store)
        self.channel = AnsweringChannel(self.clock)
        self.queue: list[tuple[int, int, Intent]] = []
        self.planned: list[Intent] = []
        self.dismissed: set[str] = set()
        self.processes = [self._process() for _ in range(2)]

    def _process(self) -> DeliveryContext:
        decider = PushDecider(self.store, self.registry, None, push_budget(PER_HOUR), self.clock)
        metrics = DeliveryMetrics(CollectorRegistry())
        return DeliveryContext("apns", self.channel, self.store, decider, self.clock, metrics, Breaker(None))

    async def open(self) -> None:
        """Register the devices."""
        await self.store.categories.apply(ENTRIES, NOW_US, 0)
        for device in DEVICES:
            push = {**TOKEN, "token": device * 8}
            await self.store.devices.put_device("alice", device, Registration("ios", push, "it"), NOW_US)
        await self.registry.refresh()

    async def create(self, item_id: str) -> None:
        """Create an item with a push to each device."""
        harness = DeliveryHarness(self.store, self.clock, None, self.processes[0], self.registry)  # type: ignore[arg-type]
        first = await harness.create(item_id, DEVICES[0])
        second = replace(first, device=DEVICES[1])
        await self.store.ledger.plan([second], DeliveryState.PLANNED, None, self.clock.now_us())
        for intent in (first, second):
            self.planned.append(intent)
            self.queue.append((self.clock.now_us(), len(self.planned), intent))

    async def dismiss(self, item_id: str) -> None:
        """Dismiss an item for all devices."""
        harness = DeliveryHarness(self.store, self.clock, None, self.processes[0], self.registry)  # type: ignore[arg-type]
        await harness.dismiss(item_id)
        self.dismissed.add(item_id)

    async def work(self, seconds: float) -> None:
        """Let both processes attempt everything that becomes due."""
        until_us = self.clock.now_us() + round(seconds * SECOND_US)
        while self.queue and min(self.queue)[0] <= until_us:
            at_us = max(min(self.queue)[0], self.clock.now_us())
            self.clock.advance((at_us - self.clock.now_us()) / SECOND_US)
            due = sorted(each for each in self.queue if each[0] <= at_us)
            self.queue = [each for each in self.queue if each[0] > at_us]
            attempts = (attempt(self.processes[n % 2], intent) for _, n, intent in due)
            for (_, n, intent), again_us in zip(due, await asyncio.gather(*attempts), strict=True):
                if again_us is not None:
                    self.queue.append((max(again_us, self.clock.now_us() + 1), n, intent))
        self.clock.advance(max(0, until_us - self.clock.now_us()) / SECOND_US)


IDS = tuple(f"i{n}" for n in range(8))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.sampled_from(IDS)),
        st.tuples(st.just("create"), st.sampled_from(IDS)),
        st.tuples(st.just("dismiss"), st.sampled_from(IDS)),
        st.tuples(st.just("answer"), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("wait"), st.sampled_from((1, 60, 900, 1_800))),
    ),
    max_size=40,
)


@given(STEPS)
def test_pushes_of_a_user_stay_within_the_budget_and_none_is_lost(steps: Sequence[tuple[str, str | int]]) -> None:
    asyncio.run(_follow(steps))


async def _follow(steps: Sequence[tuple[str, str | int]]) -> None:
    world = BudgetWorld()
    await world.open()
    created = iter(range(len(steps)))
    for what, which in steps:
        match what:
            case "create":
                await world.create(f"{which}-{next(created)}")
            case "dismiss":
                for each in {each.item for each in world.planned if each.item.startswith(f"{which}-")}:
                    await world.dismiss(each)
            case "answer":
                world.channel.answers.append(ANSWERS[str(which)])
        await world.work(float(which) if what == "wait" else 0.0)
    await world.work(2 * 86_400)

    assert world.queue == []
    _check_windows([at_us for at_us, _, _ in world.channel.processed])
    carried = set(_carried(world))
    for intent in world.planned:
        [record] = [
            each
            for each in await world.store.ledger.of_item("alice", intent.item)
            if each.intent.device == intent.device
        ]
        assert record.is_over, record
        if record.state is DeliveryState.SENT and record.history.reason == FOLDED:
            assert (intent.device, record.history.attempts[-1].at_us) in carried
        elif record.state is DeliveryState.CANCELLED:
            assert intent.item in world.dismissed
        else:
            assert record.history.attempts, "nothing was sent, and it is not dismissed"


def _check_windows(times_us: Sequence[int]) -> None:
    """Check that each window has at most the burst and what the bucket refills in it."""
    for first, last in combinations_with_replacement(range(len(times_us)), 2):
        seconds = (times_us[last] - times_us[first]) / SECOND_US
        assert last - first + 1 <= PER_HOUR + PER_HOUR * seconds / 3_600 + 1e-6


def _carried(world: BudgetWorld) -> Iterator[tuple[str, int]]:
    """Yield device and time of each push that said how many items it covers."""
    for at_us, push, verdict in world.channel.processed:
        if isinstance(verdict, Sent) and push.data.get("count", 1) > 1:
            yield push.device, at_us


async def test_message_given_back_is_sent_without_delay() -> None:
    world = BudgetWorld()
    await world.open()
    for n in range(PER_HOUR):
        await world.create(f"a-{n}")
    await world.work(0)
    await world.create("b")
    intent, budget = world.queue[-1][2], push_budget(PER_HOUR)
    first = world.processes[0]
    first.over_budget.add(intent.uid, budget, world.clock.now_us() + 900 * SECOND_US)
    await world.store.ledger.give_back(intent.uid, budget, world.clock.now_us())
    sent = len(world.channel.processed)

    for _ in range(3):
        again_us = await attempt(first, intent)
        if again_us is None:
            break

    assert len(world.channel.processed) == sent + 1
