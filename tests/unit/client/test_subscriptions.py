"""Readers of changes: each gets all, none waits for another, none grows without bound."""

from gregor.client.changes import ExternalGap, Overrun
from gregor.client.subscriptions import MAX_PENDING, ChangeSubscriptions


async def test_every_reader_gets_what_comes_after_it() -> None:
    readers = ChangeSubscriptions()
    early = readers.subscribe()
    readers.publish([ExternalGap()])
    late = readers.subscribe()
    readers.end()

    assert [change async for change in early] == [ExternalGap()]
    assert [change async for change in late] == []


async def test_a_reader_that_does_not_keep_up_is_told_so_once() -> None:
    readers = ChangeSubscriptions()
    reader = readers.subscribe()
    readers.publish([ExternalGap()] * MAX_PENDING)
    readers.publish([ExternalGap()])
    readers.end()

    assert [change async for change in reader] == [Overrun()]


async def test_after_the_end_a_new_reader_ends_at_once() -> None:
    readers = ChangeSubscriptions()
    readers.end()

    assert [change async for change in readers.subscribe()] == []
