"""Chaos: 20,000 intents through two delivery processes amid failures; ledger and providers agree on each."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.bench.report import Result, print_result
from tests.support.chaos import Outcome, Plan, chaos

WHOLE = Plan(20_000, load_s=120, deadline_s=3, kill_every_s=5, ill_s=4, max_wait_s=240)
QUICK = Plan(2_000, load_s=20, deadline_s=2, kill_every_s=3, ill_s=3, max_wait_s=120)


def run(quick: bool = False) -> list[Result]:
    """Return the number of unexplained findings, and counts of the failures."""
    with tempfile.TemporaryDirectory() as directory:
        outcome = chaos(Path(directory), QUICK if quick else WHOLE)
    for finding in outcome.audit.findings[:20]:
        print(finding)
    return [print_result(result) for result in results(outcome)]


def results(outcome: Outcome) -> list[Result]:
    """Format an outcome as results."""
    findings, copies = len(outcome.audit.findings), outcome.audit.copies
    fates = ", ".join(f"{count:,} {fate}" for fate, count in outcome.audit.count.most_common())
    done = f"{outcome.kills} workers killed, {outcome.illnesses} illnesses of a provider, Redis once"
    return [
        Result("chaos, intents that nothing explains", findings, f"of {outcome.intents:,}", "0", findings == 0, fates),
        Result("chaos, requests to providers", outcome.requests, "requests", "-", None, done),
        Result("chaos, copies that replaced the first", copies, "pushes and mails", "-"),
        Result("chaos, left in the streams", outcome.left_in_queue, "entries", "0", outcome.left_in_queue == 0),
        Result("chaos, time until all was over", outcome.wall_s, "s", "-"),
    ]
