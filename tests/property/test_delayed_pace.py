"""Laws of due delayed messages: bounded work of Redis in any span of time, in order, once, none lost, none early.

They hold for any messages and times, while schedulers restart, and whichever scheduler serves the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.core.messages.cost import REDIS_UNITS, message_weight, redis_units
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.rate_limit import DELAYED_BURST, DELAYED_RATE, RateLimiter
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.support.builders import LIMITS, NOW, NOW_US, SECOND_US, Document, interval, item, message
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness, build

SMALL, SCANS, ITEMS, HUGE = "small", "scans", "items", "huge"
STEP_S = 0.5


def document(kind: str, number: int) -> Document:
    """Return a message that creates the item of its number, and costs Redis more or less."""
    name = f"i{number}"
    match kind:
        case "scans":
            spans = [interval(prefix=f"c{number}.{n}", begin=1, end=NOW - n) for n in range(31)]
            return message({name: item()}, intervals=spans, message_id=f"m{number:03}")
        case "items":
            return message({f"{name}.{n}": item() for n in range(9)} | {name: item()}, message_id=f"m{number:03}")
        case "huge":
            reminders: list[float | str] = [f"+{9_000 + n}" for n in range(16)]
            others = {f"{name}.{n}": item(remind_at=reminders) for n in range(60)}
            return message({name: item()} | others, message_id=f"m{number:03}")
        case _:
            return message({name: item()}, message_id=f"m{number:03}")


@dataclass(frozen=True)
class Committed:
    at_us: int
    due_us: int
    number: int
    units: int


@dataclass
class World:
    """A user with delayed messages, and schedulers."""

    harness: SchedulerHarness
    messages: list[tuple[str, float]]

    async def run(self, crashes: list[bool]) -> list[Committed]:
        """Advance the time until all messages are committed. Returns them in the order of their commits."""
        agenda, clock = self.harness.store.agenda, self.harness.clock
        for number, (kind, due_s) in enumerate(self.messages):
            kept = DelayedMessage(document(kind, number), Sender(), NOW_US).encode()
            await agenda.delay("alice", f"m{number:03}", kept, NOW_US + round(due_s * SECOND_US))
        loops, seen, found = [self.scheduler(), self.scheduler()], set[int](), list[Committed]()
        steps = 0
        while await agenda.list_delayed("alice"):
            steps += 1
            assert steps < 2_000, "messages are lost or wait for ever"
            if steps <= len(crashes) and crashes[steps - 1]:
                loops = [self.scheduler(), self.scheduler()]
            await loops[steps % 2].run_due()
            for announcement in self.harness.announcements():
                for entry in announcement.entries:
                    number = int(entry.id[1:].split(".")[0])
                    if number not in seen:
                        seen.add(number)
                        found.append(self.committed(number))
            clock.advance(STEP_S)
        return found

    def scheduler(self) -> DueLoop:
        harness = self.harness
        handlers = DueHandlers(harness.context, RateLimiter(1e9, 1))
        return DueLoop(harness.store.agenda, handlers, harness.clock, harness.metrics, LEASE_US)

    def committed(self, number: int) -> Committed:
        kind, due_s = self.messages[number]
        units = redis_units(parse_message(document(kind, number), LIMITS))
        return Committed(self.harness.clock.now_us(), NOW_US + round(due_s * SECOND_US), number, units)


kinds = st.sampled_from([SMALL, SMALL, SCANS, SCANS, ITEMS, HUGE])
delayed_messages = st.lists(st.tuples(kinds, st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0])), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(messages=delayed_messages, crashes=st.lists(st.booleans(), max_size=20))
@example(messages=[(SCANS, 0.0)] * 20 + [(SMALL, 0.0)], crashes=[True] * 20)
@example(messages=[(HUGE, 0.0), (HUGE, 0.0), (SMALL, 0.0)], crashes=[])
async def test_delayed_messages_are_committed_in_order_at_a_bounded_pace(
    messages: list[tuple[str, float]], crashes: list[bool]
) -> None:
    found = await World(await build(), messages).run(crashes)

    assert sorted(each.number for each in found) == list(range(len(messages)))
    assert all(each.at_us >= each.due_us for each in found)
    for first, second in pairwise(found):
        assert first.at_us < second.due_us or (first.due_us, first.number) < (second.due_us, second.number)
    largest = max(each.units for each in found)
    for start in range(len(found)):
        units = 0
        for each in found[start:]:
            units += each.units
            span_s = (each.at_us - found[start].at_us) / SECOND_US
            assert units <= DELAYED_BURST + largest + DELAYED_RATE * span_s


counts = st.integers(0, 100)


@given(items=counts, reminders=st.integers(0, 16), ids=st.integers(0, 1_000), spans=st.integers(0, 32))
def test_units_are_a_finer_weight(items: int, reminders: int, ids: int, spans: int) -> None:
    def units(items: int, ids: int) -> tuple[int, int]:
        new = {f"i{n}": item(remind_at=[f"+{1 + each}" for each in range(reminders)]) for n in range(items)}
        intervals = [interval(prefix=f"c{n}", end=NOW) for n in range(spans)]
        parsed = parse_message(message(new, ids=[f"d{n}" for n in range(ids)], intervals=intervals), LIMITS)
        return redis_units(parsed), message_weight(parsed)

    if not items and not ids and not spans:
        items = 1
    found, weight = units(items, ids)
    assert 1 <= found <= REDIS_UNITS * weight
    assert found == REDIS_UNITS * weight or weight == 1
    if items < 100:
        assert units(items + 1, ids)[0] >= found


@pytest.mark.parametrize(
    ("document", "units"),
    [
        (message({"a": item()}), 1),
        (message(ids=["a"]), 1),
        (message({f"i{n}": item() for n in range(9)}), 17),
        (message(ids=[f"i{n}" for n in range(39)]), 18),
        (message(intervals=[interval("news")]), 2 * REDIS_UNITS),
    ],
)
def test_units_of_common_messages(document: Document, units: int) -> None:
    assert redis_units(parse_message(document, LIMITS)) == units
