"""`gregor dead`: the calls of the API, and the output."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gregor.cli.times import time_text
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

PATH = "/v1/deliveries/dead"
LETTER: dict[str, Any] = {
    "uid": "alice",
    "id": "YQ",
    "item": "aa",
    "intent": "remind",
    "channel": "apns",
    "device": "phone",
    "state": "dead",
    "reason": None,
    "n": 2,
    "next": None,
    "attempts": [{"at": 1457056447, "status": "400", "provider_id": None, "detail": "BadTopic"}],
    "at": 1457056457,
}
CALL = {
    **LETTER,
    "id": "Yg",
    "intent": "event",
    "channel": "webhook",
    "device": None,
    "webhook": "wh_1",
    "reason": "budget",
    "attempts": [],
}


def test_list_shows_time_user_item_and_reason(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [LETTER, CALL]}

    status = run("dead", "list", "--channel", "apns", "--before", "1457056500.5", "--limit", "7")

    assert ingest.asked == [("GET", f"{PATH}?channel=apns&before=1457056500.5&limit=8", None)]
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "FAILED" and head.split()[-1] == "ID"
    when = time_text(1457056457)
    assert first.split() == [*when.split(), "apns", "alice", "aa", "remind", "2", "phone", "400", "BadTopic", "YQ"]
    assert second.split() == [*when.split(), "webhook", "alice", "aa", "event", "wh_1", "budget", "Yg"]
    assert status == 0


def test_list_follows_pages_up_to_the_limit(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": [LETTER, CALL]}
    ingest.links = [f"{PATH}?limit=4&before=3_b", f"{PATH}?limit=4&before=2_b"]

    run("dead", "list", "--limit", "3", "--json")

    assert [path for _, path, _ in ingest.asked] == [f"{PATH}?limit=4", f"{PATH}?limit=4&before=3_b"]
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"entries": [LETTER, CALL, LETTER]}
    assert printed.err == "there are more; --limit shows more than 3\n"


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_control_characters_of_a_relay_are_escaped(
    as_json: list[str], ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = {**LETTER["attempts"][0], "detail": "550 \x1b[2J \x9b1m \x7f \u202eevil"}
    ingest.answer = {"entries": [{**LETTER, "attempts": [attempt]}]}

    run("dead", "list", *as_json)

    printed = capsys.readouterr().out
    assert not set(printed) & {"\x1b", "\x9b", "\x7f", "\u202e"}
    assert "\\u001b[2J \\u009b1m \\u007f \\u202eevil" in printed


def test_empty_list_is_a_sentence(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"entries": []}

    run("dead", "list")

    assert capsys.readouterr().out == "there are no dead letters\n"


def test_before_accepts_a_duration_ago(ingest: ScriptedIngest) -> None:
    ingest.answer = {"purged": 0}

    run("dead", "purge", "--before", "-2h")

    before = float(ingest.asked[0][1].partition("before=")[2])
    assert abs(time.time() - 7_200 - before) < 30


def test_replay_by_id_reports_an_unknown_one(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"code": "not_found", "detail": "There is no such dead letter.", "title": "", "status": 404}
    ingest.next = [(202, {"id": "YQ"}), (202, {"id": "Yg"}), (404, problem)]

    assert run("dead", "replay", "YQ", "Yg", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"replayed": ["YQ", "Yg"]}
    assert run("dead", "replay", "a/b") == 1
    assert capsys.readouterr().err == "gregor: not_found: There is no such dead letter.\n"
    assert [(method, path) for method, path, _ in ingest.asked] == [
        ("POST", f"{PATH}/{name}/replay") for name in ("YQ", "Yg", "a%2Fb")
    ]


def test_replay_of_a_channel_skips_missing_letters(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"code": "not_found", "detail": "There is no such dead letter.", "title": "", "status": 404}
    ingest.next = [(200, {"entries": [LETTER, CALL]}), (404, problem), (202, {"id": "Yg"})]

    assert run("dead", "replay", "--channel", "apns") == 0

    assert capsys.readouterr().out == "1 dead letter will be sent again\n"
    assert ingest.asked[0][1] == f"{PATH}?channel=apns&limit=1000"


def test_purge_by_ids_by_filter_or_all(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.next = [(204, None), (204, None), (200, {"purged": 3}), (200, {"purged": 4})]

    run("dead", "purge", "YQ", "Yg")
    run("dead", "purge", "--channel", "fcm", "--before", "1457056500")
    run("dead", "purge", "--all", "--json")

    assert [(method, path) for method, path, _ in ingest.asked] == [
        ("DELETE", f"{PATH}/YQ"),
        ("DELETE", f"{PATH}/Yg"),
        ("DELETE", f"{PATH}?channel=fcm&before=1457056500"),
        ("DELETE", PATH),
    ]
    assert capsys.readouterr().out == '2 dead letters deleted\n3 dead letters deleted\n{"purged": 4}\n'


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("list", "--channel", "pigeon"), "pigeon is not a channel; the channels are apns"),
        (("list", "--before", "yesterday"), "yesterday is not a time; write -2d"),
        (("list", "--before", "-2y"), "-2y is not a time; write -2d"),
        (("replay",), "give ids, or --channel"),
        (("replay", "YQ", "--channel", "apns"), "give ids, or --channel"),
        (("replay", "YQ", "--before", "5"), "give ids, or --channel"),
        (("replay", "--before", "5"), "give ids, or --channel"),
        (("purge",), "give ids, or --channel and --before, or --all"),
        (("purge", "YQ", "--all"), "give ids, or --channel and --before, or --all"),
        (("purge", "--channel", "fcm", "--all"), "give ids, or --channel and --before, or --all"),
    ],
)
def test_mistyped_command_is_one_line_with_the_fix(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], fix: str
) -> None:
    assert run("dead", *words) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert fix in line
    assert ingest.asked == []


@pytest.mark.parametrize(
    "words",
    [("dead", "purge", "."), ("dead", "purge", ".."), ("keys", "rotate", "."), ("send", "..", "--category", "a")],
)
def test_argument_cannot_lead_to_another_endpoint(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """`dead purge .` would be a purge of all dead letters."""
    status = run(*words)

    assert (status, ingest.asked) == (2, [])
    assert "is not a valid name" in capsys.readouterr().err
