"""A small rolling restart of all services behind HAProxy; `make bench ARGS=rolling` runs a large one."""

from __future__ import annotations

from pathlib import Path

from tests.bench.rolling import SMALL, roll
from tests.support.deploy_tools import tool


def test_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    """No change or push is lost or doubled, no request fails after one retry, and each device returns by a hint."""
    tool("haproxy")
    found = roll(tmp_path, SMALL)

    assert found.report.findings == []
    assert found.load.different == []
    assert (found.lost_pushes, found.doubled_pushes) == (0, 0)
    assert found.load.failed == {}
    assert found.load.ends.keys() == {"hint"}
    assert {each.kind for each in found.load.outages} <= {"unchanged", "delta"}
