"""Killed workers, failing providers and a crashing store: no delivery is lost, and none is shown twice.

The same with 20,000 intents is `make bench ARGS=chaos`.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.chaos import Plan, chaos

SMALL = Plan(300, load_s=8, deadline_s=1, kill_every_s=2.5, ill_s=1.2, max_wait_s=150)


def test_ledger_agrees_with_providers_after_chaos(tmp_path: Path) -> None:
    outcome = chaos(tmp_path, SMALL)

    assert outcome.audit.findings == [], "\n".join([*outcome.audit.findings, outcome.said])
    assert outcome.left_in_queue == 0
    assert sum(outcome.audit.count.values()) == outcome.intents >= 300
    assert outcome.kills >= 2 and outcome.illnesses >= 4, "there was chaos"
    assert outcome.audit.count["sent"] > 200
