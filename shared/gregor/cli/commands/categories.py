"""`gregor categories apply | check | list | preview | show | rollback`: notification types, one entry each."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gregor.cli.errors import Failure
from gregor.cli.target import Json, Key, Url, find_target
from gregor.core.categories.parse import parse_categories
from gregor.core.categories.policy import CategoryPolicies, CategoryPolicy
from gregor.core.errors import FieldError, Problem
from gregor.core.ids import is_dotted
from gregor.registries.category_files import check_file, read_file, silent_reminders

from .users import parse_json, print_table

categories = typer.Typer(help="Notification types, one entry each.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(metavar="FILE", help="TOML file of entries (or JSON, named .json).")]
UNITS = (("d", 86_400), ("h", 3_600), ("m", 60))


@categories.callback()
def _group() -> None:
    """Notification types, one entry each."""


@categories.command()
def check(file: File, as_json: Json = False) -> None:
    """Say what is wrong with a file, and how to mend it.

    One line a mistake; nothing is sent anywhere.
    """
    mistakes = _mistakes(file)
    warnings = [] if mistakes else silent_reminders(read_file(file))
    if as_json:
        typer.echo(json.dumps({"errors": _documents(mistakes), "warnings": _documents(warnings)}))
        raise typer.Exit(1 if mistakes else 0)
    _refuse(file, mistakes)
    _tell(warnings)
    count = len(read_file(file))
    typer.echo(f"{file}: {_counted(count, 'entry', 'entries')}, nothing wrong")


@categories.command()
def apply(file: File, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Make the entries of a file the ones that hold.

    In all processes within a second.
    """
    _refuse(file, _mistakes(file))
    entries = read_file(file)
    _tell(silent_reminders(entries))
    answer = find_target(url, key).call("PUT", "/v1/categories", body={"categories": entries}).json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    count = _counted(len(answer["categories"]), "entry", "entries")
    typer.echo(f"version {answer['version']} holds: {count}")


@categories.command("list")
def list_entries(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show the entries that hold, and what each of them comes to."""
    answer = find_target(url, key).call("GET", "/v1/categories").json()
    if as_json:
        typer.echo(json.dumps(answer))
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
    print_table(("NAME", "PUSH", "EMAIL", "EXPIRES", "REMINDS", "TITLE"), rows, empty="there are no entries")
    if rows:
        typer.echo(f"version {answer['version']}")


@categories.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A category; it may have no entry of its own.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show all that holds for a category, what it inherits too."""
    if name and not is_dotted(name):
        raise typer.BadParameter("a category is dotted segments, such as user.joined", param_hint="NAME")
    answer = find_target(url, key).call("GET", "/v1/categories").json()
    holds = _described(_read(answer).resolve(name))
    if as_json:
        own = answer["categories"].get(name)
        typer.echo(json.dumps({"name": name, "version": answer["version"], "entry": own, "holds": holds}))
        return
    width = max(map(len, holds))
    for field, value in holds.items():
        typer.echo(f"{field:<{width}}  {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")


@categories.command()
def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A category.")],
    body: Annotated[str, typer.Option(help="JSON: the body of an item.")] = "{}",
    locale: Annotated[str | None, typer.Option(help="A language, such as it-IT.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what an item of a category would say; nothing is sent."""
    if not is_dotted(name):
        raise typer.BadParameter("a category is dotted segments, such as user.joined", param_hint="NAME")
    asked: dict[str, Any] = {"body": parse_json(body, "--body")} | ({} if locale is None else {"locale": locale})
    words = find_target(url, key).call("POST", f"/v1/categories/{name}/preview", body=asked).json()
    if as_json:
        typer.echo(json.dumps(words))
        return
    said = {field: text for field, text in words.items() if text is not None}
    lines = [f"{field:<7}  {text}" for field, text in said.items()]
    typer.echo("\n".join(lines or [f"{name} has no words: it has no title"]))


@categories.command()
def rollback(
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="One of the last 50 versions.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make the entries of an older version hold again."""
    answer = find_target(url, key).call("POST", "/v1/categories/rollback", body={"version": version}).json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"version {answer['version']} holds: the entries of version {version}")


def _mistakes(file: Path) -> list[FieldError]:
    try:
        return check_file(file)
    except Problem as problem:
        raise Failure(problem.detail) from None


def _refuse(file: Path, mistakes: list[FieldError]) -> None:
    """Ends the command where there are mistakes: a line for each, then how many."""
    _tell(mistakes)
    if mistakes:
        raise Failure(f"{file} has {_counted(len(mistakes), 'mistake', 'mistakes')}")


def _tell(faults: list[FieldError]) -> None:
    """A line for each, on stderr."""
    for fault in faults:
        typer.echo(f"{_place(fault.pointer)}: {' '.join(fault.detail.split())}", err=True)


def _documents(faults: list[FieldError]) -> list[dict[str, str]]:
    return [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]


def _place(pointer: str) -> str:
    """A place as it stands in the TOML: `["user.joined"] push.after`."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    if not steps:
        return "the file"
    return " ".join(part for part in (f'["{steps[0]}"]', ".".join(steps[1:])) if part)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _read(answer: dict[str, Any]) -> CategoryPolicies:
    try:
        return parse_categories(answer["categories"])
    except Problem as problem:
        raise Failure(f"these entries are of a newer Gregor than this command: {problem.detail}") from None


def _described(policy: CategoryPolicy) -> dict[str, Any]:
    """All fields of a policy as an entry would say them."""
    push, email, aggregate = policy.push, policy.email, policy.aggregate
    said: dict[str, Any] = {
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
    return {field: value for field, value in said.items() if value not in (None, [])}


def _duration(us: int) -> str:
    seconds = us / 1_000_000
    unit, size = next(((unit, size) for unit, size in UNITS if seconds and seconds % size == 0), ("s", 1))
    return f"{seconds / size:g}{unit}"
