"""The phases of a graceful stop: not ready but serving, then the drain; each further signal ends a phase."""

from __future__ import annotations

import asyncio

import pytest

from gregor.core.limits import Limits
from gregor.metrics.process import Metrics
from gregor.reference.store import MemoryStore
from gregor.web.process import Shutdown
from gregor.web.readiness import Readiness
from tests.support.wait import wait_until

LONG_S = 3_600.0


@pytest.fixture
async def readiness() -> Readiness:
    """Return the readiness of a process that is ready."""
    readiness = Readiness(MemoryStore(Limits()), Metrics())
    await readiness.check()
    assert readiness.is_ready
    return readiness


async def test_stopping_process_is_not_ready_and_serves(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, LONG_S)
    waiting = asyncio.create_task(shutdown.wait_until_drain())

    shutdown.signal()
    await asyncio.sleep(0)

    assert not readiness.is_ready and not readiness.draining and not waiting.done()
    assert readiness.document()["checks"]["draining"] is True
    waiting.cancel()


async def test_drain_begins_after_the_time(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, 0.01)
    shutdown.signal()

    await shutdown.wait_until_drain()

    assert readiness.draining and not readiness.is_ready


async def test_second_signal_begins_the_drain(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, LONG_S)
    shutdown.signal()
    shutdown.signal()

    async with asyncio.timeout(10):
        await shutdown.wait_until_drain()

    assert readiness.draining


async def test_failed_process_drains_at_once(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, LONG_S)
    shutdown.fail()

    async with asyncio.timeout(10):
        await shutdown.wait_until_drain()

    assert not readiness.is_ready


async def test_further_signal_ends_the_drain(readiness: Readiness) -> None:
    hastened: list[bool] = []
    shutdown = Shutdown(readiness, 0.0, lambda: hastened.append(True))
    shutdown.signal()
    await shutdown.wait_until_drain()
    work = asyncio.create_task(asyncio.Event().wait())
    draining = asyncio.create_task(shutdown.drain(work, LONG_S))
    await asyncio.sleep(0)
    assert not draining.done() and not hastened

    shutdown.signal()
    async with asyncio.timeout(10):
        await draining

    assert hastened == [True]
    await wait_until(work.cancelled, "the work is cancelled")


async def test_drain_ends_with_its_work(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, 0.0)

    async with asyncio.timeout(10):
        await shutdown.drain(asyncio.sleep(0), LONG_S)
    with pytest.raises(ValueError, match="broken"):
        await shutdown.drain(_fail(), LONG_S)


async def test_drain_ends_at_its_deadline(readiness: Readiness) -> None:
    shutdown = Shutdown(readiness, 0.0)
    work = asyncio.create_task(asyncio.Event().wait())

    await shutdown.drain(work, 0.01)

    assert work.cancelled()


async def _fail() -> None:
    raise ValueError("broken")
