"""docs/reference/history-format.md lists the anomalies, the planted faults and the members of each operation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct, structs

from gregor.history.anomalies import ANOMALIES, LOST_IN_FAILOVER
from gregor.history.format import CloseOp, ConnectOp, FaultOp, ForgetOp, FrameOp, HistoryHeader, ReadOp, SendOp
from tests.chaos.mutants import MUTANTS

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "history-format.md").read_text("utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_anomalies_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+)\. \|$", section("Anomalies"), re.MULTILINE))

    assert {name: text.lower() for name, text in rows.items()} == {n: t.lower() for n, t in ANOMALIES.items()}
    assert LOST_IN_FAILOVER in PAGE


def test_planted_faults_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section("Planted faults"), re.MULTILINE)
    listed = {name: (text, frozenset(names.split(", "))) for name, text, names in rows}

    assert listed == {name: (each.text, each.names) for name, each in MUTANTS.items()}


@pytest.mark.parametrize("kind", [HistoryHeader, SendOp, ForgetOp, ConnectOp, FrameOp, CloseOp, ReadOp, FaultOp])
def test_every_member_is_documented(kind: type[Struct]) -> None:
    members = {field.name for field in structs.fields(kind)} - {"line"}

    assert {name for name in members if f"`{name}`" not in PAGE} == set()
