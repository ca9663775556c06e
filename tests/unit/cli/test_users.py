"""`gregor users export | delete | revoke`: the lines of the API and their completeness; the confirmations."""

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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("reply", "status", "asked"), [("y\n", 0, 1), ("\n", 130, 0)])
@pytest.mark.parametrize("command", ["delete", "revoke"])
def test_command_for_all_devices_asks_on_a_terminal(
    command: str,
    reply: str,
    status: int,
    asked: int,
    ingest: ScriptedIngest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(reply))
    ingest.answer = {"device": None, "issued_before": 1457056530}

    assert run("users", command, "alice") == status

    assert f"alice at {ingest.url}?" in capsys.readouterr().err
    assert len(ingest.asked) == asked


def test_revocation_of_all_devices_needs_yes(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("users", "revoke", "alice", "--delayed") == 2

    assert f"the tokens of all devices at {ingest.url}; confirm it with --yes" in capsys.readouterr().err
    assert ingest.asked == []


@pytest.mark.parametrize(
    ("options", "sent", "whose"),
    [
        (["--yes"], {"device": None, "delayed": False}, "all devices of a|b"),
        (["--yes", "--delayed"], {"device": None, "delayed": True}, "all devices of a|b"),
        (["--device", "phone"], {"device": "phone", "delayed": False}, "phone of a|b"),
    ],
)
def test_revocation_names_its_last_time(
    options: list[str],
    sent: dict[str, Any],
    whose: str,
    ingest: ScriptedIngest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ingest.answer = {"device": sent["device"], "issued_before": 1457056530.25}

    assert run("users", "revoke", "a|b", *options) == 0

    assert ingest.asked == [("POST", "/v1/users/a%7Cb/revoke", sent)]
    assert capsys.readouterr().out == (
        f"tokens of {whose} issued at or before 2016-03-04 01:55:31 UTC are revoked at {ingest.url}; "
        "devices need newer tokens\n"
    )


def test_revocation_prints_the_answer_as_json(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"device": None, "issued_before": 1457056530}

    assert run("users", "revoke", "alice", "--yes", "--json") == 0

    assert json.loads(capsys.readouterr().out) == ingest.answer
