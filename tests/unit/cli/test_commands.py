"""The commands that speak to ingest, against a stand-in that writes down what it is asked."""

import io
import json
import sys
from pathlib import Path

import pytest

from gregor.auth.device_tokens import TokenVerifier
from gregor.cli.commands.users import time_text
from gregor.clock import SystemClock
from gregor.config.settings import load_settings
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

SECRET = "a-secret-of-at-least-32-bytes-for-hs256"
ITEM = {"times": {"created": 1457056447}, "for_device": None, "category": "user.joined", "body": {"keybase": "kbob"}}


def test_send_creates_an_item_as_the_contract_has_it(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.answer = {"cursor": "k-1", "seq": 1, "created": ["aa"], "dismissed": [], "ignored": {}}

    status = run(
        *("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}'),
        *("--expires", "+1h", "--remind", "+90", "--remind", "1457056447", "--for-device", "*"),
    )

    times = {"expires": "+3600", "remind_at": ["+90", 1457056447]}
    item = {"times": times, "for_device": "*", "category": "user.joined", "body": {"keybase": "kbob"}}
    message = {"system": "gregor", "body": {"create": {"aa": item}}}
    assert ingest.asked == [("POST", "/v1/users/alice/messages", message)]
    assert ingest.authorization == "Bearer gk_a_b"
    assert (status, capsys.readouterr().out) == (0, "seq 1: created aa\n")


def test_send_dismisses_by_id_and_by_category(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"cursor": "k-2", "seq": 2, "created": [], "dismissed": ["aa"], "ignored": {}}

    run("send", "alice", "--dismiss", "aa", "--dismiss-category", "user", "--dismiss-prefix", "sys", "--json")

    body = {"dismiss": {"ids": ["aa"], "intervals": [{"category": "user"}, {"category_prefix": "sys"}]}}
    assert ingest.asked[0][2] == {"system": "gregor", "body": body}
    assert json.loads(capsys.readouterr().out) == ingest.answer


def test_send_tells_another_system(ingest: ScriptedIngest) -> None:
    ingest.answer = {"cursor": "k-3", "seq": 3}

    run("send", "alice", "--system", "kbfs.favorites", "--body", '{"action":"delete"}')

    assert ingest.asked[0][2] == {"system": "kbfs.favorites", "body": {"action": "delete"}}


def test_a_uid_is_quoted_in_the_path(ingest: ScriptedIngest) -> None:
    ingest.answer = {"items": {}}

    run("state", "a/../b?x")

    assert ingest.asked[0][1] == "/v1/users/a%2F..%2Fb%3Fx/state"


def test_state_shows_a_table_and_passes_its_filters(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"cursor": "k-1", "digest": "0", "badge": 1, "items": {"aa": ITEM}}

    run("state", "alice", "--device", "phone", "--category-prefix", "user", "--category-prefix", "sys")

    assert ingest.asked[0][1] == "/v1/users/alice/state?device=phone&category_prefix=user&category_prefix=sys"
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "CREATED", "CATEGORY", "FOR", "BODY"]
    assert row == f"aa  {time_text(1457056447)}  user.joined  all  {json.dumps(ITEM['body'])}"


def test_history_says_why_and_when_an_item_went(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"at": 1457056500, "reason": "dismissed", "device": "phone", "seq": 2}
    ingest.answer = {"entries": [{"id": "aa", "item": ITEM, "seq": 1, "gone": gone}]}

    run("history", "alice", "--limit", "5")

    assert ingest.asked[0][1] == "/v1/users/alice/history?limit=5"
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "CREATED", "CATEGORY", "FOR", "GONE", "BODY"]
    assert row.endswith(f"all  dismissed {time_text(1457056500)} by phone  {json.dumps(ITEM['body'])}")


def test_devices_are_shown_with_their_presence(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"devices": {"phone": {"platform": "ios", "online": True}, "tv": {"online": False}}}

    run("devices", "alice")

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["phone", "ios", "online"], ["tv", "-", "-"]]


def test_keys_are_made_through_the_api(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"id": "a", "key": "gk_a_secret"}

    run("keys", "create", "--scope", "ingest", "--scope", "read", "--prefix", "user", "--rate", "5")

    assert ingest.asked == [("POST", "/v1/keys", {"scopes": ["ingest", "read"], "prefixes": ["user"], "rate": 5.0})]
    assert capsys.readouterr().out == "gk_a_secret\n"


def test_keys_are_listed_with_what_they_are_for(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"id": "a", "scopes": ["ingest", "read"], "prefixes": ["user"], "rate": 5.0, "name": "billing"}
    plain = {"id": "b", "scopes": ["admin"], "prefixes": None, "rate": None}
    ingest.answer = {"keys": [named, plain]}

    run("keys", "list")

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ID", "SCOPES", "PREFIXES", "RATE", "NAME"],
        ["a", "ingest,read", "user", "5/s", "billing"],
        ["b", "admin", "all", "-", "-"],
    ]


def test_a_problem_is_one_line_with_its_code_and_places(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.status = 422
    places = [{"pointer": "/body/create/aa/category", "detail": "is missing"}]
    ingest.answer = {"code": "missing_field", "title": "Missing", "detail": "A field is missing.", "errors": places}

    status = run("send", "alice", "--category", "x")

    said = capsys.readouterr().err
    assert (status, said) == (1, "gregor: missing_field: A field is missing; /body/create/aa/category: is missing\n")


def test_an_ingest_that_is_not_there_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GREGOR_KEY", "gk_a_b")

    status = run("state", "alice")

    said = capsys.readouterr().err
    assert status == 1
    assert "http://127.0.0.1:1 cannot be reached" in said
    assert said.count("\n") == 1


def test_without_a_running_gregor_the_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    for command in (["state", "alice"], ["keys", "list"], ["watch", "alice"]):
        assert run(*command) == 1
        assert "gregor dev" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["send"],
        ["send", "alice"],
        ["send", "alice", "--category", "x", "--body", "{"],
        ["send", "alice", "--category", "x", "--body", "NaN"],
        ["send", "alice", "--category", "x", "--body", "1e999"],
        ["send", "alice", "--category", "x", "--body", '"\\ud800"'],
        ["send", "alice", "--category", "x", "--body", '{"a":1,"a":2}'],
        ["send", "alice", "--category", "x", "--body", '"\udcff"'],
        ["send", "alice", "--category", "x", "--id", "\udcff"],
        ["send", "\udcff", "--category", "x"],
        ["send", "alice", "--category", "x", "--expires", "soon"],
        ["send", "alice", "--category", "x", "--expires", "nan"],
        ["send", "alice", "--category", "x", "--remind", "9" * 400],
        ["send", "alice", "--category", "x", "--not-before", "inf"],
        ["snooze", "alice", "aa", "--for", "9" * 400],
        ["send", "alice", "--system", "kbfs", "--category", "x"],
        ["send", "alice", "--system", "kbfs", "--dismiss", "aa"],
        ["send", "alice", "--dismiss", "aa", "--body", "{}"],
        ["send", "alice", "--dismiss", "aa", "--expires", "+1h"],
        ["watch", "a b"],
        ["watch", "alice", "--device", "a b"],
        ["watch", "alice", "--token", "a\udcff"],
        ["watch", "alice", "--gateway", "http://127.0.0.1:8701"],
        ["watch", "alice", "--observe", "--stream", "127.0.0.1:8702"],
        ["history", "alice", "--limit", "0"],
        ["state", "alice", "--at", "yesterday"],
        ["keys", "create", "--scope", "everything"],
        ["keys", "create", "--scope", "read", "--rate", "inf"],
        ["dev", "--gateways", "0"],
        ["token", "mint", "--user", "alice"],
        ["token", "mint", "--user", "a b", "--device", "phone"],
        ["token", "mint", "--user", "alice", "--device", "-"],
        ["token", "mint", "--user", "alice", "--device", "phone", "--cat", "x y"],
        ["token", "mint", "--user", "alice", "--device", "phone", "--system", "x y"],
        ["token", "mint", "--user", "alice", "--device", "phone", "--expires-in", "31d"],
    ],
)
def test_a_mistyped_command_is_one_line_and_status_2(
    arguments: list[str], ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(*arguments)

    said = capsys.readouterr().err
    assert (status, said.count("\n"), said[:8]) == (2, 1, "gregor: ")
    assert ingest.asked == []


@pytest.mark.parametrize("key", ["gk_é", "gk_a b", "gk_a\nb", "gk_\udcff", " "])
def test_what_can_be_no_key_is_not_sent_and_not_shown(
    key: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("state", "alice", "--key", key) == 1

    said = capsys.readouterr().err
    assert (said.count("\n"), "gk_" in said, "--key" in said) == (1, False, True)
    assert ingest.asked == []


def test_what_a_terminal_cannot_show_is_escaped(ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    ingest.answer = {"items": {"aa": ITEM | {"body": "é€"}}}

    assert run("state", "alice") == 0

    sys.stdout.flush()
    assert shown.getvalue().decode("latin-1").endswith('"é\\u20ac"\n')


def test_a_bad_setting_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_RETENTION", "soon")

    assert run("config", "check") == 1
    assert capsys.readouterr().err == (
        "gregor: GREGOR_RETENTION: 'soon' is refused: not a duration; write 30d, 12h, 90s, or seconds\n"
    )


def test_config_check_shows_values_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", SECRET)
    monkeypatch.setenv("GREGOR_REDIS_URL", f"redis://:{SECRET}@127.0.0.1:1/0")

    assert run("config", "check", "--json") == 0

    shown = capsys.readouterr().out
    assert json.loads(shown)["GREGOR_RETENTION"] == 2_592_000
    assert SECRET not in shown


def test_config_check_writes_values_as_a_variable_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> dict[str, str]:
        assert run("config", "check") == 0
        return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    unset = shown()
    given = {
        "GREGOR_DELIVERY_RATES": "apns=500,email=2.5",
        "GREGOR_DELIVERY_CONSOLE": "true",
        "GREGOR_ORIGINS": "https://a.b",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert {name: unset[name] for name in given} == {**dict.fromkeys(given, "-"), "GREGOR_DELIVERY_CONSOLE": "false"}
    assert {name: shown()[name] for name in given} == given


async def test_a_minted_token_is_accepted_by_services_of_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {
        "GREGOR_TOKEN_SECRET": SECRET,
        "GREGOR_TOKEN_AUD": "app",
        "GREGOR_TOKEN_ISS": "login",
        "GREGOR_CLOCK_OFFSET": "30d",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    run("token", "mint", "--user", "alice", "--device", "phone", "--expires-in", "2h", "--cat", "user")

    token = capsys.readouterr().out.strip()
    caller = await TokenVerifier(load_settings(environ)).verify(token, SystemClock(30 * 86_400).now_us())
    assert (caller.uid, caller.device, caller.category_filter) == ("alice", "phone", ("user",))
    assert abs(caller.exp_us - SystemClock(30 * 86_400 + 7_200).now_us()) < 60_000_000


def test_send_hands_over_what_is_to_wait(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"id": "m1", "not_before": 1457060000}

    assert run("send", "alice", "--category", "mail", "--not-before", "1457060000") == 0
    assert run("send", "alice", "--category", "mail", "--not-before", "+2h") == 0

    (_, _, first), (_, _, second) = ingest.asked
    assert first["not_before"] == 1457060000
    assert abs(second["not_before"] - SystemClock().now_us() / 1e6 - 7_200) < 60
    assert capsys.readouterr().out.splitlines()[0] == f"m1 waits until {time_text(1457060000)}"


def test_a_rehearsal_says_who_would_be_told(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"item": "aa", "n": 0, "intent": "item", "channel": "apns", "device": "phone", "at": 5, "reason": None}
    held = {**entry, "intent": "remind", "n": 1, "channel": "email", "device": None, "at": None, "reason": "present"}
    receipt = {"cursor": "k-0", "seq": 0, "created": ["aa"], "dismissed": [], "ignored": {}, "dry_run": True}
    ingest.answer = {**receipt, "deliveries": [entry, held]}

    assert run("send", "alice", "--category", "mail", "--dry-run") == 0
    ingest.answer = {**receipt, "deliveries": []}
    assert run("send", "alice", "--category", "mail", "--dry-run") == 0

    assert [path for _, path, _ in ingest.asked] == ["/v1/users/alice/messages?dry_run=true"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rehearsed, nothing is sent: seq 0: created aa"
    assert [line.split() for line in lines[2:4]] == [
        ["item", "apns", "phone", *time_text(5).split()],
        ["remind", "1", "email", "-", "never", "present"],
    ]
    assert lines[5] == "nobody would be told"


def test_a_snooze_that_cannot_be_finished_is_taken_back(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "unavailable", "title": "Unavailable", "detail": "no store"}
    live = {"id": "aa", "item": ITEM, "gone": None}
    ingest.next = [(200, live), (200, {"id": "snoozed:1", "not_before": 5}), (503, problem), (204, None)]

    assert run("snooze", "alice", "aa", "--for", "2h") == 1

    assert [(method, path.rpartition("/v1/users/alice/")[2]) for method, path, _ in ingest.asked] == [
        ("GET", "items/aa"), ("POST", "messages"), ("POST", "messages"), ("DELETE", "messages/snoozed:1"),
    ]  # fmt: skip
    assert "no store" in capsys.readouterr().err
