"""`gregor audit`: the call of the API, and the output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gregor.cli.commands.audit import ACTS
from gregor.cli.times import utc_text
from gregor.store.deleted_users import user_id_hash
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

EVENT: dict[str, Any] = {
    "at": 1457056447,
    "key": "k3f9a1c2d4e5",
    "act": "deleteUser",
    "target": {"uid": "2bd806c9"},
    "outcome": "ok",
    "request_id": "r1",
    "client": None,
}


def test_audit_shows_time_key_act_and_target(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [EVENT]}

    assert run("audit", "--limit", "7") == 0

    assert ingest.asked == [("GET", "/v1/audit?limit=7", None)]
    head, row = capsys.readouterr().out.splitlines()
    when = utc_text(1457056447).split()
    assert head.startswith("TIME (UTC)")
    assert row.split() == [*when, "k3f9a1c2d4e5", "deleteUser", "uid=2bd806c9", "ok", "-", "r1"]


def test_audit_follows_pages_up_to_the_limit(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [EVENT, EVENT]}
    ingest.links = ["/v1/audit?limit=3&before=2-0", "/v1/audit?limit=3&before=1-0"]

    run("audit", "--limit", "3", "--json")

    assert len(json.loads(capsys.readouterr().out)["entries"]) == 3
    assert len(ingest.asked) == 2


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        (["--act", "deleteUser"], ["r1"]),
        (["--by", "other"], ["r3", "r2"]),
        (["--user", "alice"], ["r1"]),
        (["--target", "k1"], ["r2"]),
        (["--since", "1457056448"], ["r3", "r2"]),
        (["--until", "1457056449"], ["r2", "r1"]),
        (["--by", "other", "--limit", "1"], ["r3"]),
        (["--act", "deleteUser", "--by", "other"], []),
    ],
)
def test_audit_is_filtered(
    options: list[str], requests: list[str], ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    delete = EVENT | {"target": {"uid": user_id_hash("alice")}}
    rotate = EVENT | {"at": 1457056448, "key": "other", "act": "rotateKey", "target": {"key": "k1"}, "request_id": "r2"}
    ingest.answer = {"entries": [rotate | {"at": 1457056449, "target": {}, "request_id": "r3"}, rotate, delete]}

    assert run("audit", *options, "--json") == 0

    assert [each["request_id"] for each in json.loads(capsys.readouterr().out)["entries"]] == requests


def test_audit_reads_no_page_before_since(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [EVENT]}
    ingest.links = ["/v1/audit?limit=1000&before=1-0"]

    run("audit", "--since", "1457056748")

    assert ingest.asked == [("GET", "/v1/audit?limit=1000", None)]
    assert capsys.readouterr().out == "no entry of the audit trail matches\n"


def test_audit_since_survives_a_clock_that_is_behind(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    late, behind = EVENT | {"at": 1457056500}, EVENT | {"at": 1457056300, "request_id": "r2"}
    ingest.answer = {"entries": [late, behind, late | {"request_id": "r3"}]}

    run("audit", "--since", "1457056450", "--json")

    assert [each["request_id"] for each in json.loads(capsys.readouterr().out)["entries"]] == ["r1", "r3"]


@pytest.mark.parametrize(
    ("act", "hint"),
    [
        ("deleteuser", "did you mean deleteUser"),
        ("DeleteUsr", "did you mean deleteUser"),
        ("nonsense", "gregor audit --help lists the acts"),
    ],
)
def test_unknown_act_is_refused_with_the_nearest(
    act: str, hint: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("audit", "--act", act) == 2

    said = capsys.readouterr().err
    assert f"{act} is not an act of the audit trail" in said and hint in said
    assert ingest.asked == []


def test_key_without_entries_is_not_an_error(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [EVENT]}

    assert run("audit", "--by", "other") == 0
    assert capsys.readouterr().out == "no entry of the audit trail matches\n"


def test_reference_lists_the_acts() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/http.md").read_text("utf-8")

    listed = page.partition("\nThe acts are:\n")[2].partition("\n\n")[0]

    assert re.findall(r"`(\w+)`", listed) == list(ACTS)
