"""A server that is not Gregor, or a hostile one: each command ends with one line, and reads a bounded answer."""

from __future__ import annotations

import pytest

from gregor.cli import target
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

DEEP = b"[" * 100_000
COMMANDS = (
    ("state", "alice"),
    ("jobs", "list"),
    ("users", "export", "alice"),
    ("watch", "alice", "--observe", "--stream", "http://127.0.0.1:1"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("status", [200, 500])
def test_endless_answer_is_cut(
    ingest: ScriptedIngest,
    command: tuple[str, ...],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(target, "MAX_ANSWER_BYTES", 1 << 20)
    ingest.status, ingest.answer = status, b"x" * (3 << 20)

    assert run(*command) == 1

    assert "more than 1 MiB" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("answer", [b"<html>", DEEP, b"\xff"], ids=["html", "deep", "bytes"])
def test_answer_without_json_is_an_error(
    ingest: ScriptedIngest, command: tuple[str, ...], answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = answer + b"\n"

    assert run(*command) == 1

    assert "Gregor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [("state", "alice"), ("jobs", "list"), ("keys", "list"), ("categories", "show", "a")]
)
@pytest.mark.parametrize(
    "answer", [b"[1, 2]", b"1", b"{}", b'{"jobs": [{}], "keys": [{}], "badge": 1, "items": {"a": {}}}']
)
def test_answer_of_another_shape_is_an_error(
    ingest: ScriptedIngest, command: tuple[str, ...], answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = answer

    assert run(*command) == 1

    assert "Gregor" in capsys.readouterr().err


def test_texts_of_a_category_cannot_steer_the_terminal(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = {"version": 1, "categories": {"mail": {"title": "\x1b]0;x\x07\x9b2J\u202e"}}}

    assert run("categories", "show", "mail") == 0

    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(capsys.readouterr().out)


@pytest.mark.parametrize("answer", [DEEP, b'{"code":' + DEEP], ids=["deep", "deep code"])
def test_nested_problem_is_an_error(ingest: ScriptedIngest, answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.status, ingest.answer = 500, answer

    assert run("state", "alice") == 1

    assert "answered 500" in capsys.readouterr().err


@pytest.mark.parametrize("event", [b"data: <html>\n\n", b"data:" + DEEP + b"\n\n"], ids=["html", "deep"])
def test_observed_event_without_json_is_an_error(
    ingest: ScriptedIngest, event: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.next = [(200, {"ticket": "t"})]
    ingest.answer = event

    assert run("watch", "alice", "--observe", "--stream", ingest.url) == 1

    assert "not JSON" in capsys.readouterr().err


def test_endless_event_is_cut(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, "MAX_ANSWER_BYTES", 1 << 20)
    ingest.next = [(200, {"ticket": "t"})]
    ingest.answer = b"data:" + b"x" * (3 << 20)

    assert run("watch", "alice", "--observe", "--stream", ingest.url) == 1

    assert "more than 1 MiB" in capsys.readouterr().err
