"""The worst messages cost Redis in proportion to their weight."""

from __future__ import annotations

import pytest

from tests.bench.cost import TARGET_MS, worst
from tests.support.worst_messages import SCENES

MARGIN = 2
"""Test machines are slower and busier than the machine of docs/performance.md."""
PER_REMOVED_ITEM_MS = 0.05
"""An item that leaves is a write of its record, its indexes and the announcement."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scene", SCENES)
async def test_message_costs_redis_at_most_5_ms_for_each_weight(scene: str) -> None:
    cost = await worst(scene, 2)

    assert cost.ms <= MARGIN * (TARGET_MS * cost.weight + PER_REMOVED_ITEM_MS * cost.removed), cost
