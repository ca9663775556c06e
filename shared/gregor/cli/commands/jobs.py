"""`gregor jobs list | start | show | wait | cancel` and `gregor broadcast`: long work for many users."""

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from gregor.cli.errors import CommandError
from gregor.cli.tables import echo, print_table
from gregor.cli.target import Json, Key, Target, Url, find_target, path_segment
from gregor.cli.times import duration_option, time_text

from .backend import parse_json

jobs = typer.Typer(help="Jobs: long work for many users.", no_args_is_help=True, rich_markup_mode=None)
Id = Annotated[str, typer.Argument(metavar="ID", help="Id from `gregor jobs list`.")]
PATH = "/v1/jobs"
HEAD = ("ID", "KIND", "STATE", "DONE", "CREATED", "CHANGED", "RESULT")
OVER = ("done", "cancelled", "failed")
POLL_S = 1.0
"""Interval at which `wait` polls the job."""


@jobs.callback()
def _group() -> None:
    """Jobs: long work for many users."""


@jobs.command("list")
def list_jobs(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List jobs: their state and progress."""
    found = [job for page in find_target(url, key).pages(PATH) for job in page["jobs"]]
    if as_json:
        echo(json.dumps({"jobs": found}))
    else:
        print_table(HEAD, map(_row, found), empty="there are no jobs")


@jobs.command()
def start(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="`audit`: compare all digests with the items.")],
    job_id: Annotated[
        str | None, typer.Option("--id", help="Id of the job: a repeat starts no second one (default: random).")
    ] = None,
    is_awaited: Annotated[bool, typer.Option("--wait", help="Wait until the job is over.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Start a job. Needs a service key with the scope `admin`."""
    target = find_target(url, key)
    job = target.call("POST", PATH, body={"kind": kind, "id": job_id})
    _print_or_wait(target, job, is_awaited=is_awaited, as_json=as_json)


@jobs.command()
def show(job: Id, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show a job."""
    _print(find_target(url, key).call("GET", f"{PATH}/{path_segment(job)}"), as_json=as_json)


@jobs.command()
def wait(job: Id, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Wait until a job is over. Exit status 1 if it failed or was cancelled."""
    _wait(find_target(url, key), job, as_json=as_json)


@jobs.command()
def cancel(job: Id, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Cancel a job. Its finished steps stay."""
    _print(find_target(url, key).call("DELETE", f"{PATH}/{path_segment(job)}"), as_json=as_json)


def broadcast(
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="The external system, such as `kbfs.favorites`.")],
    body: Annotated[str, typer.Option(help="JSON: body of the message.")],
    spread: Annotated[
        str | None, typer.Option(help="Time from the first to the last user: 30s, 10m (default: of the server).")
    ] = None,
    all_users: Annotated[
        bool, typer.Option("--all", help="Also users without a connection: they get it if they resume in time.")
    ] = False,
    broadcast_id: Annotated[
        str | None, typer.Option("--id", help="Id of the job: a repeat sends nothing again (default: random).")
    ] = None,
    is_awaited: Annotated[bool, typer.Option("--wait", help="Wait until the job is over.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send an external message to all users who are online, by a job.

    Needs a service key with the scope `broadcast` or `admin`.
    """
    document = {
        "system": system,
        "body": parse_json(body, "--body"),
        "spread": None if spread is None else round(duration_option(spread, "--spread")),
        "audience": "all" if all_users else "online",
        "id": broadcast_id,
    }
    target = find_target(url, key)
    job = target.call("POST", "/v1/broadcast", body=document)
    _print_or_wait(target, job, is_awaited=is_awaited, as_json=as_json)


def _print_or_wait(target: Target, job: Mapping[str, Any], *, is_awaited: bool, as_json: bool) -> None:
    if is_awaited:
        _wait(target, job["id"], as_json=as_json)
    else:
        _print(job, as_json=as_json)


def _wait(target: Target, job_id: str, *, as_json: bool) -> None:
    is_announced = False
    while (job := target.call("GET", f"{PATH}/{path_segment(job_id)}"))["state"] not in OVER:
        if not is_announced:
            hint = "`gregor jobs list` shows its progress; Ctrl-C ends only this command"
            echo(f"gregor: waiting for the job {job_id}; {hint}", err=True)
            is_announced = True
        time.sleep(POLL_S)
    _print(job, as_json=as_json)
    if job["state"] != "done":
        raise CommandError(f"the job {job_id} is {job['state']}: {job['reason'] or 'a request cancelled it'}")


def _print(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(job))
    else:
        print_table(HEAD, [_row(job)], empty="")


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    progress = f"{100 * job['done'] // job['total']}%" if job["total"] else "-"
    times = time_text(job["created"]), time_text(job["changed"])
    return job["id"], job["kind"], job["state"], progress, *times, job["reason"] or _result_text(job)


def _result_text(job: Mapping[str, Any]) -> str:
    """Return the counts of a job, such as `sent 7, offline 1`. A server of an earlier release sends none."""
    result = job.get("result")
    return ", ".join(f"{name} {value}" for name, value in result.items()) if isinstance(result, dict) else ""
