"""The commands that call ingest, against a scripted one that records the requests."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gregor.auth.device_tokens import TokenVerifier
from gregor.auth.vapid import subject_problem
from gregor.cli.commands.keys import SCOPES
from gregor.cli.state_file import RunningDev, write_running
from gregor.cli.times import time_text, utc_text
from gregor.clock import SystemClock
from gregor.config.settings import load_settings
from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

SECRET = "a-secret-of-at-least-32-bytes-for-hs256"
ITEM = {"times": {"created": 1457056447}, "for_device": None, "category": "user.joined", "body": {"keybase": "kbob"}}


def test_send_creates_an_item(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_send_external_message(ingest: ScriptedIngest) -> None:
    ingest.answer = {"cursor": "k-3", "seq": 3}

    run("send", "alice", "--system", "kbfs.favorites", "--body", '{"action":"delete"}')

    assert ingest.asked[0][2] == {"system": "kbfs.favorites", "body": {"action": "delete"}}


def test_uid_is_quoted_in_the_path(ingest: ScriptedIngest) -> None:
    ingest.answer = {"items": {}}

    run("state", "a/../b?x")

    assert ingest.asked[0][1] == "/v1/users/a%2F..%2Fb%3Fx/state"


def test_state_shows_items_and_badge(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"cursor": "k-1", "digest": "0", "badge": 1, "items": {"aa": ITEM}}

    run("state", "alice", "--device", "phone", "--category-prefix", "user", "--category-prefix", "sys")

    assert ingest.asked[0][1] == "/v1/users/alice/state?device=phone&category_prefix=user&category_prefix=sys"
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "CREATED", "CATEGORY", "FOR", "BODY"]
    assert total == "1 item, badge 1"
    assert row == f"aa  {time_text(1457056447)}  user.joined  all  {json.dumps(ITEM['body'])}"


def test_history_shows_why_an_item_is_gone(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    gone = {"at": 1457056500, "reason": "dismissed", "device": "phone", "seq": 2}
    ingest.answer = {"entries": [{"id": "aa", "item": ITEM, "seq": 1, "gone": gone}]}

    run("history", "alice", "--limit", "5")

    assert ingest.asked[0][1] == "/v1/users/alice/history?limit=5"
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "CREATED", "CATEGORY", "FOR", "GONE", "BODY"]
    assert row.endswith(f"all  dismissed {time_text(1457056500)} by phone  {json.dumps(ITEM['body'])}")


def test_devices_show_presence(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"devices": {"phone": {"platform": "ios", "online": True}, "tv": {"online": False}}}

    run("devices", "alice")

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["phone", "ios", "online"], ["tv", "-", "-"]]


def test_key_is_created_by_the_api(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"id": "a", "key": "gk_a_secret"}

    run("keys", "create", "--scope", "ingest", "--scope", "read", "--prefix", "user", "--rate", "5")

    assert ingest.asked == [("POST", "/v1/keys", {"scopes": ["ingest", "read"], "prefixes": ["user"], "rate": 5.0})]
    assert capsys.readouterr().out == "gk_a_secret\n"


def test_keys_are_listed_with_their_limits(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"id": "a", "scopes": ["ingest", "read"], "prefixes": ["user"], "rate": 5.0, "name": "billing"}
    plain = {"id": "b", "scopes": sorted(SCOPES), "prefixes": None, "rate": None, "last_used": 1457056500}
    bound = {"id": "c", "scopes": ["read"], "systems": ["kbfs"], "addresses": ["192.0.2.0/24"], "created": 1457056447}
    ingest.answer = {"keys": [{**named, "expires": 1457056447}, plain, bound]}

    run("keys", "list")

    early, late = (utc_text(seconds)[:-3].split() for seconds in (1457056447, 1457056500))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ID", "NAME", "EXPIRES", "(UTC)", "LAST", "USED", "(UTC)", "CREATED", "(UTC)", "SCOPES", "LIMITS"],
        ["a", "billing", *early, "-", "-", "ingest,read", "prefix=user", "rate=5/s"],
        ["b", "-", "never", *late, "-", "all", "-"],
        ["c", "-", "never", "-", early[0], "read", "system=kbfs", "address=192.0.2.0/24"],
    ]


def test_list_shows_limits_to_nothing(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"keys": [{"id": "a", "scopes": ["read"], "prefixes": [], "systems": []}]}

    run("keys", "list")

    assert capsys.readouterr().out.splitlines()[1].endswith("read    no categories, no systems")


def test_list_of_keys_fits_into_120_columns(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"created": 1457056447, "expires": 1457056447, "last_used": 1457056447}
    key = {"id": "0adv3o12zbbj", "scopes": ["deliveries"], "rate": 100.0, "name": "n" * 100, **times}
    ingest.answer = {"keys": [key]}

    run("keys", "list")

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_problem_is_one_line_with_code_and_fields(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.status = 422
    places = [{"pointer": "/body/create/aa/category", "detail": "is missing"}]
    ingest.answer = {"code": "missing_field", "title": "Missing", "detail": "A field is missing.", "errors": places}

    status = run("send", "alice", "--category", "x")

    said = capsys.readouterr().err
    assert (status, said) == (1, "gregor: missing_field: A field is missing; /body/create/aa/category: is missing\n")


@pytest.mark.parametrize(("pointer", "shown"), [("/prefixes", "/prefixes: Remove prefixes."), ("", "Remove prefixes.")])
def test_detail_that_is_its_field_is_shown_once(
    pointer: str, shown: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.status = 422
    places = [{"pointer": pointer, "detail": "Remove prefixes."}]
    ingest.answer = {"code": "contradictory", "detail": "Remove prefixes.", "errors": places}

    run("keys", "create", "--scope", "admin", "--prefix", "user")

    assert capsys.readouterr().err == f"gregor: contradictory: {shown}\n"


def test_unreachable_ingest_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GREGOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GREGOR_KEY", "gk_a_b")

    status = run("state", "alice")

    said = capsys.readouterr().err
    assert status == 1
    assert "http://127.0.0.1:1 cannot be reached" in said
    assert said.count("\n") == 1


def test_error_without_a_running_gregor_has_the_fix(
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
        ["watch", "alice", "--token", "abc"],
        ["watch", "alice", "--gateway", "http://127.0.0.1:8701"],
        ["watch", "alice", "--observe", "--stream", "127.0.0.1:8702"],
        ["history", "alice", "--limit", "0"],
        ["state", "alice", "--at", "yesterday"],
        ["audit", "--limit", "9" * 30],
        ["dead", "list", "--limit", "9" * 30],
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
def test_mistyped_command_is_one_line_and_status_2(
    arguments: list[str], ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(*arguments)

    said = capsys.readouterr().err
    assert (status, said.count("\n"), said[:8]) == (2, 1, "gregor: ")
    assert ingest.asked == []


@pytest.mark.parametrize("key", ["gk_é", "gk_a b", "gk_a\nb", "gk_\udcff", " "])
def test_invalid_key_is_neither_sent_nor_shown(
    key: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("state", "alice", "--key", key) == 1

    said = capsys.readouterr().err
    assert (said.count("\n"), "gk_" in said, "--key" in said) == (1, False, True)
    assert ingest.asked == []


def test_unprintable_character_is_escaped(ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    ingest.answer = {"items": {"aa": ITEM | {"body": "é€"}}}

    assert run("state", "alice") == 0

    sys.stdout.flush()
    assert shown.getvalue().decode("latin-1").endswith('"é\\u20ac"\n')


def test_invalid_setting_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_RETENTION", "soon")

    assert run("config", "check") == 1
    assert capsys.readouterr().err == (
        "gregor: GREGOR_RETENTION: 'soon' is refused: not a duration; write 30d, 12h, 90s, or seconds\n"
    )


def test_config_check_hides_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", SECRET)
    monkeypatch.setenv("GREGOR_REDIS_URL", f"redis://:{SECRET}@127.0.0.1:1/0")

    assert run("config", "check", "--json") == 0

    shown = capsys.readouterr().out
    assert json.loads(shown)["GREGOR_RETENTION"] == 2_592_000
    assert SECRET not in shown


def test_config_check_prints_values_as_variables(
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


async def test_minted_token_is_accepted_by_services(
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


@pytest.mark.parametrize("lifetime", ["0", "0s", "0.4"])
def test_token_without_lifetime_is_refused(
    lifetime: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", SECRET)

    assert run("token", "mint", "--user", "alice", "--device", "phone", "--expires-in", lifetime) == 2

    shown = capsys.readouterr()
    assert "--expires-in" in shown.err and "would expire at once" in shown.err and not shown.out


@pytest.mark.parametrize("is_dev", [False, True])
def test_token_of_a_weak_secret_is_not_minted(
    is_dev: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Services refuse such a secret, so they would accept no token of it. `gregor dev` accepts it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", "short")
    mint = ("token", "mint", "--user", "alice", "--device", "phone")
    if is_dev:
        write_running(RunningDev(os.getpid(), "http://a:1", "", "", "redis://a", "k", "short"), 8700, os.environ)
        with pytest.warns(UserWarning, match="32"):
            assert run(*mint) == 0
        return

    assert run(*mint) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("gregor: GREGOR_TOKEN_SECRET: it is shorter than 32 bytes")
    assert "openssl rand -base64 32; GREGOR_ALLOW_WEAK_SECRETS=true allows it" in shown.err
    assert shown.out == ""
    monkeypatch.setenv("GREGOR_ALLOW_WEAK_SECRETS", "true")
    with pytest.warns(UserWarning, match="32"):
        assert run(*mint) == 0


async def test_token_is_minted_with_the_first_secret_of_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\nan older secret, long enough for HS256\n")
    monkeypatch.setenv("GREGOR_TOKEN_SECRET_FILE", str(path))

    assert run("token", "mint", "--user", "alice", "--device", "phone") == 0

    token = capsys.readouterr().out.strip()
    verifier = TokenVerifier(load_settings({"GREGOR_TOKEN_SECRET": SECRET}))
    assert (await verifier.verify(token, SystemClock().now_us())).uid == "alice"
    path.unlink()
    assert run("token", "mint", "--user", "alice", "--device", "phone") == 1
    assert "GREGOR_TOKEN_SECRET_FILE: " in capsys.readouterr().err


def test_service_key_of_a_file_is_used(ingest: ScriptedIngest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GREGOR_KEY")
    (tmp_path / "key").write_text("gk_c_d\n")
    monkeypatch.setenv("GREGOR_KEY_FILE", str(tmp_path / "key"))
    ingest.answer = {"keys": []}

    assert run("keys", "list") == 0


def test_config_check_refuses_weak_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GREGOR_LINK_SECRET", "hunter2-hunter2")

    assert run("config", "check") == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("gregor: GREGOR_LINK_SECRET: it is shorter than 32 bytes")
    assert "hunter2" not in shown.err + shown.out
    monkeypatch.setenv("GREGOR_ALLOW_WEAK_SECRETS", "true")
    assert run("config", "check") == 0


@pytest.mark.parametrize("subject", [None, "http://keybase.io", "mailto: a@keybase.io", "mailto:@keybase.io"])
def test_config_check_refuses_an_invalid_subject(
    subject: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_VAPID_KEY_FILE", "vapid.pem")
    if subject is not None:
        monkeypatch.setenv("GREGOR_VAPID_SUBJECT", subject)

    for allowed in ("false", "true"):
        monkeypatch.setenv("GREGOR_ALLOW_WEAK_SECRETS", allowed)
        assert run("config", "check") == 1
        shown = capsys.readouterr().err
        assert shown == f"gregor: {subject_problem(subject or '')}\n"


def test_config_check_refuses_a_private_subject(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key = tmp_path / "vapid"
    key.write_text("AQ".rjust(43, "A"))  # 32 bytes in base64url
    monkeypatch.setenv("GREGOR_VAPID_KEY_FILE", str(key))
    monkeypatch.setenv("GREGOR_VAPID_SUBJECT", "mailto:ops@localhost")

    assert run("config", "check") == 1
    assert capsys.readouterr().err.startswith("gregor: GREGOR_VAPID_SUBJECT: 'mailto:ops@localhost' has no public")
    monkeypatch.setenv("GREGOR_VAPID_SUBJECT", "mailto:ops@example.com")
    assert run("config", "check") == 1
    assert "write an address that you read" in capsys.readouterr().err
    monkeypatch.setenv("GREGOR_ALLOW_WEAK_SECRETS", "true")
    assert run("config", "check") == 0
    monkeypatch.delenv("GREGOR_ALLOW_WEAK_SECRETS")
    capsys.readouterr()
    monkeypatch.setenv("GREGOR_VAPID_SUBJECT", "mailto:ops@keybase.io")
    assert run("config", "check") == 0
    assert "GREGOR_APP_URL is not set" in capsys.readouterr().err
    monkeypatch.setenv("GREGOR_APP_URL", "https://app.example.com/")
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", SECRET)
    assert run("config", "check") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("setting", [None, "GREGOR_TOKEN_SECRET", "GREGOR_TOKEN_JWKS"])
def test_config_check_warns_if_no_device_could_connect(
    setting: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is valid: schedulers need no key for device tokens."""
    if setting is not None:
        monkeypatch.setenv(setting, SECRET if setting.endswith("SECRET") else "https://login.example/jwks")

    assert run("config", "check") == 0

    assert ("no key for device tokens is set" in capsys.readouterr().err) == (setting is None)


@pytest.mark.parametrize("option", ["--expires", "--remind", "--not-before"])
def test_time_in_the_past_has_its_own_message(
    option: str, ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("send", "alice", "--category", "mail", option, "-2d") == 2

    assert "-2d is in the past; write +1h, +90, or Unix seconds" in capsys.readouterr().err
    assert ingest.asked == []


@pytest.mark.parametrize(
    ("variables", "unchecked"),
    [
        ({}, ""),
        ({"GREGOR_APNS_KEY_FILE": "/missing"}, "GREGOR_APNS_KEY_FILE"),
        (
            {
                "GREGOR_FCM_CREDENTIALS_FILE": "/missing",
                "GREGOR_SMTP_URL": "http://foo",
                "GREGOR_MAIL_FROM": "X",
                "GREGOR_PUBLIC_URL": "https://gregor.example.com",
                "GREGOR_TOKEN_SECRET": SECRET,
            },
            "GREGOR_FCM_CREDENTIALS_FILE, GREGOR_SMTP_URL, GREGOR_MAIL_FROM",
        ),
    ],
)
def test_config_check_names_what_only_doctor_checks(
    variables: dict[str, str], unchecked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"GREGOR_TOKEN_SECRET": SECRET, **variables}.items():
        monkeypatch.setenv(name, value)

    assert run("config", "check", "--json") == 0

    hint = f"not checked: {unchecked}; gregor doctor checks the providers\n"
    assert capsys.readouterr().err == (hint if unchecked else "")


@pytest.mark.parametrize(
    ("variables", "error"),
    [
        ({"GREGOR_CATEGORIES": "{folder}/bad.toml"}, "GREGOR_CATEGORIES: {folder}/bad.toml is not valid TOML"),
        ({"GREGOR_CATEGORIES": "{folder}/none.toml"}, "GREGOR_CATEGORIES: {folder}/none.toml cannot be read"),
        ({"GREGOR_CATEGORIES": "{folder}/wrong.toml"}, "GREGOR_CATEGORIES: /a/titel: Unknown field"),
        ({"GREGOR_SMTP_URL": "smtp://relay:25"}, "GREGOR_PUBLIC_URL: mail needs it for its unsubscribe links"),
        (
            {"GREGOR_SMTP_URL": "smtp://relay:25", "GREGOR_PUBLIC_URL": "https://gregor.example.com"},
            "GREGOR_LINK_SECRET: mail needs it",
        ),
        (
            {"GREGOR_VAPID_KEY_FILE": "{folder}/none.pem", "GREGOR_VAPID_SUBJECT": "mailto:ops@keybase.io"},
            "GREGOR_VAPID_KEY_FILE: {folder}/none.pem cannot be read",
        ),
    ],
)
def test_config_check_refuses_settings_with_which_a_service_does_not_start(
    variables: dict[str, str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.toml").write_text('["a"')
    (tmp_path / "wrong.toml").write_text('["a"]\ntitel = "x"')
    monkeypatch.delenv("GREGOR_TOKEN_SECRET", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))

    assert run("config", "check") == 1

    assert capsys.readouterr().err.startswith("gregor: " + error.format(folder=tmp_path))


@pytest.mark.parametrize("url", ["app.example.com", "https://", "javascript:alert(1)", "/inbox"])
def test_app_url_must_be_a_web_page(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREGOR_APP_URL", url)

    assert run("config", "check") == 1
    assert "write https://app.example.com" in capsys.readouterr().err


def test_send_not_before(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"id": "m1", "not_before": 1457060000}

    assert run("send", "alice", "--category", "mail", "--not-before", "1457060000") == 0
    assert run("send", "alice", "--category", "mail", "--not-before", "+2h") == 0

    (_, _, first), (_, _, second) = ingest.asked
    assert first["not_before"] == 1457060000
    assert abs(second["not_before"] - SystemClock().now_us() / 1e6 - 7_200) < 60
    assert capsys.readouterr().out.splitlines()[0] == f"m1 waits until {time_text(1457060000)}"


def test_dry_run_shows_planned_notifications(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"item": "aa", "n": 0, "intent": "item", "channel": "apns", "device": "phone", "at": 5, "reason": None}
    held = {**entry, "intent": "remind", "n": 1, "channel": "email", "device": None, "at": None, "reason": "present"}
    receipt = {"cursor": "k-0", "seq": 0, "created": ["aa"], "dismissed": [], "ignored": {}, "dry_run": True}
    ingest.answer = {**receipt, "deliveries": [entry, held]}

    assert run("send", "alice", "--category", "mail", "--dry-run") == 0
    ingest.answer = {**receipt, "deliveries": []}
    assert run("send", "alice", "--category", "mail", "--dry-run") == 0

    assert [path for _, path, _ in ingest.asked] == ["/v1/users/alice/messages?dry_run=true"] * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["dry run, nothing was sent", "would create aa"]
    assert [line.split() for line in lines[3:5]] == [
        ["item", "apns", "phone", *time_text(5).split()],
        ["remind", "1", "email", "-", "never", "present"],
    ]
    assert lines[7] == "no notification would be planned"


def test_dry_run_says_what_would_not_happen(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = {"cursor": "k-7", "seq": 7, "created": [], "dry_run": True, "deliveries": []}
    ingest.next = [
        (200, {**receipt, "dismissed": ["bb"], "ignored": {"aa": "conflict"}}),
        (200, {**receipt, "dismissed": [], "ignored": {}, "unchanged": True}),
    ]

    assert run("send", "alice", "--category", "mail", "--id", "aa", "--dismiss", "bb", "--dry-run") == 0
    assert run("send", "alice", "--dismiss", "cc", "--dry-run") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("would dismiss bb; aa would not be created (conflict): the id was used before")
    assert lines[4] == "nothing would change"


def test_dry_run_prints_warnings(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = {"cursor": "k-0", "seq": 0, "created": ["aa"], "dismissed": [], "ignored": {}, "dry_run": True}
    warning = 'There is no entry for the category "mial"; did you mean "mail"?'
    ingest.answer = {**receipt, "deliveries": [], "warnings": [warning]}

    assert run("send", "alice", "--category", "mial", "--dry-run") == 0

    assert f"warning: {warning}" in capsys.readouterr().out.splitlines()


def test_failed_snooze_cancels_its_copy(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"code": "unavailable", "title": "Unavailable", "detail": "no store"}
    live = {"id": "aa", "item": ITEM, "gone": None}
    ingest.next = [(200, live), (200, {"id": "snoozed:1", "not_before": 5}), (503, problem), (204, None)]

    assert run("snooze", "alice", "aa", "--for", "2h") == 1

    assert [(method, path.rpartition("/v1/users/alice/")[2]) for method, path, _ in ingest.asked] == [
        ("GET", "items/aa"), ("POST", "messages"), ("POST", "messages"), ("DELETE", "messages/snoozed:1"),
    ]  # fmt: skip
    assert "no store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "status", "text"),
    [
        (
            "dismissed",
            1,
            "seq 5: aa was not created (dismissed): an item with this id was dismissed, and ids never come back",
        ),
        ("conflict", 1, "seq 5: aa was not created (conflict): the id was used before, for an item with other content"),
        ("duplicate", 0, "seq 5: aa was not created (duplicate): the same item was created before"),
    ],
)
def test_send_of_an_ignored_item_says_why(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], reason: str, status: int, text: str
) -> None:
    ingest.answer = {"seq": 5, "created": [], "dismissed": [], "ignored": {"aa": reason}, "unchanged": True}

    assert run("send", "alice", "--category", "mail", "--id", "aa") == status
    assert run("send", "alice", "--category", "mail", "--id", "aa", "--json") == status

    assert capsys.readouterr().out.splitlines() == [text, json.dumps(ingest.answer)]


def test_delete_of_an_unknown_key_is_an_error(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"keys": [{"id": "abc"}]}
    assert run("keys", "delete", "NOPE") == 1
    assert capsys.readouterr().err == "gregor: unknown key NOPE; `gregor keys list` shows the ids\n"

    ingest.next = [(200, ingest.answer), (204, None)]
    assert run("keys", "delete", "abc") == 0
    assert ingest.asked[-1][:2] == ("DELETE", "/v1/keys/abc")
    assert capsys.readouterr().out == "abc is deleted\n"


def test_delete_warns_about_the_key_of_the_command(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.next = [(200, {"keys": [{"id": "a"}]}), (204, None)]

    assert run("keys", "delete", "a") == 0  # the command uses gk_a_b
    assert "this was the key of this command" in capsys.readouterr().err


def test_rotation_of_an_unknown_key_has_the_next_step(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest.status, ingest.answer = 404, {"code": "not_found", "detail": "No service key has this id."}

    assert run("keys", "rotate", "NOPE") == 1
    assert capsys.readouterr().err == "gregor: unknown key NOPE; `gregor keys list` shows the ids\n"
    assert run("keys", "rotate", "NOPE", "--json") == 1
    assert json.loads(capsys.readouterr().out)["problem"]["code"] == "not_found"


def test_errors_with_json_are_documents_on_stdout(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.status, ingest.answer = 403, {"code": "forbidden", "title": "Forbidden", "detail": "no", "status": 403}

    assert run("state", "alice", "--json") == 1
    assert run("state", "alice", "--at", "yesterday", "--json") == 2

    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert first == {"problem": ingest.answer} and "yesterday is not a time" in second["problem"]["detail"]
    assert printed.err == ""


@pytest.mark.parametrize("arguments", [["--version"], ["-V"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    assert capsys.readouterr().out.startswith("gregor ")


def test_help_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "send") == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    assert "Examples:" in lines and "gregor send alice --dismiss-category user.joined" in lines

    assert run("help") == 0
    assert "watch" in capsys.readouterr().out


THIN = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from gregor.cli import main
main({arguments})
"""
SERVER_PACKAGES = (
    "arq", "redis", "hiredis", "fastapi", "starlette", "uvicorn", "prometheus_client", "structlog", "jinja2",
    "jsonschema_rs", "aioapns", "h2", "pyfcm", "google", "aiosmtplib", "cryptography",
)  # fmt: skip


def run_thin(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that cannot import the packages of `gregor[server]` (typer brings pydantic)."""
    program = THIN.format(blocked=set(SERVER_PACKAGES), arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )


def test_client_commands_work_in_a_thin_installation(ingest: ScriptedIngest) -> None:
    ingest.answer = {"badge": 1, "items": {"aa": ITEM}}
    shown = run_thin("state", "alice")
    assert (shown.returncode, shown.stderr) == (0, "") and "1 item, badge 1" in shown.stdout

    ingest.answer = {"keys": []}
    assert run_thin("keys", "list").stdout == "there are no keys\n"
    assert run_thin("token", "mint", "--user", "a", "--device", "b", GREGOR_TOKEN_SECRET=SECRET).stdout.count(".") == 2
    assert run_thin("--help").returncode == 0


@pytest.mark.parametrize(
    "command", [["dev"], ["ingest", "--port", "1"], ["doctor"], ["categories", "list"], ["config", "check"]]
)
def test_other_commands_say_what_to_install(command: list[str], tmp_path: Path) -> None:
    ended = run_thin(*command, XDG_STATE_HOME=str(tmp_path))

    fix = "in a checkout of Gregor, run pip install '.[server]' (gregor dev: '.[server,dev]')"
    assert (ended.returncode, ended.stderr) == (1, f"gregor: gregor {command[0]} needs the services: {fix}\n")


def test_module_gregor_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gregor", "--help"], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "watch" in done.stdout
