"""Services without users: a bound on the commands that Redis executes for them, inner calls of scripts included."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.idle import MAX_COMMANDS, idle_services
from tests.support.command_counts import commands_per_second

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COUNTED_S = 30
"""Longer than every frequent interval. The rare ones, such as the recheck of partitions, are spread over their time."""


def test_idle_services_send_few_commands(tmp_path: Path) -> None:
    with idle_services(tmp_path / "c") as cluster:
        counts = commands_per_second([cluster.server.port], COUNTED_S)
    assert sum(counts.values()) <= MAX_COMMANDS, counts
