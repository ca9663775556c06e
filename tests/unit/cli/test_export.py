"""`gregor users export | delete`: the lines of the API and their completeness; the confirmation of a deletion."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

LINES: list[dict[str, Any]] = [
    {"kind": "begin", "version": 1, "uid": "a|b", "at": 1},
    {"kind": "work", "work": "expire", "of": "two\u2028lines", "at": 2},
    {"kind": "end", "counts": {"begin": 1, "work": 1}},
]


def ndjson(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def test_export_prints_the_lines(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = ndjson(LINES)

    assert run("users", "export", "a|b") == 0

    assert ingest.asked == [("GET", "/v1/users/a%7Cb/export", None)]
    assert capsys.readouterr().out.encode() == ndjson(LINES)


def test_export_cannot_steer_a_terminal(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same JSON. Written to a file, the lines are those of the API."""
    item = {"kind": "item", "body": "\x7f \x9b2J \u202e \u2066"}
    ingest.answer = ndjson([LINES[0], item, {"kind": "end", "counts": {"begin": 1, "item": 1}}])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    assert run("users", "export", "alice") == 0

    printed = capsys.readouterr().out
    assert not {"\x7f", "\x9b", "\u202e", "\u2066"} & set(printed)
    assert json.loads(printed.splitlines()[1]) == item


@pytest.mark.parametrize(
    "lines", [LINES[:-1], [*LINES[:1], LINES[2]], [*LINES[:2], *LINES[1:]], []], ids=["cut", "missing", "more", "empty"]
)
def test_incomplete_export_fails(
    ingest: ScriptedIngest, lines: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = ndjson(lines)

    assert run("users", "export", "alice") == 1

    assert "not complete" in capsys.readouterr().err


def test_refused_export_shows_the_problem(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.status, ingest.answer = (
        403,
        {"code": "forbidden", "detail": "This needs a service key with the scope admin."},
    )

    assert run("users", "export", "alice") == 1

    assert "scope admin" in capsys.readouterr().err


def test_deletion_needs_yes(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("users", "delete", "alice") == 2

    assert f"at {ingest.url} cannot be undone; confirm it with --yes" in capsys.readouterr().err
    assert ingest.asked == []


def test_confirmed_user_is_deleted(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.status = 204

    assert run("users", "delete", "a|b", "--yes") == 0

    assert ingest.asked == [("DELETE", "/v1/users/a%7Cb", None)]
    assert capsys.readouterr().out == (
        f"a|b is deleted at {ingest.url}, or never existed; tokens issued in the next 30 seconds are refused too\n"
    )


@pytest.mark.parametrize(("reply", "status", "asked"), [("y\n", 0, 1), ("\n", 130, 0)])
def test_deletion_asks_on_a_terminal(
    reply: str, status: int, asked: int, ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(reply))
    ingest.status = 204

    assert run("users", "delete", "alice") == status

    assert len(ingest.asked) == asked
