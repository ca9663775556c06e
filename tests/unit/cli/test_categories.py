"""`gregor categories`: errors of a file, one line each, and the calls of the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripted_ingest import ScriptedIngest
from tests.unit.cli.running import run

EXAMPLE = Path(__file__).parents[3] / "deploy" / "categories.toml"
ENTRIES = {
    "user": {"title": "{{ body.k }}", "push": {}, "expires_after": "365d", "remind_after": ["36h", "4d"]},
    "user.joined": {"email": {"after": "90s"}},
}

TEN_ERRORS = """
["invoice.due"]
titel = "An invoice is due"
expires_after = "30 days"
remind_after = "4d"
max_live = 0
text = "{{ body.amount | rund }}"
link = "app://{{ bdy.id }}"
push = { sond = "x" }
body_schema = { type = "objet" }

["invoice.*"]
title = "x"

[invoice.paid]
title = "x"
"""
EXPLAINED = """\
["invoice.due"] titel: Unknown field; did you mean "title"?
["invoice.due"] expires_after: This must be a duration: a number with a unit, such as "90s", "15m", "12h", "30d", "2w".
["invoice.due"] remind_after: This must be a list of durations: ["4d"].
["invoice.due"] max_live: This must be a whole number from 1 to 1000000.
["invoice.due"] push.sond: Unknown field; did you mean "sound"?
["invoice.due"] body_schema.type: "objet" is not a type; did you mean "object"?
["invoice.*"]: This is not a category; write "invoice", which covers all categories below it.
["invoice"] paid: Unknown field; for the category, write its name in quotes: ["invoice.paid"].
["invoice.due"] text: line 1: Unknown filter rund; did you mean round?
["invoice.due"] link: line 1: Unknown variable bdy; did you mean body?
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A valid file."""
    path = tmp_path / "categories.json"
    path.write_text(json.dumps(ENTRIES))
    yield path


def test_check_explains_ten_errors_in_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(TEN_ERRORS)

    assert run("categories", "check", str(bad)) == 1

    assert capsys.readouterr().err == EXPLAINED + f"gregor: {bad} has 10 errors\n"
    assert run("categories", "check", str(bad), "--json") == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert [each["pointer"] for each in errors][:2] == ["/invoice.due/titel", "/invoice.due/expires_after"]
    assert len(errors) == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('title = "x"', '["title"]: An entry must be a table'),
        ('["a"]\npush = {}', '["a"] push: push needs a title'),
        ('["a"]\ntitle="x"\nemail = { unless = "never" }', '["a"] email.unless: This must be "foreground"'),
        ('["a"]\ntitle="x"\nemail = { html = "file:no.html" }', '["a"] email.html: no.html cannot be read'),
        ('["a"]\naggregate = { title = "x" }', '["a"] aggregate: window and at_least must be set'),
        ('["a"]\ncounts_in_badge = false\n["a.b"]\ncounts_in_badge = true', '["a.b"] counts_in_badge: An entry above'),
        ('["a"]\ntitle = """one\n{{ 1 / 0 }}"""', '["a"] title: line 2: division by zero'),
        ('[""]\nx = 1', '[""] x: Unknown field; known'),
        ('["a"]\ntitle="x"\npush = { after = -5 }', '["a"] push.after: This must be a duration: a number with a unit'),
        ('["a"]\naggregate = { window = "0s", at_least = 2 }', '["a"] aggregate.window: This must be longer'),
        ('["a"]\ntitle = "{{ range(9) }}"', '["a"] title: line 1: Templates cannot call functions. Use a filter'),
        ('["a"]\ntitle = """a\n{% for x in body.l %}"""', '["a"] title: line 2: Unexpected end of template.'),
        ('["a"]\ntitle = "x"\ncollapse = "{{ body.n | uper }}"', '["a"] collapse: line 1: Unknown filter uper'),
        ('["a"]\ntitle = "x"\nlocales.it.titel = "y"', '["a"] locales.it.titel: Unknown field; did you'),
        (
            '["a"]\ntitle = "x"\nlocales."i t".title = "y"',
            '["a"] locales.i t: This is not a language tag, such as',
        ),
        ('["a"]\ntitle = "x"\nemail = { html = "file:../x" }', '["a"] email.html: ../x is outside the directory'),
        ('["a"]\nbody_schema = { "$ref" = "http://x/y" }', '["a"] body_schema.$ref: A $ref must lead to a definition'),
        ('["a"]\nbody_schema = { pattern = "^(?=a)" }', '["a"] body_schema.pattern: "^(?=a)" is not a "regex" of'),
        ('["a..b"]\ntitle = "x"', '["a..b"]: This must be a category: dotted segments'),
        ('["a"]\nurgent = "yes"', '["a"] urgent: This must be true or false, without quotes.'),
    ],
)
def test_check_explains_other_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(text)

    assert run("categories", "check", str(bad)) == 1

    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(words)
    assert last == f"gregor: {bad} has 1 error"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('["a"]\nexpires_after = "3d"\nremind_after = ["1d", "3d"]', ['["a"] remind_after']),
        ('["a"]\nexpires_after = "3d"\nremind_after = ["1d", "2d"]', []),
        ('["a"]\nremind_after = ["9d"]', []),
        ('["a"]\nexpires_after = "9d"\n["a.b"]\nremind_after = ["10d"]\n["a.b.c"]', ['["a.b"] remind_after']),
        ('["a"]\nremind_after = ["2d"]\n["a.b"]\nexpires_after = "1d"', ['["a.b"] expires_after']),
        ('["a"]\nexpires_after = "1d"\nremind_after = ["2d"]\n["a.b"]\nexpires_after = false', ['["a"] remind_after']),
    ],
)
def test_check_warns_of_reminders_that_never_fire(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, places: list[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)

    assert run("categories", "check", str(file)) == 0

    printed = capsys.readouterr()
    lines = [
        f"{place}: This reminder never fires: it is due at or after expires_after. Choose an earlier reminder.\n"
        for place in places
    ]
    assert printed.err == "".join(lines)
    assert printed.out.endswith("no errors\n")
    assert run("categories", "check", str(file), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == len(places)


def test_example_file_has_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("categories", "check", str(EXAMPLE)) == 0

    assert capsys.readouterr().out == f"{EXAMPLE}: 10 entries, no errors\n"


def test_unreadable_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.toml").write_text('["a"')
    (tmp_path / "twice.toml").write_text('["a"]\n["a"]')
    (tmp_path / "latin.toml").write_bytes(b'["a"]\ntitle = "\xe9"')

    for name in ("nosuch.toml", "bad.toml", "twice.toml", "latin.toml"):
        assert run("categories", "check", str(tmp_path / name)) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "apply"])
@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 3_000 + " = 1", '["a".body_schema' + ".a" * 800 + "]", "a = " + "[" * 5_000 + "]" * 5_000],
    ids=["dotted key", "name of a table", "arrays"],
)
def test_deeply_nested_file_is_one_line(
    command: str, text: str, ingest: ScriptedIngest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path / "deep.toml"
    deep.write_text(text)

    assert run("categories", command, str(deep)) == 1

    assert capsys.readouterr().err == f"gregor: {deep} is nested too deeply: write at most 64 levels.\n"
    assert ingest.asked == []


def test_apply_sends_all_entries_with_their_files(
    ingest: ScriptedIngest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.html").write_text("<p>x</p>")
    toml = tmp_path / "categories.toml"
    toml.write_text('["a"]\ntitle = "x"\nemail.html = "file:a.html"')
    sent = {"a": {"title": "x", "email": {"html": "<p>x</p>"}}}
    ingest.answer = {"version": 8, "categories": sent}

    assert run("categories", "apply", str(toml)) == 0

    assert ingest.asked == [("PUT", "/v1/categories", {"categories": sent})]
    assert capsys.readouterr().out == "version 8 is active: 1 entry\n"
    assert run("categories", "apply", str(toml), "--json") == 0
    assert json.loads(capsys.readouterr().out) == ingest.answer


def test_apply_sends_no_file_with_errors(
    ingest: ScriptedIngest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(TEN_ERRORS)

    assert run("categories", "apply", str(bad)) == 1

    assert ingest.asked == []
    assert capsys.readouterr().err.startswith(EXPLAINED)


def test_list_shows_effective_fields(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"version": 8, "categories": ENTRIES}

    assert run("categories", "list") == 0

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["NAME", "PUSH", "EMAIL", "EXPIRES", "REMINDS", "TITLE"],
        ["user", "10s", "-", "365d", "36h,4d", "{{", "body.k", "}}"],
        ["user.joined", "10s", "90s", "365d", "36h,4d", "{{", "body.k", "}}"],
        ["version", "8"],
    ]
    assert run("categories", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == ingest.answer


def test_empty_list_is_a_sentence(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"version": 0, "categories": {}}

    assert run("categories", "list") == 0
    assert capsys.readouterr().out == "there are no entries; `gregor categories apply FILE` adds some\n"


def test_show_includes_inherited_fields(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"version": 8, "categories": ENTRIES}

    assert run("categories", "show", "user.joined.late") == 0
    source, *rest = capsys.readouterr().out.splitlines()
    lines = dict(line.split(maxsplit=1) for line in rest)
    assert source == '# "user.joined.late" has no entry; it inherits from "user.joined"'
    assert lines["title"] == "{{ body.k }}"
    assert lines["remind_after"] == '["36h", "4d"]'
    assert json.loads(lines["email"]) == {
        "after": "90s",
        "unless": "foreground",
        "subject": "{{ title }}",
        "html": None,
    }

    assert run("categories", "show", "user.joined", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["entry"], shown["holds"]["title"]) == (8, ENTRIES["user.joined"], "{{ body.k }}")
    assert run("categories", "show", "a b") == 2


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("user.joined", '# "user.joined" has its own entry; fields it does not set are inherited'),
        ("user.left", '# "user.left" has no entry; it inherits from "user"'),
        ("mail", '# "mail" has no entry; it has the defaults'),
    ],
)
def test_show_names_the_entry_of_the_fields(
    ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str], name: str, source: str
) -> None:
    ingest.answer = {"version": 8, "categories": ENTRIES}

    assert run("categories", "show", name) == 0

    assert capsys.readouterr().out.splitlines()[0] == source


def test_rollback_activates_an_older_version(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"version": 9, "categories": ENTRIES}

    assert run("categories", "rollback", "7") == 0

    assert ingest.asked == [("POST", "/v1/categories/rollback", {"version": 7})]
    assert capsys.readouterr().out == "version 9 is active: the entries of version 7\n"
    assert run("categories", "rollback", "0") == 2


def test_preview_renders_the_texts(ingest: ScriptedIngest, capsys: pytest.CaptureFixture[str]) -> None:
    ingest.answer = {"title": "Bob joined", "text": None, "link": "app://bob", "subject": "Bob joined", "html": None}

    assert run("categories", "preview", "user.joined", "--body", '{"k":1}', "--locale", "it") == 0
    ingest.answer = {**dict.fromkeys(ingest.answer), "warnings": ['"other" has no entry; it has the defaults']}
    assert run("categories", "preview", "other") == 0
    assert run("categories", "preview", "no one") == 2
    assert run("categories", "preview", "other", "--body", "{") == 2

    assert ingest.asked == [
        ("POST", "/v1/categories/user.joined/preview", {"body": {"k": 1}, "locale": "it"}),
        ("POST", "/v1/categories/other/preview", {"body": {}}),
    ]
    assert capsys.readouterr().out == (
        "title    Bob joined\nlink     app://bob\nsubject  Bob joined\n"
        'other has no texts: it has no entry with a title\nwarning: "other" has no entry; it has the defaults\n'
    )
