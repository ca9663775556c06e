"""``python -m tests.chaos [run | mutants | product-mutants | sound]``: see ``make chaos``. The default is ``run``."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import shutil
import sys
import tempfile
import time
from pathlib import Path

from gregor.history.checker import check_file
from tests.chaos.mutants import MUTANTS
from tests.chaos.product_mutants import PRODUCT_MUTANTS
from tests.chaos.run import ChaosPlan, as_json, run_chaos
from tests.chaos.simulation import Simulation
from tests.chaos.topologies import TOPOLOGIES

HANGS_S = 300
"""A run that takes five times its length and this time is considered hung."""


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="break real servers and processes, and check the history")
    run.add_argument("--seed", type=int, help="only this seed; its plan is printed first")
    run.add_argument("--seeds", type=int, default=30, help="number of seeds, beginning with 1")
    run.add_argument("--seconds", type=float, default=60)
    run.add_argument("--topology", choices=sorted(TOPOLOGIES), help="default: in turn, by seed")
    run.add_argument("--users", type=int, default=40)
    run.add_argument("--rate", type=float, default=60, help="messages a second")
    run.add_argument("--keep", type=Path, help="directory for the history of each seed with a finding")
    mutants = commands.add_parser("mutants", help="plant each fault in a simulated cluster; the checker must find it")
    mutants.add_argument("names", nargs="*", help="some faults (default: all)")
    products = commands.add_parser("product-mutants", help="plant each fault in real services; one run must find it")
    products.add_argument("names", nargs="*", help="some faults (default: all)")
    products.add_argument("--seed", type=int, default=101)
    sound = commands.add_parser("sound", help="check a sound history, and measure the checker")
    sound.add_argument("--operations", type=int, default=1_000_000)
    sound.add_argument("--users", type=int, default=1_000)
    for command in (mutants, sound):
        command.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args(arguments or ["run"])
    if chosen.command == "run":
        return run_seeds(chosen)
    if chosen.command == "product-mutants":
        return run_product_mutants(chosen.names or sorted(PRODUCT_MUTANTS), chosen.seed)
    with tempfile.TemporaryDirectory(prefix="gregor-chaos-") as directory:
        file = Path(directory) / "history.jsonl"
        if chosen.command == "mutants":
            return run_mutants(file, chosen.names or sorted(MUTANTS), chosen.seed)
        return run_sound(file, chosen.operations, chosen.users, chosen.seed)


def run_seeds(chosen: argparse.Namespace) -> int:
    """Run the seeds one after the other; print each, and the findings with the plan. Return 0 if all are clean."""
    seeds = [chosen.seed] if chosen.seed is not None else list(range(1, chosen.seeds + 1))
    failed = 0
    for seed in seeds:
        topology = chosen.topology or sorted(TOPOLOGIES)[seed % len(TOPOLOGIES)]
        size = ChaosPlan(seed, topology, chosen.seconds, chosen.users, chosen.rate)
        # A run that hangs ends itself and prints where it hangs; its directory stays.
        faulthandler.dump_traceback_later(5 * chosen.seconds + HANGS_S, exit=True)
        with tempfile.TemporaryDirectory(prefix="gregor-chaos-") as directory:
            outcome = run_chaos(Path(directory), size)
            file = Path(directory) / "history.jsonl"
            if chosen.seed is not None or not outcome.is_clean:
                print(outcome.describe(size, file), flush=True)
            if not outcome.is_clean:
                failed += 1
                if chosen.keep is not None:
                    chosen.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, chosen.keep / f"{topology}-{seed}.jsonl")
                    (chosen.keep / f"{topology}-{seed}.log").write_text(outcome.logs)
        word = "clean" if outcome.is_clean else "FOUND"
        print(f"{word}  seed {seed} {topology} {outcome.wall_s:.0f} s  {as_json(outcome)}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"{len(seeds) - failed} of {len(seeds)} seeds were clean")
    return 1 if failed else 0


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


def run_product_mutants(names: list[str], seed: int) -> int:
    """Plant each fault in a copy of the services, run one seed, and return 0 if each was found."""
    found = 0
    for name in names:
        planted = PRODUCT_MUTANTS[name]
        with tempfile.TemporaryDirectory(prefix="gregor-chaos-") as directory:
            code = planted.apply(Path(directory) / "code")
            outcome = run_chaos(Path(directory), ChaosPlan(seed, "standalone", seconds=25, users=16, rate=25), code)
        seen = {finding.name for finding in outcome.report.findings}
        is_found = bool(seen & planted.names)
        found += is_found
        print(f"{'found' if is_found else 'MISSED':6}  {name}: {planted.text}  {' '.join(sorted(seen))}", flush=True)
    print(f"{found} of {len(names)} faults in the services were found")
    return 0 if found == len(names) else 1


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
