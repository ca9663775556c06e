"""Aggregators are loaded from the entry points of installed distributions."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gregor.core.categories.policy import AggregationPolicy
from gregor.core.items.codec import item_json
from gregor.core.items.sync import LiveItem
from gregor_scheduler.aggregators import AggregatorFailed, Aggregators, load_aggregators
from tests.support.builders import LIMITS, NOW_US, SECOND_US

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


async def test_event_loop_neither_decodes_nor_encodes_large_bodies() -> None:
    body = b"[" + b",".join([b"[]"] * 5_332) + b"]"
    text = item_json(body, "news", "", NOW_US, None, ())
    items = [LiveItem(f"i{n:02}", "news", None, NOW_US, n, None, (), text) for n in range(64)]
    got: list[object] = []

    def joining(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        got.append((len(items), items[0]["id"], items[-1]["id"], len(items[0]["body"])))
        return {"parts": [item["body"] for item in items]}

    async def seconds_of_the_loop() -> float:
        began = time.thread_time()
        with pytest.raises(AggregatorFailed, match=f"more than {LIMITS.body_bytes}"):
            await aggregators.body(items, AggregationPolicy(60 * SECOND_US, 3), LIMITS)
        return time.thread_time() - began

    # Decoding the 1 MiB that a user may have takes 0.1 s, and the body that is too large takes more.
    aggregators = Aggregators({"": joining}, timeout_s=60)
    assert min([await seconds_of_the_loop() for _ in range(2)]) < 0.02
    assert got == [(64, "i00", "i63", 5_332)] * 2
