"""The whole check of one client: all vectors, then the simulation with many seeds, in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .simulation import Divergence, Run
from .testee import Testee, TesteeError
from .vectors import all_vectors, check_vectors

MAX_FAILURES = 20
"""Failures that a report lists at most; later seeds are only counted."""
SLICE = 25
"""Seeds that a process runs with one start of the command."""


@dataclass
class Report:
    """The result for one client. ``failures``: the name of each failed vector or seed, and its difference."""

    vectors: int = 0
    runs: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_conformant(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def check_client(command: Sequence[str], runs: int, seed: int = 0, jobs: int = 1) -> Report:
    """Check the client that `command` starts, with `runs` seeds from `seed` on, in `jobs` processes.

    Raises TesteeError if the command cannot be started, ends, or does not answer.
    """
    report = Report()
    with Testee(command) as testee:
        for name, difference in check_vectors(testee, all_vectors()):
            report.vectors += 1
            if difference is not None:
                report.failures.append((name, difference))
    for name, difference in _simulate(command, range(seed, seed + runs), jobs):
        report.runs += 1
        if difference is not None and len(report.failures) < MAX_FAILURES:
            report.failures.append((name, difference))
    return report


def _simulate(command: Sequence[str], seeds: range, jobs: int) -> Iterator[tuple[str, str | None]]:
    if jobs <= 1:
        yield from run_seeds(command, seeds)
        return
    slices = [seeds[at : at + SLICE] for at in range(0, len(seeds), SLICE)]
    with ProcessPoolExecutor(jobs) as pool:
        for results in pool.map(run_seeds, [command] * len(slices), slices):
            yield from results


def run_seeds(command: Sequence[str], seeds: range) -> list[tuple[str, str | None]]:
    """Run the simulation with these seeds. Returns the name of each, and its difference (None: it passed)."""
    results: list[tuple[str, str | None]] = []
    with Testee(command) as testee:
        for seed in seeds:
            difference = None
            try:
                Run(testee, seed).run()
            except Divergence as error:
                difference = str(error)
            except TesteeError as error:
                raise TesteeError(f"seed {seed}: {error}") from None
            results.append((f"seed {seed}", difference))
    return results
