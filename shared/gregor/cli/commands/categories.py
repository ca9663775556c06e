"""`gregor categories apply | check | list | preview | show | rollback`: notification types, with one entry each."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gregor.cli.errors import CommandError
from gregor.cli.tables import counted, echo, print_table
from gregor.cli.target import Json, Key, Url, find_target
from gregor.core.categories.parse import parse_categories
from gregor.core.categories.policy import CategoryPolicies, CategoryPolicy, no_entry_text
from gregor.core.errors import FieldError, Problem
from gregor.core.ids import is_dotted
from gregor.registries.category_files import check_file, read_file, silent_reminders

from .backend import parse_json

categories = typer.Typer(help="Notification types, with one entry each.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(metavar="FILE", help="TOML file of entries (or JSON, named .json).")]
UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


@categories.callback()
def _group() -> None:
    """Notification types, with one entry each."""


@categories.command()
def check(file: File, as_json: Json = False) -> None:
    """Check a file: print each error and how to fix it.

    Nothing is sent to a server.
    """
    errors = _errors(file)
    warnings = [] if errors else silent_reminders(read_file(file))
    if as_json:
        echo(json.dumps({"errors": _documents(errors), "warnings": _documents(warnings)}))
        raise typer.Exit(1 if errors else 0)
    _refuse(file, errors)
    _print(warnings)
    count = len(read_file(file))
    echo(f"{file}: {counted(count, 'entry', 'entries')}, no errors")


@categories.command()
def apply(file: File, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Apply the entries of a file: they replace all present entries.

    All processes use them within a second.
    """
    _refuse(file, _errors(file))
    entries = read_file(file)
    _print(silent_reminders(entries))
    answer = find_target(url, key).call("PUT", "/v1/categories", body={"categories": entries})
    if as_json:
        echo(json.dumps(answer))
        return
    count = counted(len(answer["categories"]), "entry", "entries")
    echo(f"version {answer['version']} is active: {count}")


@categories.command("list")
def list_entries(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List the active entries, each with the fields it inherits."""
    answer = find_target(url, key).call("GET", "/v1/categories")
    if as_json:
        echo(json.dumps(answer))
        return
    rows = [
        (
            name or '""',
            _duration(policy.push.after_us) if policy.push else "-",
            _duration(policy.email.after_us) if policy.email else "-",
            _duration(policy.expires_after_us) if policy.expires_after_us else "-",
            ",".join(map(_duration, policy.remind_after_us)) or "-",
            policy.title or "-",
        )
        for name, policy in sorted(_read(answer).named.items())
    ]
    print_table(
        ("NAME", "PUSH", "EMAIL", "EXPIRES", "REMINDS", "TITLE"),
        rows,
        empty="there are no entries; `gregor categories apply FILE` adds some",
    )
    if rows:
        echo(f"version {answer['version']}")


@categories.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A category, with or without its own entry.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the effective fields of a category, including inherited ones."""
    if name and not is_dotted(name):
        raise typer.BadParameter("a category consists of dotted segments, such as user.joined", param_hint="NAME")
    answer = find_target(url, key).call("GET", "/v1/categories")
    effective = _described(_read(answer).resolve(name))
    if as_json:
        own = answer["categories"].get(name)
        echo(json.dumps({"name": name, "version": answer["version"], "entry": own, "holds": effective}))
        return
    echo(_source_text(name, answer["categories"]))
    width = max(map(len, effective))
    for field, value in effective.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        echo(f"{field:<{width}}  {text}")


@categories.command()
def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A category.")],
    body: Annotated[str, typer.Option(help="JSON: the body of an item.")] = "{}",
    locale: Annotated[str | None, typer.Option(help="A language, such as it-IT.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Render the texts of an item of a category; nothing is sent."""
    if not is_dotted(name):
        raise typer.BadParameter("a category consists of dotted segments, such as user.joined", param_hint="NAME")
    asked: dict[str, Any] = {"body": parse_json(body, "--body")} | ({} if locale is None else {"locale": locale})
    words = find_target(url, key).call("POST", f"/v1/categories/{name}/preview", body=asked)
    if as_json:
        echo(json.dumps(words))
        return
    warnings = words.pop("warnings", ())
    said = {field: text for field, text in words.items() if text is not None}
    lines = [line for field, text in said.items() for line in f"{field:<7}  {text}".split("\n")]
    no_texts = "it has no entry with a title" if warnings else "its entry has no title"
    for line in lines or [f"{name} has no texts: {no_texts}"]:
        echo(line)
    for warning in warnings:
        echo(f"warning: {warning}")


@categories.command()
def rollback(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="One of the last 50 versions.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Activate the entries of an older version."""
    answer = find_target(url, key).call("POST", "/v1/categories/rollback", body={"version": version})
    if as_json:
        echo(json.dumps(answer))
        return
    echo(f"version {answer['version']} is active: the entries of version {version}")


# Errors and entries as text.


def _source_text(name: str, entries: dict[str, Any]) -> str:
    """Return the entry from which the fields of a category come."""
    if name in entries:
        return f'# "{name}" has its own entry; fields it does not set are inherited'
    return f"# {no_entry_text(name, entries)}"


def _errors(file: Path) -> list[FieldError]:
    try:
        return check_file(file)
    except Problem as problem:
        raise CommandError(problem.detail) from None


def _refuse(file: Path, errors: list[FieldError]) -> None:
    """Raise CommandError if there are errors, after a line for each."""
    _print(errors)
    if errors:
        raise CommandError(f"{file} has {counted(len(errors), 'error', 'errors')}")


def _print(faults: list[FieldError]) -> None:
    """Print a line for each, on stderr."""
    for fault in faults:
        echo(f"{_place(fault.pointer)}: {' '.join(fault.detail.split())}", err=True)


def _documents(faults: list[FieldError]) -> list[dict[str, str]]:
    return [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]


def _place(pointer: str) -> str:
    """Return a JSON pointer in the form of the TOML file: `["user.joined"] push.after`."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    if not steps:
        return "the file"
    return " ".join(part for part in (f'["{steps[0]}"]', ".".join(steps[1:])) if part)


def _read(answer: dict[str, Any]) -> CategoryPolicies:
    try:
        return parse_categories(answer["categories"])
    except Problem as problem:
        raise CommandError(f"these entries come from a newer Gregor than this command: {problem.detail}") from None


def _described(policy: CategoryPolicy) -> dict[str, Any]:
    """Return all fields of a policy in the form of an entry."""
    push, email, aggregate = policy.push, policy.email, policy.aggregate
    fields: dict[str, Any] = {
        "title": policy.title,
        "text": policy.text,
        "link": policy.link,
        "collapse": policy.collapse,
        "expires_after": None if policy.expires_after_us is None else _duration(policy.expires_after_us),
        "remind_after": [_duration(each) for each in policy.remind_after_us],
        "counts_in_badge": policy.counts_in_badge,
        "max_live": policy.max_live,
        "push": push and {"after": _duration(push.after_us), "sound": push.sound},
        "email": email
        and {
            "after": _duration(email.after_us),
            "unless": email.unless,
            "subject": email.subject,
            "html": None if email.html is None else f"{len(email.html)} characters",
        },
        "urgent": policy.urgent,
        "devices_may_create": policy.devices_may_create,
        "aggregate": aggregate
        and {
            "window": _duration(aggregate.window_us),
            "at_least": aggregate.at_least,
            "title": aggregate.title,
            "keep": aggregate.keep,
        },
        "body_schema": policy.body_schema and policy.body_schema.document,
        "locales": sorted(policy.locales),
    }
    return {field: value for field, value in fields.items() if value not in (None, [])}


def _duration(us: int) -> str:
    seconds = us / 1_000_000
    unit, size = next(((unit, size) for unit, size in UNITS if seconds and seconds % size == 0), ("s", 1))
    return f"{seconds / size:g}{unit}"
