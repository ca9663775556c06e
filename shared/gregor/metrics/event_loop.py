"""Measurement of the event-loop lag: how late a timer fires, which is how long every client of the process waits."""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import Histogram

INTERVAL_S: Final = 0.5
"""Interval between two measurements: often enough to see a blocked loop, too seldom to cost anything."""


async def measure_event_loop(lag: Histogram) -> None:
    """Observe the lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        lag.observe(max(0.0, loop.time() - due))
