"""A short chaos run with real servers, for CI: no finding, and every device ends equal to the server.

`make chaos` runs 30 seeds of a minute.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.nemeses import plan
from tests.chaos.product_mutants import PRODUCT_MUTANTS
from tests.chaos.run import ChaosPlan, run_chaos
from tests.chaos.topologies import ClusterTopology, Sentinels, Standalone
from tests.support.redis_cluster import RedisCluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.mark.parametrize(("topology", "seed"), [("standalone", 101), ("sentinel", 102), ("cluster", 103)])
def test_history_of_chaos_has_no_anomaly(topology: str, seed: int, tmp_path: Path) -> None:
    chosen = ChaosPlan(seed, topology, seconds=25, users=16, rate=25)

    outcome = run_chaos(tmp_path, chosen)

    assert outcome.is_clean, outcome.describe(chosen, tmp_path / "history.jsonl") + outcome.logs
    assert outcome.report.operations > 500
    assert outcome.outcomes["ok"] > 100


@pytest.mark.parametrize("kinds", [Standalone.kinds, Sentinels.kinds, ClusterTopology.kinds])
def test_plan_follows_from_the_seed(kinds: tuple[str, ...]) -> None:
    plans = [plan(seed, 60, kinds) for seed in range(30)]

    assert plans == [plan(seed, 60, kinds) for seed in range(30)]
    assert len({tuple(map(str, each)) for each in plans}) == 30
    assert {attack.kind for each in plans for attack in each} >= set(kinds), "every failure is in the mix"
    assert all(len(each) >= 6 for each in plans)


async def test_missing_replica_ends_the_run(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path, primaries=1, replicas=0)

    with pytest.raises(LookupError, match="no live replica"):
        await asyncio.wait_for(asyncio.to_thread(cluster.replica_of, cluster.nodes[0]), 5)


@pytest.mark.parametrize("name", sorted(PRODUCT_MUTANTS))
def test_fault_can_be_planted_in_the_services(name: str, tmp_path: Path) -> None:
    planted = PRODUCT_MUTANTS[name]

    code = planted.apply(tmp_path / "code")

    assert planted.new in (code / planted.path).read_text()
