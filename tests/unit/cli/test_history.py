"""`gregor history check`: the report, the exit status; `gregor history check` does not hide a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

HEADER = {"gregor_history": 1, "wall_us": 1_700_000_000_000_000, "clock_ns": 0}


def write(path: Path, seqs: tuple[int, ...]) -> str:
    """Write a history of creations with these seqs."""
    lines: list[dict[str, Any]] = [HEADER]
    for n, seq in enumerate(seqs):
        message = {"system": "gregor", "body": {"create": {f"i{n}": {"category": "mail"}}}}
        receipt = {"cursor": f"00000a-{seq}", "seq": seq, "created": [f"i{n}"]}
        op = {"op": "send", "uid": "u", "invoked": 10 * n, "ended": 10 * n + 1, "outcome": "ok"}
        lines.append({**op, "message": message, "receipt": receipt})
    file = path / "run.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_sound_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "check", write(tmp_path, (1, 2))) == 0
    assert capsys.readouterr().out == "0 anomalies in 2 operations of 1 user\n"


def test_anomalies_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "check", write(tmp_path, (1, 3))) == 1
    assert capsys.readouterr().out.splitlines() == [
        "hole u: no message has the seq 2",
        "1 anomaly in 2 operations of 1 user",
    ]


def test_anomalies_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "check", "--json", write(tmp_path, (1, 3))) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "findings": [{"name": "hole", "uid": "u", "text": "no message has the seq 2", "lines": []}],
        "counts": {},
        "users": 1,
        "operations": 2,
    }


def test_other_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "other.txt"
    file.write_text("hello\n")

    assert run("history", "check", str(file)) == 2
    assert "line 1: not the header of a history" in capsys.readouterr().err


def test_user_named_check(ingest: ScriptedIngest) -> None:
    ingest.answer = {"entries": []}

    run("history", "user", "check")

    assert ingest.asked[0][1] == "/v1/users/check/history?limit=100"
