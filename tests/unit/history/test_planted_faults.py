"""The checker finds planted faults, and finds nothing in sound histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from gregor.history.checker import HistoryReport, check_file
from tests.chaos.mutants import MUTANTS
from tests.chaos.simulation import Mutant, Simulation

OPERATIONS = 900
USERS = 3
SEED = 7
NOT_FOUND: frozenset[str] = frozenset()
"""Planted faults that the checker does not find: at most one in twenty."""


async def simulate(path: Path, seed: int, mutant: Mutant | None = None, failovers: int = 0) -> HistoryReport:
    """Record a simulated history and check it."""
    await Simulation(path, seed, USERS, mutant, failovers=failovers).run(OPERATIONS)
    return check_file(path, jobs=1)


def test_enough_faults_are_planted() -> None:
    assert len(MUTANTS) >= 40
    assert len(NOT_FOUND) <= len(MUTANTS) * 0.05


@pytest.mark.parametrize("name", sorted(MUTANTS.keys() - NOT_FOUND))
async def test_planted_fault_is_named(name: str, tmp_path: Path) -> None:
    planted = MUTANTS[name]
    mutant = planted.make()

    report = await simulate(tmp_path / "history.jsonl", SEED, mutant, planted.failovers)

    assert mutant.hits > 0, "the fault never happened"
    assert {found.name for found in report.findings} & planted.names, report.findings[:10]


@pytest.mark.parametrize("seed", range(8))
async def test_sound_history_has_no_anomaly(seed: int, tmp_path: Path) -> None:
    report = await simulate(tmp_path / "history.jsonl", seed)

    assert report.findings == []
    assert report.operations > OPERATIONS


@pytest.mark.parametrize("seed", range(8))
async def test_recorded_failover_explains_what_it_lost(seed: int, tmp_path: Path) -> None:
    report = await simulate(tmp_path / "history.jsonl", seed, failovers=2)

    assert report.findings == []
    assert report.counts["lost-in-failover"] > 0
