"""Readers of changes: each gets all, none waits for another, none grows without bound."""

from gregor.client.changes import ExternalGap, Overrun
from gregor.client.readers import MOST_WAITING, Readers


async def test_every_reader_gets_what_comes_after_it() -> None:
    readers = Readers()
    early = readers.subscribe()
    readers.tell([ExternalGap()])
    late = readers.subscribe()
    readers.end()

    assert [change async for change in early] == [ExternalGap()]
    assert [change async for change in late] == []


async def test_a_reader_that_does_not_keep_up_is_told_so_once() -> None:
    readers = Readers()
    reader = readers.subscribe()
    readers.tell([ExternalGap()] * MOST_WAITING)
    readers.tell([ExternalGap()])
    readers.end()

    assert [change async for change in reader] == [Overrun()]


async def test_after_the_end_a_new_reader_ends_at_once() -> None:
    readers = Readers()
    readers.end()

    assert [change async for change in readers.subscribe()] == []
