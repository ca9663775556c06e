"""`gregor audit`: which service key changed what, and when."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

import typer

from gregor.cli.tables import echo, print_table
from gregor.cli.target import Json, Key, Target, Url, find_target
from gregor.cli.times import time_text

PATH = "/v1/audit"
PAGE = 1_000
MAX_LIMIT = 100_000
"""The audit trail has no more events."""


def audit(
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Maximum number, newest first.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Print the audit trail: the writes of service keys, newest first."""
    events = list(islice(_events(find_target(url, key), limit), limit))
    if as_json:
        echo(json.dumps({"entries": events}))
    else:
        head = ("TIME", "KEY", "ACT", "TARGET", "OUTCOME", "CLIENT", "REQUEST")
        print_table(head, map(_row, events), empty="the audit trail is empty")


def _events(target: Target, most: int) -> Iterator[dict[str, Any]]:
    for page in target.pages(PATH, {"limit": min(most, PAGE)}):
        yield from page["entries"]


def _row(event: Mapping[str, Any]) -> tuple[str, ...]:
    target = " ".join(f"{name}={value}" for name, value in event["target"].items())
    return (
        time_text(event["at"]),
        event["key"],
        event["act"],
        target or "-",
        event["outcome"],
        event["client"] or "-",
        event["request_id"],
    )
