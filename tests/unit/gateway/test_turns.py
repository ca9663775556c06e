"""Rooms are asked about in turns: all that are wanted, so many a call, one call at a time."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from gregor_gateway.fanout.batch import Batcher
from gregor_gateway.fanout.hub import Hub, UserChannel
from gregor_gateway.runtime.background import BackgroundTasks
from tests.support.wait import wait_until

NO_HUB = cast(Hub, None)


@given(
    wanted=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60),
    later=st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=20),
    at_once=st.integers(1, 5),
)
def test_all_that_are_wanted_are_asked_about(
    wanted: list[tuple[int, bool]], later: list[tuple[int, bool]], at_once: int
) -> None:
    """What is wanted while a call is under way comes in that one or a later one."""
    asyncio.run(_ask_all(wanted, later, at_once))


async def _ask_all(wanted: list[tuple[int, bool]], later: list[tuple[int, bool]], at_once: int) -> None:
    channels = [UserChannel(NO_HUB, str(number)) for number in range(21)]
    asked: list[tuple[UserChannel, bool]] = []
    under_way = 0

    def want(part: list[tuple[int, bool]]) -> None:
        for number, is_sure in part:
            turns.want(channels[number], is_sure=is_sure)

    async def ask(some: dict[UserChannel, bool]) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1 and 0 < len(some) <= at_once
        if not asked:
            want(later)
        asked.extend(some.items())
        await asyncio.sleep(0)
        under_way -= 1

    turns = Batcher(BackgroundTasks(), at_once, ask)
    want(wanted)
    everyone = {number for number, _ in wanted + (later if wanted else [])}
    sure = {number for number, is_sure in wanted + (later if wanted else []) if is_sure}

    def found(of_the_sure: bool) -> set[int]:
        return {int(channel.uid) for channel, is_sure in asked if is_sure or not of_the_sure}

    await wait_until(lambda: (found(False), found(True)) == (everyone, sure), "all are asked about")
    assert len(asked) <= len({number for number, _ in wanted}) + len({number for number, _ in later})
