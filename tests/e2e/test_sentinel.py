"""Failovers of real Sentinels under load: what is lost, how long it takes, and what devices show afterwards."""

from __future__ import annotations

from pathlib import Path

from tests.support.failover_run import run_failover
from tests.support.sentinel_group import running_group


async def test_planned_failover_loses_at_most_a_second(tmp_path: Path) -> None:
    with running_group(tmp_path) as group:
        run = await run_failover(group, tmp_path / "cluster", "planned")

    assert run.lost_window_s <= 1.0, run
    assert run.outage_s <= 5, run
    assert not run.missing | run.extra, run


async def test_killed_primary_is_replaced(tmp_path: Path) -> None:
    with running_group(tmp_path) as group:
        run = await run_failover(group, tmp_path / "cluster", "killed")

    assert all(each.sent_s >= run.failed_at_s - 1.0 for each in run.lost), run
    assert run.outage_s <= 7, run
    assert not run.missing | run.extra, run


async def test_blind_device_is_equal_after_a_hung_primary_wakes(tmp_path: Path) -> None:
    with running_group(tmp_path) as group:
        run = await run_failover(group, tmp_path / "cluster", "hung")

    assert run.outage_s <= 7, run
    assert not run.missing | run.extra, run
