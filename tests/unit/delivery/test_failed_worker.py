"""A delivery worker that ends by itself stops its process, but the other workers finish what they send."""

from __future__ import annotations

import asyncio

import pytest

from gregor.config.settings import load_settings
from gregor.core.limits import Limits
from gregor.metrics.process import Metrics
from gregor.reference.store import MemoryStore
from gregor.web.process import Shutdown
from gregor.web.readiness import Readiness
from gregor_delivery.__main__ import serve_with
from tests.support.ports import free_port


class SlowWorker:
    """A worker that takes a few turns of the event loop to finish after it was stopped."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.has_finished = False

    def stop(self) -> None:
        self.stopping.set()

    async def run(self) -> None:
        await self.stopping.wait()
        await asyncio.sleep(0.01)
        self.has_finished = True


class FailingWorker(SlowWorker):
    """A worker with a bug."""

    async def run(self) -> None:
        raise ValueError("a bug of one worker")


async def test_other_workers_finish_and_the_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shutdown, "on_signals", lambda _: None)
    settings = load_settings({"GREGOR_DELIVERY_PORT": str(free_port()), "GREGOR_TOKEN_SECRET": "0123456789abcdef" * 2})
    metrics, slow = Metrics(), SlowWorker()

    with pytest.raises(ValueError, match="a bug of one worker"):
        await serve_with(settings, Readiness(MemoryStore(Limits()), metrics), metrics, [FailingWorker(), slow])  # type: ignore[list-item]

    assert slow.has_finished
