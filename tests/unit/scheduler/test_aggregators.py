"""Aggregators are loaded from the entry points of installed distributions."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from gregor_scheduler.aggregators import load_aggregators

EXAMPLE = Path(__file__).parents[3] / "examples" / "comment_aggregator"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that installs a distribution with these entry points."""

    def install_plugins(lines: str) -> None:
        info = tmp_path / "plugins-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[gregor.aggregators]\n{lines}\n")
        (tmp_path / "plugins_of_a_test.py").write_text("NUMBER = 5\ndef fine(items):\n    return {}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install_plugins


def test_example_aggregator_is_loaded(install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    monkeypatch.syspath_prepend(str(EXAMPLE))
    install("\n".join(f"{name} = {target}" for name, target in project["entry-points"]["gregor.aggregators"].items()))

    assert load_aggregators().prefixes == ("example.comments",)


def test_example_aggregator_runs_as_a_script() -> None:
    result = subprocess.run([sys.executable, str(EXAMPLE / "comment_aggregator.py")], check=True, capture_output=True)

    [thread] = json.loads(result.stdout)["threads"]
    assert (thread["thread"], thread["count"]) == ("lunch", 2)


def test_invalid_aggregators_are_logged_and_skipped(
    install: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "a.b = plugins_of_a_test:fine\n* = plugins_of_a_test:fine\nmissing = plugins_of_a_test:nothing\n"
        "number = plugins_of_a_test:NUMBER\nno category = plugins_of_a_test:fine"
    )

    assert sorted(load_aggregators().prefixes) == ["", "a.b"]
    output = capsys.readouterr().out
    skipped = ("missing", "number", "no category")
    assert [name for name in skipped if f"aggregator={name}" in output.replace("'", "")] == list(skipped)
    # An environment that was installed long ago may hold entry points of other distributions.
    logged = [line for line in output.splitlines() if "aggregator.not_loaded" in line and "example." not in line]
    assert len(logged) == len(skipped)
