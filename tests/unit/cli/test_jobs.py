"""`gregor jobs`: the calls of the API, and the output."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

JOB: dict[str, Any] = {
    "id": "flush-1",
    "kind": "flush",
    "state": "waiting",
    "params": {"spread": 30},
    "done": 683,
    "total": 1024,
    "created": 1457056457,
    "changed": 1457056458,
    "reason": "341 partitions are on servers that do not answer",
}


def test_list_shows_state_and_progress(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"jobs": [JOB, {**JOB, "id": "flush-2", "total": 0, "done": 0, "reason": None}]}

    assert run("jobs", "list") == 0

    assert ingest.asked == [("GET", "/v1/jobs", None)]
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "KIND", "STATE", "DONE", "CREATED", "CHANGED", "RESULT"]
    assert first.split()[:4] == ["flush-1", "flush", "waiting", "66%"] and first.endswith(JOB["reason"])
    assert second.split()[:4] == ["flush-2", "flush", "waiting", "-"]


def test_list_shows_the_jobs_of_all_pages(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.next = [(200, {"jobs": [JOB]}), (200, {"jobs": [{**JOB, "id": "flush-2"}]})]
    ingest.links = ["/v1/jobs?before=7"]

    assert run("jobs", "list", "--json") == 0

    assert [path for _, path, _ in ingest.asked] == ["/v1/jobs", "/v1/jobs?before=7"]
    assert [job["id"] for job in json.loads(capsys.readouterr().out)["jobs"]] == ["flush-1", "flush-2"]


@pytest.mark.parametrize(("command", "method"), [("show", "GET"), ("cancel", "DELETE")])
def test_one_job_is_shown_or_cancelled(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], command: str, method: str
) -> None:
    ingest.answer = JOB

    assert run("jobs", command, "flush-1", "--json") == 0

    assert ingest.asked == [(method, "/v1/jobs/flush-1", None)]
    assert json.loads(capsys.readouterr().out) == JOB


def test_wait_returns_when_the_job_is_over(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gregor.cli.commands.jobs.POLL_S", 0.0)
    ingest.answer = {**JOB, "state": "done", "reason": None, "result": {"sent": 7, "offline": 1}}

    assert run("jobs", "wait", "flush-1") == 0
    assert capsys.readouterr().out.rstrip().endswith("sent 7, offline 1")

    ingest.answer = {**JOB, "state": "failed", "reason": "KeyError: 'spread'"}
    assert run("jobs", "wait", "flush-1") == 1
    assert "is failed: KeyError: 'spread'" in capsys.readouterr().err


def test_wait_says_once_that_it_waits(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.answer = JOB
    states = iter(("running", "done"))
    monkeypatch.setattr("time.sleep", lambda _: setattr(ingest, "answer", {**JOB, "state": next(states)}))

    assert run("jobs", "wait", "flush-1") == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gregor: waiting for the job flush-1; ")


def test_broadcast_sends_its_options(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {**JOB, "kind": "broadcast", "state": "waiting"}

    assert run("broadcast", "chat", "--body", "7", "--spread", "10m", "--all", "--id", "b1") == 0

    document = {"system": "chat", "body": 7, "spread": 600, "audience": "all", "id": "b1"}
    assert ingest.asked == [("POST", "/v1/broadcast", document)]
    assert "broadcast" in capsys.readouterr().out
    assert run("broadcast", "chat", "--body", "{") == 2
    assert run("broadcast", "chat", "--body", "1", "--spread", "soon") == 2


def test_audit_is_started_and_awaited(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {**JOB, "kind": "audit", "state": "done", "reason": None, "result": {"checked": 3}}

    assert run("jobs", "start", "audit", "--id", "a1", "--wait") == 0

    assert ingest.asked == [("POST", "/v1/jobs", {"kind": "audit", "id": "a1"}), ("GET", "/v1/jobs/flush-1", None)]
    assert capsys.readouterr().out.rstrip().endswith("checked 3")
