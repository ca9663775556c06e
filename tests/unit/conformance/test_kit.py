"""The whole check of a command, as `gregor conformance` executes it."""

import json
import sys

import pytest
from typer.testing import CliRunner

from gregor.cli.app import app
from gregor.cli.commands import conformance
from gregor.conformance.kit import MAX_FAILURES, check_client

PYTHON_CLIENT = [sys.executable, "-m", "gregor.conformance.python_client"]
RESPONSE = {"digest": "", "send": [], "items": {}, "copy": {}, "badge": 0, "cursor": None, "pending": 0, "snapshot": 0}
SENDS_NOTHING = [
    sys.executable,
    "-c",
    f"import sys\nfor line in sys.stdin: print({json.dumps(RESPONSE)!r}, flush=True)",
]


def test_all_runs_are_counted_over_processes() -> None:
    seen: list[int] = []

    report = check_client(PYTHON_CLIENT, 5, seed=7, jobs=2, on_progress=lambda report: seen.append(report.runs))

    assert report.is_conformant
    assert report.vectors > 40
    assert seen == [3, 5]


def test_report_lists_the_first_failures_and_counts_all() -> None:
    report = check_client(SENDS_NOTHING, 3)

    assert len(report.failures) == MAX_FAILURES < report.failed


def test_progress_is_printed_to_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "PROGRESS_S", 0)

    result = CliRunner().invoke(app, ["conformance", "--runs", "1", "--json", "--", *PYTHON_CLIENT])

    assert json.loads(result.stdout)["failures"] == []
    assert result.stderr.startswith("1 of 1 runs, 0 failures, ")
