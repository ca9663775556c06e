"""`gregor upgrade status | finish`: two releases side by side, and the end of an upgrade."""

import json
from collections.abc import Mapping
from typing import Any

import typer

from gregor.cli.responses import expected_shapes
from gregor.cli.tables import counted, echo, print_table
from gregor.cli.target import Json, Key, Url, find_target

upgrade = typer.Typer(help="Upgrades: formats of running processes.", no_args_is_help=True, rich_markup_mode=None)
PATH = "/v1/upgrade"
HEAD = ("SERVICE", "RELEASE", "READS", "WRITES", "BLOCKS", "PROCESS")


@upgrade.callback()
def _group() -> None:
    """Upgrades: which formats the running processes read and write."""


@upgrade.command()
def status(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show what each process reads and writes, and whether the upgrade can be finished.

    Exit status 0: it is finished or can be. 1: a process blocks it. 2: unknown, because the call failed.
    """
    with expected_shapes(status=2):
        found = find_target(url, key).call("GET", PATH)
        _print(found, as_json=as_json)
        is_blocked = found["state"] == "blocked"
    if is_blocked:
        raise typer.Exit(1)


@upgrade.command()
def finish(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Let all processes write the newest format. Older releases cannot start afterwards."""
    _print(find_target(url, key).call("POST", f"{PATH}/finish"), as_json=as_json)


def _print(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo(json.dumps(found))
        return
    print_table(HEAD, map(_row, found["processes"]), empty="there are no running processes")
    echo("")
    echo(_verdict(found))


def _row(process: Mapping[str, Any]) -> tuple[str, ...]:
    lowest, highest = process["reads"]
    blocks = "yes" if process["blocks"] else "no"
    return (
        process["service"],
        process["release"],
        f"{lowest}-{highest}",
        str(process["writes"]),
        blocks,
        process["process"],
    )


def _verdict(found: Mapping[str, Any]) -> str:
    """Return the state of the upgrade, and what the operator does next."""
    written, newest = found["written"], found["newest"]
    if found["state"] == "blocked":
        count = sum(process["blocks"] for process in found["processes"])
        text = f"format {written} is written; {counted(count, 'process', 'processes')} cannot read format {newest}"
        return f"{text}: replace them (BLOCKS: yes), or go back to the release before"
    if found["state"] == "possible":
        text = f"format {written} is written, and all processes can read format {newest}"
        return f"{text}: run `gregor upgrade finish` when you no longer want to go back"
    late = [process for process in found["processes"] if process["writes"] < written]
    waits = f"; {counted(len(late), 'process', 'processes')} will write it within 20 seconds" if late else ""
    old = "" if found["oldest"] == written else f"; values of format {found['oldest']} may still be stored"
    return f"finished: format {written} is written{waits}{old}"
