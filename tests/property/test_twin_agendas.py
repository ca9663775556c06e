"""The memory store and the Lua scripts do the same steps: their results and agendas are equal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gregor.core.ids import EVERY_DEVICE
from gregor.core.items.sync import View
from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind, RemovalReason, Sender
from gregor.store.contract.agenda import CompletedWork, WorkKind
from tests.property.conversations import IDS
from tests.support.agendas import PARTITIONS
from tests.support.builders import LIMITS, NOW_US, SECOND_US, SEED, creating, dismissing, interval, sweeping
from tests.support.receipts import untimed
from tests.support.store_backends import FACTORIES, StoreUnderTest

UID = "alice"
HOME = PARTITIONS.of_user(UID)
CATEGORIES = ("user", "user.joined")
SENDERS = (Sender(), Sender("phone"))


@dataclass(frozen=True)
class AgendaStep:
    """One step with its parameters; times are seconds after the previous step."""

    what: str
    item: str = "a"
    category: str = "user"
    number: int = 0
    wait_s: int = 0
    fields: Any = None


def _steps() -> st.SearchStrategy[AgendaStep]:
    times = st.lists(st.sampled_from(("+0", "+3", "+6", "+9")), max_size=3, unique=True)
    fields = st.fixed_dictionaries(
        {
            "remind_at": times,
            "expires": st.sampled_from((None, None, "+5", "+12")),
            "for_device": st.sampled_from((None, None, EVERY_DEVICE, "phone")),
            "timers": st.sets(st.sampled_from(list(ItemTimerKind))),
        }
    )
    kinds = ("create", "create", "create", "dismiss", "hide", "sweep", "act", "act", "keep", "fold", "delay", "cancel")
    rare = ("claim", "replace", "drop", "leave", "watch", "ack")
    return st.builds(
        AgendaStep,
        st.sampled_from(kinds + rare),
        st.sampled_from(IDS),
        st.sampled_from(CATEGORIES),
        st.integers(0, 3),
        st.sampled_from((0, 0, 1, 2, 5)),
        fields,
    )


class StoreUnderSteps:
    """One store, step by step."""

    def __init__(self, twin: StoreUnderTest) -> None:
        self.store = twin.store
        self.now_us = NOW_US

    async def take(self, step: AgendaStep) -> object:
        """Do a step and return its result."""
        self.now_us += step.wait_s * SECOND_US
        match step.what:
            case "create":
                return await self.store.users.commit(UID, self._creation(step))
            case "dismiss" | "hide":
                sender = SENDERS[step.what == "hide"]
                return await self.store.users.commit(UID, dismissing(step.item, now_us=self.now_us, sender=sender))
            case "sweep":
                return await self.store.users.commit(UID, sweeping(interval(step.category), now_us=self.now_us))
            case "keep":
                keep = Commit(self.now_us, SEED, reason=RemovalReason.DISPLACED, keep=((step.category, step.number),))
                return await self.store.users.commit(UID, keep)
            case "fold":
                return await self._fold(step)
            case "leave":
                await self.store.devices.forget_device(UID, "phone", self.now_us, SEED)
            case "watch":
                self.store.recorded_events.removals = self.store.recorded_events.acknowledgements = step.number == 0
            case "ack":
                shown = (await self.store.users.state(UID, View("phone"), self.now_us)).seq - step.number
                await self.store.devices.acknowledge(UID, View("phone"), max(0, shown), self.now_us)
            case "delay":
                document, at_us = step.category.encode(), self.now_us + step.number * SECOND_US
                return await self.store.agenda.delay(UID, step.item, document, at_us)
            case "cancel":
                return await self.store.agenda.cancel_delayed(UID, step.item)
            case "claim":
                document = await self.store.agenda.delayed(UID, step.item) or step.category.encode()
                return await self.store.agenda.claim_delayed(UID, step.item, document)
            case "replace":
                expected, document = CATEGORIES[step.number % 2].encode(), step.category.encode()
                return await self.store.agenda.replace_delayed(UID, step.item, expected, document)
            case "drop":
                return await self.store.agenda.cancel_delayed(UID, step.item, step.category.encode())
            case _:
                return await self._act(step)
        return None

    async def look(self) -> list[object]:
        """Return everything that the store shows of its agenda and state."""
        agenda = await self.store.agenda.due_work(UID, NOW_US + 10**15, 100)
        kept = [work for work in agenda if work.kind is not WorkKind.FORGET]
        full = await self.store.users.state(UID, View(), self.now_us)
        return [kept, replace(full, items=tuple(sorted(full.items, key=lambda item: item.id)))]

    def _creation(self, step: AgendaStep) -> Commit:
        fields = dict(step.fields)
        kinds = sorted(fields.pop("timers"), key=lambda kind: kind.value)
        commit = creating(step.item, category=step.category, now_us=self.now_us, **fields)
        timers = tuple(ItemTimer(kind, self.now_us + (3 + step.number) * SECOND_US) for kind in kinds)
        return structs.replace(commit, creations=(structs.replace(commit.creations[0], timers=timers),))

    async def _fold(self, step: AgendaStep) -> object:
        groups = await self.store.agenda.category_items(UID, [step.category])
        seq, items = groups.seq, groups.of(step.category, None)
        created = creating(f"sum{step.number}", category=step.category, now_us=self.now_us)
        ids = tuple(item.id for item in items[: step.number + 1]) or ("a",)
        fold = structs.replace(created, ids=ids, reason=RemovalReason.AGGREGATED, is_conditional=True)
        return seq, items, await self.store.users.commit(UID, fold)

    async def _act(self, step: AgendaStep) -> object:
        """Act as a scheduler: claim, do the first due work, complete it."""
        claimed = await self.store.agenda.claim(HOME, self.now_us, self.now_us + 2 * SECOND_US, 5)
        if not claimed:
            return None
        works = await self.store.agenda.due_work(UID, self.now_us, 1 + step.number)
        receipts: list[object] = [[work for work in works if work.kind is not WorkKind.FORGET]]
        for work in works:
            if work.kind in (WorkKind.EXPIRE, WorkKind.FORGET):
                await self.store.users.commit_due(UID, self.now_us)
            elif work.kind is WorkKind.REMIND:
                remind = Commit(self.now_us, SEED, remind=(work.name, work.n), has_follow_up=step.number == 1)
                receipts.append(await self.store.users.commit(UID, remind))
        again_us = self.now_us + 4 * SECOND_US if step.number == 2 else None
        held = [work for work in works[step.number :] if work.kind is WorkKind.PUSH]
        done = [
            CompletedWork(work, again_us) for work in works if work.kind is not WorkKind.FORGET and work not in held
        ]
        lease_us = self.now_us + 2 * SECOND_US
        await self.store.agenda.complete(UID, lease_us, done, held, lease_us + SECOND_US)
        return receipts


@pytest.mark.redis
@given(st.lists(_steps(), min_size=3, max_size=16))
async def test_L7_every_store_keeps_the_same_agenda(steps: list[AgendaStep]) -> None:
    async with FACTORIES["memory"](LIMITS) as first, FACTORIES["redis"](LIMITS) as second:
        heard = [await twin.record(UID) for twin in (first, second)]
        one, other = StoreUnderSteps(first), StoreUnderSteps(second)
        for step in steps:
            assert untimed(await one.take(step)) == untimed(await other.take(step))
            assert await one.look() == await other.look()
        seq = (await first.store.users.state(UID, View(), one.now_us)).seq
        assert await heard[0].announcements(seq) == await heard[1].announcements(seq)
