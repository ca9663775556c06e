"""`gregor upgrade`: the table, the advice, and the exit status that scripts use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

GATEWAY = {"process": "h:1", "service": "gateway", "release": "0.1.0", "reads": [1, 1], "writes": 1, "blocks": True}
INGEST = {"process": "h:2", "service": "ingest", "release": "0.2.0", "reads": [1, 2], "writes": 1, "blocks": False}
BLOCKED: dict[str, Any] = {
    "state": "blocked",
    "written": 1,
    "newest": 2,
    "oldest": 1,
    "release": "0.1.0",
    "processes": [GATEWAY, INGEST],
}
POSSIBLE = {**BLOCKED, "state": "possible", "processes": [INGEST]}
FINISHED = {**BLOCKED, "state": "finished", "written": 2, "processes": [INGEST]}


def test_status_names_the_blocking_processes(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = BLOCKED

    assert run("upgrade", "status") == 1

    assert ingest.asked == [("GET", "/v1/upgrade", None)]
    head, first, second, _, advice = capsys.readouterr().out.splitlines()
    assert head.split() == ["SERVICE", "RELEASE", "READS", "WRITES", "BLOCKS", "PROCESS"]
    assert first.split() == ["gateway", "0.1.0", "1-1", "1", "yes", "h:1"]
    assert second.split() == ["ingest", "0.2.0", "1-2", "1", "no", "h:2"]
    assert "1 process cannot read format 2: replace" in advice


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (POSSIBLE, "run `gregor upgrade finish`"),
        (FINISHED, "finished: format 2 is written; 1 process will write it within 20 seconds; values of format 1"),
        ({**FINISHED, "oldest": 2, "processes": []}, "finished: format 2 is written"),
    ],
)
def test_status_succeeds_if_nothing_blocks(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], answer: Any, advice: str
) -> None:
    ingest.answer = answer

    assert run("upgrade", "status") == 0

    assert advice in capsys.readouterr().out


def test_finish_prints_the_new_formats(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = FINISHED

    assert run("upgrade", "finish", "--json") == 0

    assert ingest.asked == [("POST", "/v1/upgrade/finish", None)]
    assert json.loads(capsys.readouterr().out) == FINISHED


def test_status_without_an_answer_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("upgrade", "status", "--url", "http://127.0.0.1:9", "--key", "gk_a_b") == 2

    assert "cannot be reached" in capsys.readouterr().err
