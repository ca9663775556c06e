"""Calls that wait for a webhook receiver cost little while it is down, and are sent soon after it is back."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from itertools import count

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.core.limits import SECOND_US
from gregor.core.notify.webhook_events import WebhookEvent, WebhookEventType, webhook_intents
from gregor.reference.store import MemoryStore
from gregor.registries.webhooks import WebhookEditor, WebhookRegistry
from gregor_delivery.attempt import LONGEST_BACKOFF_S, retry_delay_s
from gregor_delivery.channels.verdict import Retry, Sent
from gregor_delivery.decide.decision import Postpone, SendNow
from gregor_delivery.decide.webhook import WebhookDecider
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD
from tests.support.builders import LIMITS, NOW_US

DOWN = Retry(None, "503", "down")
HOUR_S = 3_600.0


@dataclass
class Call:
    """One event: how often it was decided and tried, and when it was sent (s)."""

    item: str
    uid: str
    decisions: int = 0
    tries: int = 0
    sent_s: float | None = None
    pauses: list[tuple[float, float]] = field(default_factory=list)
    """When its pauses began, and how long each lasted (s)."""


class Receiver:
    """A receiver that is down from the beginning for ``down_s``. A call to it lasts ``call_s``."""

    def __init__(self, down_s: float, call_s: float) -> None:
        self.down_s, self.call_s = down_s, call_s
        self.clock, self.store = ManualClock(NOW_US), MemoryStore(LIMITS)
        self.editor = WebhookEditor(self.store.webhooks)
        self.decider = WebhookDecider(WebhookRegistry(self.store), self.editor, self.clock)

    async def run(self, arrivals_s: list[float]) -> list[Call]:
        """Deliver an event that occurs at each of these times. Return the calls when all are sent."""
        webhook = await self.editor.create("https://example.com/", None, None, None, NOW_US)
        calls, numbers = [Call(f"x{n}", f"v{n % 8}") for n in range(len(arrivals_s))], count()
        first = [(0.0, Call("first", f"u{n}")) for n in range(FAILURE_THRESHOLD)]
        due = [(at_s, next(numbers), call, None) for at_s, call in (*first, *zip(arrivals_s, calls, strict=True))]
        heapq.heapify(due)
        while due:
            now_s, _, call, permit = heapq.heappop(due)
            self.clock.advance(max(0.0, now_s - self.clock.monotonic()))
            if permit is not None:
                is_up = now_s - self.call_s >= self.down_s
                permit.record(Sent("204") if is_up else DOWN, self.clock.monotonic())
                if is_up:
                    call.sent_s = now_s
                else:
                    heapq.heappush(due, (now_s + retry_delay_s(DOWN, call.tries), next(numbers), call, None))
                continue
            event = WebhookEvent(WebhookEventType.DISMISSED, call.uid, call.item, "news", NOW_US, 7, NOW_US)
            [intent] = webhook_intents([event], [webhook], self.clock.now_us())
            call.decisions += 1
            match await self.decider.decide(intent, self.clock.now_us()):
                case Postpone(until_us=until_us):
                    pause_s = (until_us - self.clock.now_us()) / SECOND_US
                    call.pauses.append((now_s, pause_s))
                    heapq.heappush(due, (now_s + pause_s, next(numbers), call, None))
                case SendNow(permit=permit):
                    call.tries += 1
                    heapq.heappush(due, (now_s + self.call_s, next(numbers), call, permit))
        return calls


def run(down_s: float, call_s: float, arrivals_s: list[float]) -> list[Call]:
    """Return the calls of one outage."""
    return asyncio.run(Receiver(down_s, call_s).run(arrivals_s))


@given(
    st.floats(1.0, 4 * HOUR_S),
    st.sampled_from([0.0, 0.1, 15.0]),
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30),
)
@example(4 * HOUR_S, 15.0, [n / 30 for n in range(30)])
@example(192.0, 0.1, [n / 30 for n in range(30)])
def test_waiting_calls_flow_soon_after_the_receiver_is_back(down_s: float, call_s: float, places: list[float]) -> None:
    """A call waits as long as the outage lasted, from two minutes to half an hour, and less than two minutes more."""
    longest_s = max(120.0, min(down_s + 3 * call_s, 1_800.0))

    for call in run(down_s, call_s, [place * down_s for place in places]):
        assert all(pause_s <= max(120.0, min(at_s, 1_800.0)) + 0.01 for at_s, pause_s in call.pauses)
        if call.tries > 1:  # a call that was tried and failed has its own delay
            longest_s = max(longest_s, LONGEST_BACKOFF_S)
        assert call.sent_s is not None and call.sent_s <= down_s + longest_s + 120.0


@given(st.floats(HOUR_S, 3 * HOUR_S), st.sampled_from([0.0, 15.0]))
@settings(max_examples=10)
def test_waiting_calls_are_decided_rarely(down_s: float, call_s: float) -> None:
    """100,000 calls that wait for one receiver cost about 80 decisions a second, not 1,100."""
    calls = run(down_s, call_s, [n * 0.5 for n in range(100)])

    decisions = [at_s for call in calls for at_s, _ in call.pauses if down_s - HOUR_S / 2 <= at_s < down_s]
    assert len(decisions) <= len(calls) * (2 if call_s == 0.0 else 3)
