"""Aggregators as installed distributions bring them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gregor_scheduler.aggregators import installed


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A distribution with these entry points of the group."""

    def done(lines: str) -> None:
        info = tmp_path / "plugins-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[gregor.aggregators]\n{lines}\n")
        (tmp_path / "plugins_of_a_test.py").write_text("NUMBER = 5\ndef fine(items):\n    return {}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return done


def test_the_example_is_shipped() -> None:
    assert installed().names == ("example.comments",)


def test_one_that_cannot_be_used_is_left_out_and_told(
    install: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "a.b = plugins_of_a_test:fine\n* = plugins_of_a_test:fine\nmissing = plugins_of_a_test:nothing\n"
        "number = plugins_of_a_test:NUMBER\nno category = plugins_of_a_test:fine"
    )

    assert sorted(installed().names) == ["", "a.b", "example.comments"]
    said = capsys.readouterr().out
    left_out = ("missing", "number", "no category")
    assert [name for name in left_out if f"aggregator={name}" in said.replace("'", "")] == list(left_out)
    assert said.count("cannot be loaded") == len(left_out)
