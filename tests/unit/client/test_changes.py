"""Readers of changes: each gets every change, none blocks another, and queues are bounded."""

from gregor.client.changes import MAX_PENDING, ChangeSubscriptions, ExternalGap, Overrun


async def test_reader_gets_changes_after_its_start() -> None:
    readers = ChangeSubscriptions()
    early = readers.subscribe()
    readers.publish([ExternalGap()])
    late = readers.subscribe()
    readers.end()

    assert [change async for change in early] == [ExternalGap()]
    assert [change async for change in late] == []


async def test_slow_reader_gets_one_overrun() -> None:
    readers = ChangeSubscriptions()
    reader = readers.subscribe()
    readers.publish([ExternalGap()] * MAX_PENDING)
    readers.publish([ExternalGap()])
    readers.end()

    assert [change async for change in reader] == [Overrun()]


async def test_reader_after_the_end_ends_at_once() -> None:
    readers = ChangeSubscriptions()
    readers.end()

    assert [change async for change in readers.subscribe()] == []
