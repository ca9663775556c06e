"""``python -m tests.chaos mutants | sound``: see ``make chaos``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from gregor.history.checker import check_file
from tests.chaos.mutants import MUTANTS
from tests.chaos.simulation import Simulation


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…")
    commands = parser.add_subparsers(dest="command", required=True)
    mutants = commands.add_parser("mutants", help="plant each fault in a simulated cluster; the checker must find it")
    mutants.add_argument("names", nargs="*", help="some faults (default: all)")
    sound = commands.add_parser("sound", help="check a sound history, and measure the checker")
    sound.add_argument("--operations", type=int, default=1_000_000)
    sound.add_argument("--users", type=int, default=1_000)
    for command in (mutants, sound):
        command.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gregor-chaos-") as directory:
        file = Path(directory) / "history.jsonl"
        if chosen.command == "mutants":
            return run_mutants(file, chosen.names or sorted(MUTANTS), chosen.seed)
        return run_sound(file, chosen.operations, chosen.users, chosen.seed)


def run_mutants(file: Path, names: list[str], seed: int) -> int:
    """Plant each fault, print what the checker found, and return 0 if at least 95 % were found."""
    found = 0
    for name in names:
        planted = MUTANTS[name]
        simulation = Simulation(file, seed, 3, planted.make(), failovers=planted.failovers)
        asyncio.run(simulation.run(900))
        seen = {finding.name for finding in check_file(file, jobs=1).findings}
        is_found = bool(seen & planted.names)
        found += is_found
        print(f"{'found' if is_found else 'MISSED':6}  {name}: {planted.text}  {' '.join(sorted(seen))}", flush=True)
    print(f"{found} of {len(names)} planted faults were found")
    return 0 if found >= 0.95 * len(names) else 1


def run_sound(file: Path, operations: int, users: int, seed: int) -> int:
    """Check a sound history; print the speed. Return 0 if the checker finds nothing."""
    simulation = Simulation(file, seed, users)
    # Frames and reads count as operations, too: about 1.7 for each step of the simulation.
    asyncio.run(simulation.run(round(operations / 1.6)))
    began, cpu = time.monotonic(), time.process_time()
    report = check_file(file, jobs=1)
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    for finding in report.findings:
        print(finding)
    print(
        f"{report.operations} operations of {report.users} users: {len(report.findings)} findings,"
        f" {report.operations / took_s:.0f} operations/s, {report.operations / cpu_s:.0f} a CPU second"
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
