"""L15, push follows state: whatever happens, in whatever order, and whoever dies, nothing is told of what is gone or
was shown, and nothing of it is left on a screen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.property.pushes import DEVICES, World, build
from tests.support.builders import item

IDS = ("i1", "i2", "i3", "i4")
ANSWERS = (
    (True, "sent"),
    (False, "retry"),
    (False, "refused"),
    (True, "unknown"),
    (False, "unknown"),
    (True, "killed"),
    (False, "killed"),
)
"""Whether it arrives, and what is heard of that."""
DEEDS = ("dismiss", "dismiss", "sweep", "show", "look", "look away")
DAY_S = 86_400


@dataclass(frozen=True)
class SmtpStep:
    """One thing that happens. ``when``: now, or in the midst of the next push or mail."""

    what: str
    who: str = ""
    item: str = "i1"
    seconds: int = 0
    answers: tuple[tuple[bool, str], ...] = ()
    when: str = "now"
    fields: Any = None

    async def do(self, world: World) -> None:
        """As ``when`` says."""
        if self.when == "now":
            await self._act(world)
        else:
            (world.in_flight if self.when == "in flight" else world.after_decision).append(partial(self._amid, world))

    async def _amid(self, world: World) -> None:
        """A scheduler sees it at once."""
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


def steps() -> st.SearchStrategy[SmtpStep]:
    """Items come, go and are shown; providers answer as they like; time passes."""
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
        st.builds(SmtpStep, st.just("create"), item=items, fields=fields),
        st.builds(SmtpStep, st.sampled_from(DEEDS), who, items, when=when),
        st.builds(SmtpStep, st.just("answer"), answers=answers),
        st.builds(SmtpStep, st.just("pass"), seconds=waits),
        st.builds(SmtpStep, st.sampled_from(("pass", "lose", "lose", "away", "back")), seconds=waits),
    )


SHOWN = [*(SmtpStep("create", item=item_id, fields=item("news")) for item_id in IDS[:2]), SmtpStep("pass", seconds=10)]
"""How a story may begin: the screens show something that can be taken back."""
LOST = [SmtpStep("sweep"), SmtpStep("lose")]
REFUSED = [
    SmtpStep("dismiss", item="i1"),
    SmtpStep("create", item="i3", fields=item("count")),
    SmtpStep("answer", answers=((False, "refused"),) * 2),
    SmtpStep("pass", seconds=1),
]
"""What chance seldom finds: withdrawals that the queue loses, and that go along with what is refused."""


@example(SHOWN, LOST)
@example(SHOWN, REFUSED)
@given(st.sampled_from((SHOWN, [])), st.lists(steps(), max_size=25))
def test_push_follows_state(beginning: list[SmtpStep], history: list[SmtpStep]) -> None:
    """L15. The providers hold each call to the state of its moment; in the end no screen shows what is gone."""
    asyncio.run(_told(beginning + history))


async def _told(history: list[SmtpStep]) -> None:
    world = await build()
    for step in history:
        await step.do(world)
    world.answers.clear()
    world.streams.is_away = False
    await world.pass_time(600)
    await world.dismiss("")
    await world.pass_time(DAY_S)

    assert world.queue == [] and not await world.view("")
    for device, screen in world.screens.items():
        left = set(screen.values()) - world.cleared[device] - world.given_up[device]
        assert not left, f"{device} still shows {left}"
