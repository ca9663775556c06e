"""`gregor jobs list | show | cancel`: long work for many users, such as a reset of all users."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gregor.cli.tables import print_table, printable
from gregor.cli.target import Json, Key, Url, find_target, path_segment
from gregor.cli.times import time_text

jobs = typer.Typer(help="Jobs: long work for many users.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(metavar="ID", help="Id from `gregor jobs list`.")]
PATH = "/v1/jobs"
HEAD = ("ID", "KIND", "STATE", "DONE", "CREATED", "CHANGED", "REASON")


@jobs.callback()
def _group() -> None:
    """Jobs: long work for many users."""


@jobs.command("list")
def list_jobs(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List jobs: their state and progress."""
    found = find_target(url, key).call("GET", PATH).json()
    if as_json:
        typer.echo(printable(json.dumps(found)))
    else:
        print_table(HEAD, map(_row, found["jobs"]), empty="there are no jobs")


@jobs.command()
def show(job: Id, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job."""
    _print(find_target(url, key).call("GET", f"{PATH}/{path_segment(job)}").json(), as_json=as_json)


@jobs.command()
def cancel(job: Id, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job. What it did so far stays."""
    _print(find_target(url, key).call("DELETE", f"{PATH}/{path_segment(job)}").json(), as_json=as_json)


def _print(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(printable(json.dumps(job)))
    else:
        print_table(HEAD, [_row(job)], empty="")


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    progress = f"{job['done']}/{job['total']}" if job["total"] else "-"
    times = time_text(job["created"]), time_text(job["changed"])
    return job["id"], job["kind"], job["state"], progress, *times, job["reason"] or ""
