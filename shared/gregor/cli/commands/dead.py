"""`gregor dead list | replay | purge`: deliveries that were given up."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gregor.cli.target import Json, Key, Target, Url, find_target, past_moment
from gregor.core.notify.intents import CHANNELS

from .users import print_table, tells_of, time_text

dead = typer.Typer(help="Dead letters: deliveries that were given up.", no_args_is_help=True, rich_markup_mode=None)
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As `gregor dead list` shows them.")]
Channel = Annotated[str | None, typer.Option(help=f"Only of this channel: {', '.join(CHANNELS)}.")]
Before = Annotated[str | None, typer.Option(help="Only those given up before: -2d (so long ago), or Unix seconds.")]
PATH = "/v1/deliveries/dead"
PAGE = 1_000


@dead.callback()
def _group() -> None:
    """Dead letters: deliveries that were given up."""


@dead.command("list")
def list_dead(
    channel: Channel = None,
    before: Before = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what was given up, when, and why."""
    filters = _filters(channel, before)
    found = list(islice(_letters(find_target(url, key), filters, limit + 1), limit + 1))
    shown = found[:limit]
    if as_json:
        typer.echo(json.dumps({"entries": shown}))
    else:
        head = ("GIVEN UP", "CHANNEL", "USER", "ITEM", "TELLS OF", "TO", "WHY", "ID")
        print_table(head, map(_row, shown), empty="there are no dead letters")
    if len(found) > limit:
        typer.echo(f"there are more; --limit shows more than {limit}", err=True)


@dead.command()
def replay(
    ids: Ids = None,
    channel: Channel = None,
    before: Before = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send again what was given up.

    Those of these ids, or all of a --channel. Each is looked at first, and sent where it still may be.
    """
    filters = _filters(channel, before)
    if bool(ids) == (channel is not None) or (ids and before):
        raise typer.BadParameter("say which: ids, or all of a --channel (with --before, if you like)")
    target = find_target(url, key)
    if ids:
        answers = [target.call("POST", _path(each, "/replay")) for each in ids]
    else:
        # They are read to the end first: what dies again meanwhile is not tried again.
        letters = list(_letters(target, filters))
        answers = [target.call("POST", _path(each["id"], "/replay"), may_be_gone=True) for each in letters]
    replayed = [answer.json()["id"] for answer in answers if answer.status_code != 404]
    typer.echo(json.dumps({"replayed": replayed}) if as_json else f"{len(replayed)} will be sent again")


@dead.command()
def purge(
    ids: Ids = None,
    channel: Channel = None,
    before: Before = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Take off the list what was given up.

    Those of these ids; or those of a --channel, given up --before a time; or --all.
    """
    filters = _filters(channel, before)
    if sum((bool(ids), bool(filters), every)) != 1:
        raise typer.BadParameter("say which: ids, or --channel and --before, or --all")
    target = find_target(url, key)
    if ids:
        for each in ids:
            target.call("DELETE", _path(each))
        purged = len(ids)
    else:
        purged = target.call("DELETE", PATH, filters).json()["purged"]
    typer.echo(json.dumps({"purged": purged}) if as_json else f"{purged} purged")


def _filters(channel: str | None, before: str | None) -> dict[str, Any]:
    """As query parameters; BadParameter where one cannot be."""
    if channel is not None and channel not in CHANNELS:
        raise typer.BadParameter(f"{channel} is no channel; there are {', '.join(CHANNELS)}", param_hint="--channel")
    given = {"channel": channel, "before": None if before is None else past_moment(before, "--before")}
    return {name: value for name, value in given.items() if value is not None}


def _letters(target: Target, filters: Mapping[str, Any], most: int = PAGE) -> Iterator[dict[str, Any]]:
    """All of them, page by page, the latest first. `most`: how many the caller wants."""
    path, query = PATH, {**filters, "limit": min(most, PAGE)}
    while path:
        answer = target.call("GET", path, query)
        yield from answer.json()["entries"]
        path, query = answer.links.get("next", {}).get("url", ""), {}


def _path(letter: str, act: str = "") -> str:
    return f"{PATH}/{quote(letter, safe='')}{act}"


def _row(letter: Mapping[str, Any]) -> tuple[str, ...]:
    last = letter["attempts"][-1] if letter["attempts"] else {"status": "", "detail": ""}
    why = [word for word in (letter["reason"], last["status"], last["detail"]) if word]
    return (
        time_text(letter["at"]),
        letter["channel"],
        letter["uid"],
        letter["item"],
        tells_of(letter),
        letter.get("webhook") or letter["device"] or "-",
        " ".join(why),
        letter["id"],
    )
