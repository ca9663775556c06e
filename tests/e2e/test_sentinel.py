"""Failovers of real Sentinels under load: what is lost, how long it takes, and what devices show afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.failover_run import Failure, run_failover
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


@pytest.mark.parametrize("failure", ["planned", "killed", "hung"])
async def test_replicated_messages_survive_a_failover(tmp_path: Path, failure: Failure) -> None:
    """Both replicas must have a message: then any of them may be promoted."""
    headers = {"Gregor-Durability": "replicated"}
    with running_group(tmp_path) as group:
        run = await run_failover(group, tmp_path / "cluster", failure, headers=headers, replicas=2)

    assert run.accepted, run
    assert all(each.answer["durability"] == "replicated" for each in run.accepted)
    assert run.lost == [], run
    # The promoted server has one replica left, or none for a moment: it says so instead of promising.
    assert {each.answer["code"] for each in run.sent if each.status not in (0, 200)} <= {
        "unavailable",
        "not_replicated",
        "no_replicas",
    }
    assert not run.missing | run.extra, run
