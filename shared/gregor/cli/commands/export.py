"""`gregor users export | delete`: all that is stored of a user."""

import json
import sys
from collections import Counter
from typing import Annotated

import typer

from gregor.cli.errors import CommandError
from gregor.cli.tables import echo, printable
from gregor.cli.target import Key, Url, find_target, path_segment

users = typer.Typer(help="Data of one user.", no_args_is_help=True, rich_markup_mode=None)


@users.callback()
def _group() -> None:
    """Data of one user."""


@users.command("export")
def export_user(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user.")], url: Url = None, key: Key = None
) -> None:
    """Print all that is stored of a user: one JSON object a line.

    Exit status 1 if the export is not complete. The service key needs the scope admin.
    """
    counts: Counter[str] = Counter()
    is_complete, is_terminal = False, sys.stdout.isatty()
    for raw in find_target(url, key).lines(f"/v1/users/{path_segment(user)}/export"):
        try:
            document, line = json.loads(raw), raw.decode()
            is_complete = document["kind"] == "end" and document["counts"] == counts
            counts[document["kind"]] += 1
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CommandError("the response has a line that is not part of a Gregor export: check --url") from error
        typer.echo(printable(line) if is_terminal else line)
    if not is_complete:
        raise CommandError("the export is not complete: its last line is missing, or counts other lines; repeat it")


@users.command("delete")
def delete_user(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user.")],
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete all that is stored of a user, and revoke the user's device tokens. This cannot be undone.

    Export the data first: gregor users export. The service key needs the scope admin.
    """
    path, target = f"/v1/users/{path_segment(user)}", find_target(url, key)
    if not is_confirmed:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"a deletion at {target.url} cannot be undone; confirm it with --yes")
        typer.confirm(f"Delete all data of {printable(user)} at {printable(target.url)}?", abort=True, err=True)
    target.call("DELETE", path)
    echo(f"{user} is deleted at {target.url}, or never existed; tokens issued in the next 30 seconds are refused too")
