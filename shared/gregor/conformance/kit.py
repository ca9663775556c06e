"""The complete check of one client: all vectors, then the simulation with many seeds, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat

from .simulation import Divergence, Run
from .testee import Testee, TesteeError
from .vectors import all_vectors, check_vectors

MAX_FAILURES = 20
"""Maximum number of failures that a report lists. Later failures are only counted."""
SLICE = 100
"""Maximum number of seeds that a process runs with one start of the command."""
Results = list[tuple[str, str | None]]
"""The name of each vector or seed, and the difference to the expected result; None if it passed."""


@dataclass
class Report:
    """The result for one client. ``failures``: the first failed vectors or seeds by name, and their differences."""

    vectors: int = 0
    runs: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_conformant(self) -> bool:
        """Whether all vectors and runs have passed."""
        return not self.failed

    def add(self, name: str, difference: str | None) -> None:
        """Count the result of a vector or a run. ``difference`` is None if it passed."""
        if difference is None:
            return
        self.failed += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append((name, difference))


def check_client(
    command: Sequence[str],
    runs: int,
    seed: int = 0,
    jobs: int = 1,
    on_progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Check the client that `command` starts, with `runs` seeds from `seed` on, in `jobs` processes.

    Calls `on_progress` after each slice of runs. Raises TesteeError if the command cannot be started, ends, or does not
    answer.
    """
    report = Report()
    with Testee(command) as testee:
        for name, difference in check_vectors(testee, all_vectors()):
            report.vectors += 1
            report.add(name, difference)
    for results in _simulate(command, range(seed, seed + runs), jobs):
        for name, difference in results:
            report.runs += 1
            report.add(name, difference)
        on_progress(report)
    return report


def _simulate(command: Sequence[str], seeds: range, jobs: int) -> Iterator[Results]:
    size = max(1, min(SLICE, -(-len(seeds) // jobs)))
    slices = [seeds[at : at + size] for at in range(0, len(seeds), size)]
    if jobs == 1:
        yield from map(run_seeds, repeat(command), slices)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_seeds, repeat(command), slices)


def run_seeds(command: Sequence[str], seeds: range) -> Results:
    """Run the simulation with these seeds. Returns the name of each, and the difference (None if it passed)."""
    results: Results = []
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
