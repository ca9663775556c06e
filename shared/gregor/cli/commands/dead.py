"""`gregor dead list | replay | purge`: dead letters, the deliveries that failed for good."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

import typer

from gregor.cli.environment import now_s
from gregor.cli.responses import document_of
from gregor.cli.tables import counted, echo, notice_text, print_table
from gregor.cli.target import Json, Key, Target, Url, find_target, path_segment
from gregor.cli.times import past_time, time_text
from gregor.core.notify.intents import CHANNELS

dead = typer.Typer(help="Dead letters: deliveries that failed for good.", no_args_is_help=True, rich_markup_mode=None)
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids from `gregor dead list`.")]
Channel = Annotated[str | None, typer.Option(help=f"Only of this channel: {', '.join(CHANNELS)}.")]
Before = Annotated[str | None, typer.Option(help="Only those that failed before: -2d (ago), or Unix seconds.")]
PATH = "/v1/deliveries/dead"
PAGE = 1_000


@dead.callback()
def _group() -> None:
    """Dead letters: deliveries that failed for good."""


@dead.command("list")
def list_dead(
    channel: Channel = None,
    before: Before = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number, newest first.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List dead letters: when and why they failed."""
    filters = _filters(channel, before)
    found = list(islice(_letters(find_target(url, key), filters, limit + 1), limit + 1))
    shown = found[:limit]
    if as_json:
        echo(json.dumps({"entries": shown}))
    else:
        head = ("FAILED", "CHANNEL", "USER", "ITEM", "NOTICE", "TO", "REASON", "ID")
        print_table(head, map(_row, shown), empty="there are no dead letters")
    if len(found) > limit:
        echo(f"there are more; --limit shows more than {limit}", err=True)


@dead.command()
def replay(
    ids: Ids = None,
    channel: Channel = None,
    before: Before = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send dead letters again.

    Give ids, or --channel for all of a channel. A letter whose item is gone is not sent.
    """
    filters = _filters(channel, before)
    if bool(ids) == (channel is not None) or (ids and before):
        raise typer.BadParameter("give ids, or --channel (and perhaps --before)")
    target = find_target(url, key)
    if ids:
        answers = [target.send("POST", _path(each, "/replay")) for each in ids]
    else:
        # Read all pages first: a letter that fails again meanwhile is not sent again.
        letters = list(_letters(target, filters))
        answers = [target.send("POST", _path(each["id"], "/replay"), may_be_missing=True) for each in letters]
    replayed = [document_of(answer)["id"] for answer in answers if answer.status_code != 404]
    echo(
        json.dumps({"replayed": replayed})
        if as_json
        else f"{counted(len(replayed), 'dead letter', 'dead letters')} will be sent again"
    )


@dead.command()
def purge(
    ids: Ids = None,
    channel: Channel = None,
    before: Before = None,
    every: Annotated[bool, typer.Option("--all", help="Delete all.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Delete dead letters.

    Give ids, or --channel and --before, or --all.
    """
    filters = _filters(channel, before)
    if sum((bool(ids), bool(filters), every)) != 1:
        raise typer.BadParameter("give ids, or --channel and --before, or --all")
    target = find_target(url, key)
    if ids:
        for each in ids:
            target.call("DELETE", _path(each))
        purged = len(ids)
    else:
        purged = target.call("DELETE", PATH, filters)["purged"]
    echo(json.dumps({"purged": purged}) if as_json else f"{counted(purged, 'dead letter', 'dead letters')} deleted")


def _filters(channel: str | None, before: str | None) -> dict[str, Any]:
    """Return the query parameters. Raises BadParameter for an invalid one."""
    if channel is not None and channel not in CHANNELS:
        raise typer.BadParameter(
            f"{channel} is not a channel; the channels are {', '.join(CHANNELS)}", param_hint="--channel"
        )
    given = {"channel": channel, "before": None if before is None else past_time(before, "--before", now_s())}
    return {name: value for name, value in given.items() if value is not None}


def _letters(target: Target, filters: Mapping[str, Any], most: int = PAGE) -> Iterator[dict[str, Any]]:
    """Return all dead letters, page by page, newest first; `most` bounds the size of a page."""
    for page in target.pages(PATH, {**filters, "limit": min(most, PAGE)}):
        yield from page["entries"]


def _path(letter: str, act: str = "") -> str:
    return f"{PATH}/{path_segment(letter)}{act}"


def _row(letter: Mapping[str, Any]) -> tuple[str, ...]:
    last = letter["attempts"][-1] if letter["attempts"] else {"status": "", "detail": ""}
    why = [word for word in (letter["reason"], last["status"], last["detail"]) if word]
    return (
        time_text(letter["at"]),
        letter["channel"],
        letter["uid"],
        letter["item"],
        notice_text(letter),
        letter.get("webhook") or letter["device"] or "-",
        " ".join(why),
        letter["id"],
    )
