"""L15, push follows state: no push or e-mail shows an item that is gone or was shown, and no screen keeps one.

It holds for every order of events, and if any process dies.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.notify.intents import IntentKind
from tests.property.pushes import DEVICES, World, build
from tests.support.builders import item

IDS = ("i1", "i2", "i3", "i4")
ANSWERS = (
    (True, "sent"),
    (False, "retry"),
    (False, "refused"),
    (True, "late"),
    (True, "late answer"),
    (True, "unknown"),
    (False, "unknown"),
    (True, "killed"),
    (False, "killed"),
)
"""Whether a push arrives, and the response."""
DEEDS = ("dismiss", "dismiss", "sweep", "show", "look", "look away")
DAY_S = 86_400


@dataclass(frozen=True)
class PushStep:
    """One event. ``when``: now, or during the next push or e-mail."""

    what: str
    who: str = ""
    item: str = "i1"
    seconds: int = 0
    answers: tuple[tuple[bool, str], ...] = ()
    when: str = "now"
    fields: Any = None

    async def do(self, world: World) -> None:
        """Do it at the time that ``when`` says."""
        if self.when == "now":
            await self._act(world)
        else:
            (world.in_flight if self.when == "in flight" else world.after_decision).append(partial(self._amid, world))

    async def _amid(self, world: World) -> None:
        """Do it, and let a scheduler process it at once."""
        await self._act(world)
        await world.due.due_loop.run_due()

    async def _act(self, world: World) -> None:
        match self.what:
            case "create":
                await world.create(self.item, self.fields)
            case "dismiss":
                await world.dismiss(self.who, self.item)
            case "sweep":
                await world.dismiss(self.who)
            case "show" if self.who:
                await world.show(self.who)
            case "look" | "look away" if self.who:
                await world.come(self.who, foreground=self.what == "look")
            case "pass":
                await world.pass_time(self.seconds)
            case "answer":
                world.answers.extend(self.answers)
            case "lose":
                await world.lose()
            case "away" | "back":
                world.streams.is_away = self.what == "away"


def steps() -> st.SearchStrategy[PushStep]:
    """Generate events: items come, go and are shown; providers respond in all ways; time passes."""
    who, items = st.sampled_from(("", *DEVICES)), st.sampled_from(IDS)
    fields = st.builds(
        item,
        st.sampled_from(("news", "count")),
        expires=st.sampled_from((None, None, "+90")),
        remind_at=st.sampled_from((None, None, ["+30"], ["+5", "+70"])),
        for_device=st.sampled_from((None, None, "*", "phone")),
    )
    when = st.sampled_from(("now", "now", "in flight", "after look"))
    answers = st.builds(lambda answer, count: (answer,) * count, st.sampled_from(ANSWERS), st.integers(1, 4))
    waits = st.sampled_from((1, 10, 10, 35, 60, 600, 4_000))
    return st.one_of(
        st.builds(PushStep, st.just("create"), item=items, fields=fields),
        st.builds(PushStep, st.sampled_from(DEEDS), who, items, when=when),
        st.builds(PushStep, st.just("answer"), answers=answers),
        st.builds(PushStep, st.just("pass"), seconds=waits),
        st.builds(PushStep, st.sampled_from(("pass", "lose", "lose", "away", "back")), seconds=waits),
    )


SHOWN = [*(PushStep("create", item=item_id, fields=item("news")) for item_id in IDS[:2]), PushStep("pass", seconds=10)]
"""A beginning with an item on the screens that can be withdrawn."""
LOST = [PushStep("sweep"), PushStep("lose")]
REFUSED = [
    PushStep("dismiss", item="i1"),
    PushStep("create", item="i3", fields=item("count")),
    PushStep("answer", answers=((False, "refused"),) * 2),
    PushStep("pass", seconds=1),
]
LATE = [
    PushStep("create", item="i3", fields=item("news", remind_at=["+20"])),
    PushStep("pass", seconds=19),
    PushStep("answer", answers=((True, "late"),) * 2 + ((True, "late answer"),) * 2),
    PushStep("pass", seconds=1),
    PushStep("dismiss", item="i3"),
    PushStep("pass", seconds=10),
]
"""Rare cases: withdrawals that the queue loses, and withdrawals in a push that is refused.

``LATE``: a reminder is in flight at the dismissal. The provider is also late to answer the withdrawals.
"""


@example(SHOWN, LOST, None)
@example(SHOWN, REFUSED, None)
@example([], LATE, None)
@given(st.sampled_from((SHOWN, [])), st.lists(steps(), max_size=25), st.sampled_from((None, 4)))
def test_push_follows_state(beginning: list[PushStep], history: list[PushStep], pushes_per_hour: int | None) -> None:
    """L15. Providers compare each request with the current state; at the end no screen shows an item that is gone."""
    asyncio.run(_told(beginning + history, pushes_per_hour))


async def _told(history: list[PushStep], pushes_per_hour: int | None) -> None:
    world = await build(pushes_per_hour)
    for step in history:
        await step.do(world)
    world.answers.clear()
    world.streams.is_away = False
    await world.pass_time(600)
    await world.dismiss("")
    await world.pass_time(60)
    waiting = [intent for _, intent in world.queue if intent.kind is not IntentKind.WITHDRAW]
    assert not waiting, f"the queue keeps deliveries of dismissed items: {waiting}"
    await world.pass_time(DAY_S)

    assert world.queue == [] and not await world.view("")
    for device, screen in world.screens.items():
        left = set(screen.values()) - world.cleared[device] - world.given_up[device]
        assert not left, f"{device} still shows {left}"
