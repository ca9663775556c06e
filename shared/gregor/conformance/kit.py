"""The whole check of one client: all vectors, then the simulation with many seeds, in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .simulation import Divergence, Run
from .testee import Testee
from .vectors import all_vectors, check_vectors

MAX_FAILURES = 20
"""Failed seeds that a report names."""
SLICE = 25
"""Seeds that one process takes at once."""


@dataclass
class Report:
    """The result for one client. Failures are (name, difference)."""

    vectors: int = 0
    runs: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_conformant(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def check_client(command: Sequence[str], runs: int, seed: int = 0, jobs: int = 1) -> Report:
    """Check the client that `command` starts. Raises TesteeError if it cannot be asked."""
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
    """Run the simulation with these seeds; return for each its name and what differs, or None."""
    results: list[tuple[str, str | None]] = []
    with Testee(command) as testee:
        for seed in seeds:
            difference = None
            try:
                Run(testee, seed).run()
            except Divergence as error:
                difference = str(error)
            results.append((f"seed {seed}", difference))
    return results
