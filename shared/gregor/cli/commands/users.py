"""`gregor users export | delete | revoke`: all that is stored of a user, and the user's device tokens."""

import json
import sys
from collections import Counter
from typing import Annotated

import typer

from gregor.cli.errors import CommandError
from gregor.cli.tables import echo, printable
from gregor.cli.target import Json, Key, Url, find_target, path_segment
from gregor.core.limits import SECOND_US
from gregor.core.times import date_text

users = typer.Typer(help="Data and tokens of one user.", no_args_is_help=True, rich_markup_mode=None)


@users.callback()
def _group() -> None:
    """Data and tokens of one user."""


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
        _confirm(f"a deletion at {target.url} cannot be undone", f"Delete all data of {user} at {target.url}?")
    target.call("DELETE", path)
    echo(f"{user} is deleted at {target.url}, or never existed; tokens issued in the next 30 seconds are refused too")


@users.command("revoke")
def revoke(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user.")],
    device: Annotated[str | None, typer.Option(help="Only the tokens of this device (default: all devices).")] = None,
    delayed: Annotated[
        bool, typer.Option("--delayed", help="Also cancel delayed messages that only these tokens sent.")
    ] = False,
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Revoke tokens of all devices without asking.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Revoke the device tokens of a user, close their connections, and remove the push tokens that they registered.

    Tokens issued in the next 30 seconds are refused too. The service key needs the scope devices.
    """
    path, target = f"/v1/users/{path_segment(user)}/revoke", find_target(url, key)
    if device is None and not is_confirmed:
        question = f"Revoke the tokens of all devices of {user} at {target.url}?"
        _confirm(f"this revokes the tokens of all devices at {target.url}", question)
    revoked = target.call("POST", path, body={"device": device, "delayed": delayed})
    if as_json:
        echo(json.dumps(revoked))
        return
    until = date_text(round(revoked["issued_before"] * 1_000_000) + SECOND_US - 1)  # rounded up: later is safe
    whose = f"all devices of {user}" if device is None else f"{device} of {user}"
    echo(f"tokens of {whose} issued at or before {until} are revoked at {target.url}; devices need newer tokens")


def _confirm(effect: str, question: str) -> None:
    """Ask on the terminal, and abort unless the answer is yes. Raises BadParameter without a terminal."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{effect}; confirm it with --yes")
    typer.confirm(printable(question), abort=True, err=True)
