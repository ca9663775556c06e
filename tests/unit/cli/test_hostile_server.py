"""A server that is not Gregor, or a hostile one: each command ends with one line, and reads a bounded answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gregor.cli import responses, target, watch
from gregor.cli.commands.dev import terminal_printer
from gregor.dev.fake_providers import NAME, arrival_text
from tests.support.dripping_server import KINDS, LIMIT_S, dripping_server
from tests.support.scripted_ingest import ScriptedIngest, scripted_ingest
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
    monkeypatch.setattr(responses, "MAX_ANSWER_BYTES", 1 << 20)
    ingest.status, ingest.answer = status, b"x" * (3 << 20)

    assert run(*command) == 1

    assert "more than 1 MiB" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("status", [200, 500])
def test_compressed_answer_is_refused_before_it_is_read(
    ingest: ScriptedIngest, command: tuple[str, ...], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer, ingest.headers, ingest.status = b"no gzip", {"Content-Encoding": "gzip, gzip"}, status

    assert run(*command) == 1

    assert "compressed ('gzip, gzip'), although" in capsys.readouterr().err
    assert ingest.encodings == ["identity"]


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


def test_title_of_a_push_cannot_steer_the_terminal_of_gregor_dev(capsys: pytest.CaptureFixture[str]) -> None:
    arrival = {"channel": "apns", "title": "\x1b]0;x\x07\x9b2J\u202e", "user": "alice"}

    terminal_printer([NAME])(NAME, arrival_text(arrival))

    printed = capsys.readouterr().err
    assert 'alice: "\\u001b]0;x\\u0007\\u009b2J\\u202e"' in printed
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(printed)


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


def test_compressed_stream_is_refused_before_it_is_read(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.next = [(200, {"ticket": "t"})]
    with scripted_ingest() as gateway:
        gateway.answer, gateway.headers = b"no gzip", {"Content-Encoding": "gzip, gzip"}

        assert run("watch", "alice", "--observe", "--stream", gateway.url) == 1

    assert "compressed ('gzip, gzip'), although" in capsys.readouterr().err
    assert gateway.encodings == ["identity"]


def test_endless_event_is_cut(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(responses, "MAX_ANSWER_BYTES", 1 << 20)
    ingest.next = [(200, {"ticket": "t"})]
    ingest.answer = b"data:" + b"x" * (3 << 20)

    assert run("watch", "alice", "--observe", "--stream", ingest.url) == 1

    assert "more than 1 MiB" in capsys.readouterr().err


# Responses that never end.


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((target, "TOTAL_S"), (target, "TIMEOUT_S"), (watch, "HEAD_S"), (watch, "SILENCE_S")):
        monkeypatch.setattr(module, name, 0.4)


@pytest.mark.usefixtures("ingest", "short_limits")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", [("state", "alice"), ("send", "alice", "--category", "c")], ids=" ".join)
def test_command_ends_if_the_response_arrives_slowly(
    command: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with dripping_server(kind) as server:
        monkeypatch.setenv("GREGOR_URL", server.url)
        began_s = time.monotonic()

        assert run(*command) == 1

        assert time.monotonic() - began_s < LIMIT_S / 2
    [line] = capsys.readouterr().err.splitlines()
    assert server.url in line


@pytest.mark.usefixtures("ingest", "short_limits")
@pytest.mark.parametrize("kind", ["status line", "headers", "1xx", "chunk size", "refusal"])
def test_export_ends_if_a_part_arrives_slowly(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with dripping_server(kind) as server:
        monkeypatch.setenv("GREGOR_URL", server.url)
        began_s = time.monotonic()

        assert run("users", "export", "alice") == 1

        assert time.monotonic() - began_s < LIMIT_S / 2
    [line] = capsys.readouterr().err.splitlines()
    assert server.url in line


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("kind", ["status line", "headers", "1xx", "chunk size"])
def test_observer_ends_if_a_part_arrives_slowly(
    ingest: ScriptedIngest, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = {"ticket": "t"}
    with dripping_server(kind) as server:
        began_s = time.monotonic()

        assert run("watch", "alice", "--observe", "--stream", server.url) == 1

        assert time.monotonic() - began_s < LIMIT_S / 2
    [line] = capsys.readouterr().err.splitlines()
    assert server.url in line


@pytest.mark.usefixtures("ingest", "short_limits")
def test_long_export_has_no_total_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with dripping_server("lines") as server:
        monkeypatch.setenv("GREGOR_URL", server.url)

        assert run("users", "export", "alice") == 1

    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 20 and "its last line is missing" in shown.err


def test_slow_pages_end_the_list(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, "LIST_S", 0.0)
    ingest.answer, ingest.links = {"jobs": []}, ["/v1/jobs?after=a", "/v1/jobs?after=b"]

    assert run("jobs", "list") == 1

    assert len(ingest.asked) == 1
    assert "did not end" in capsys.readouterr().err


# Redirects, links and refusals.

CALLS = (
    ("state", "alice"),
    ("keys", "create", "--scope", "read"),
    ("dead", "purge", "a"),
    ("users", "export", "alice"),
    ("upgrade", "status"),
)


@pytest.mark.parametrize("command", CALLS, ids=" ".join)
@pytest.mark.parametrize("status", [301, 304, 307, 308])
@pytest.mark.parametrize("answer", [b"", b"{}"], ids=["empty", "object"])
def test_redirect_is_a_failure_that_names_its_target(
    ingest: ScriptedIngest,
    command: tuple[str, ...],
    status: int,
    answer: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ingest.status, ingest.answer = status, answer
    ingest.headers = {"Location": "https://other.example/"}

    assert run(*command) == (2 if command[0] == "upgrade" else 1)

    assert len(ingest.asked) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"answered {status}, a redirect to https://other.example/" in line and "--url" in line


def test_pages_are_read_from_the_named_server_only(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_ingest() as other:
        host = other.url.removeprefix("http://")
        for link in (f"@{host}/v1/jobs", f"{other.url}/v1/jobs", f".{host}/", "?before=7", "%2e@x/"):
            ingest.answer, ingest.links = {"jobs": []}, [link]

            assert run("jobs", "list") == 1

            assert "another server" in capsys.readouterr().err
        assert other.asked == [] and other.authorization is None


def test_link_with_two_slashes_stays_on_the_named_server(ingest: ScriptedIngest) -> None:
    with scripted_ingest() as other:
        ingest.answer, ingest.links = {"jobs": []}, [f"//{other.url.removeprefix('http://')}/v1/jobs"]

        assert run("jobs", "list") == 0

        assert len(ingest.asked) == 2 and other.asked == []


@pytest.mark.parametrize("links", [["/v1/jobs?before=7"] * 9, ["/v1/jobs?before=7", "/v1/jobs?before=8"] * 9])
def test_repeated_link_ends_the_list(
    ingest: ScriptedIngest, links: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer, ingest.links = {"jobs": []}, links

    assert run("jobs", "list") == 1

    assert len(ingest.asked) <= 3
    assert "does not end" in capsys.readouterr().err


def test_endless_pages_end_the_list(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, "MAX_PAGES", 5)
    ingest.answer, ingest.links = {"entries": []}, [f"/v1/audit?before={page}" for page in range(20)]

    assert run("audit") == 1

    assert len(ingest.asked) == 6
    assert "does not end" in capsys.readouterr().err


def test_pages_are_bounded_together(
    ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, "MAX_LIST_BYTES", 1 << 20)
    ingest.answer = {"jobs": [], "more": "x" * (300 << 10)}
    ingest.links = [f"/v1/jobs?before={page}" for page in range(20)]

    assert run("jobs", "list") == 1

    assert len(ingest.asked) == 4
    assert "does not end" in capsys.readouterr().err


@pytest.mark.parametrize(
    "problem",
    [
        b'{"code": "x", "status": 1e999}',
        b'{"code": "x", "status": []}',
        b'{"code": "x", "errors": 7}',
        b'{"code": "x", "errors": [7]}',
        b'{"code": "x", "errors": ["\\u001b"]}',
        b'{"code": ["\\u001b"], "detail": {"\\u001b": 1}}',
        b"[]",
    ],
)
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_malformed_problem_is_one_line(
    ingest: ScriptedIngest, problem: bytes, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.status, ingest.answer = 500, problem

    assert run("state", "alice", *options) == 1

    output = capsys.readouterr()
    assert len((output.out + output.err).splitlines()) == 1 and "\x1b" not in output.out + output.err


@pytest.mark.parametrize("answer", [{}, {"state": "blocked"}, {"state": "blocked", "processes": 7}])
def test_unknown_state_of_an_upgrade_is_not_a_blocked_one(
    ingest: ScriptedIngest, answer: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = answer

    assert run("upgrade", "status") == 2

    assert "Gregor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "event",
    [b"data: 7\n\n", b'data: {"sync": "full", "body": 7, "cursor": 7}\n\n', b'data: {"close": "\\u001b"}\n\n'],
)
def test_observed_event_of_another_shape_is_an_error(
    ingest: ScriptedIngest, event: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.next = [(200, {"ticket": "t"})]
    ingest.answer = event

    assert run("watch", "alice", "--observe", "--stream", ingest.url) == 1

    error = capsys.readouterr().err
    assert "is it Gregor" in error and "\x1b" not in error
