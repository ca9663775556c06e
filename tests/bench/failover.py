"""Failovers of a Sentinel group under 20 messages a second: lost messages, the outage, devices that differ."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from tests.bench.report import Result, print_result
from tests.support.failover_run import FailoverRun, Failure, run_failover
from tests.support.sentinel_group import running_group

OUTAGES_S: Final[dict[Failure, float]] = {"planned": 2.0, "killed": 5.0, "hung": 7.0}
"""Longest time without an acknowledgement, by failure (down-after is 2 s)."""


def run(quick: bool = False) -> list[Result]:
    """Return the lost messages and the longest outage of each kind of failure."""
    results = []
    for failure, most_s in OUTAGES_S.items():
        runs = [_measure(failure) for _ in range(1 if quick else 5)]
        for number, each in enumerate(runs, 1):
            print(f"  {failure} {number}: {each}", flush=True)
        results += _results(failure, runs, most_s)
    return results


def _measure(failure: Failure) -> FailoverRun:
    with tempfile.TemporaryDirectory() as directory, running_group(Path(directory)) as group:
        return asyncio.run(run_failover(group, Path(directory) / "cluster", failure))


def _results(failure: Failure, runs: list[FailoverRun], most_s: float) -> list[Result]:
    lost = max(len(each.lost) for each in runs)
    window_s = max(each.lost_window_s for each in runs)
    outage_s = max(each.outage_s for each in runs)
    different = sum(bool(each.missing | each.extra) for each in runs)
    accepted = sum(len(each.accepted) for each in runs)
    beside = f"{accepted} accepted in {len(runs)} runs"
    name = f"{failure} failover"
    results = [
        Result(f"{name}: lost, at most", lost, "messages", "counted", limit=beside),
        Result(f"{name}: lost within", window_s, "s", "<= 1", window_s <= 1),
        Result(f"{name}: outage, at most", outage_s, "s", f"<= {most_s:g}", outage_s <= most_s),
        Result(f"{name}: devices that differ", different, "devices", "0", different == 0),
    ]
    return list(map(print_result, results))
