"""`gregor conformance -- COMMAND`: test vectors and a simulated lossy network for a client in any language."""

import json
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from gregor.cli.errors import CommandError
from gregor.cli.tables import counted, printable
from gregor.cli.target import Json

if TYPE_CHECKING:
    from gregor.conformance.kit import Report

PROGRESS_S = 10.0
"""Interval of the progress on standard error. A check that takes less time prints none."""


def conformance(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Starts the adapter of the client.")],
    runs: Annotated[int, typer.Option(min=0, help="Runs of the simulation.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="First seed; the others follow.")] = 0,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")] = 0,
    as_json: Json = False,
) -> None:
    """Check a client: digests, frames, messages, and a simulation that drops, repeats, reorders and cuts.

    The command is an adapter of about 50 lines; docs/how-to/conformance.md describes it. Exit status 1 if it fails.
    """
    # Imported here: the kit loads the reference model, which no other command needs.
    from gregor.conformance.kit import check_client
    from gregor.conformance.testee import TesteeError

    try:
        report = check_client(command, runs, seed, jobs or os.cpu_count() or 1, Progress(runs))
    except TesteeError as error:
        raise CommandError(f"gregor conformance: {error}") from None
    if as_json:
        failures = [{"name": name, "difference": difference} for name, difference in report.failures]
        typer.echo(json.dumps({"vectors": report.vectors, "runs": report.runs, "failures": failures}))
    else:
        for name, difference in report.failures:
            typer.echo(printable(f"failed  {name}: {difference}"))
        done = (
            f"{counted(report.vectors, 'vector', 'vectors')}, {counted(report.runs, 'run', 'runs')} of the simulation"
        )
        result = "conformant" if report.is_conformant else "not conformant; --seed N --runs 1 repeats a seed"
        typer.echo(f"{done}: {result}")
    if not report.is_conformant:
        raise typer.Exit(1)


class Progress:
    """Prints the completed runs, their rate and the remaining time to standard error, every ``PROGRESS_S``."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._begun = self._printed = time.monotonic()

    def __call__(self, report: "Report") -> None:
        now = time.monotonic()
        if now - self._printed < PROGRESS_S:
            return
        self._printed = now
        rate = report.runs / (now - self._begun)
        left = f"{rate:.0f} runs/s, {(self._runs - report.runs) / rate:.0f} s left"
        typer.echo(f"{report.runs:,} of {self._runs:,} runs, {report.failed} failures, {left}", err=True)
