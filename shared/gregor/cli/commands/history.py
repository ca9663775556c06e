"""`gregor history USER` and `gregor history check FILE`: the history of a user, and the check of recorded ones."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gregor.cli.tables import counted, printable
from gregor.cli.target import Json

from .backend import history as history_of_user


class HistoryGroup(TyperGroup):
    """A group whose default command is `user`: `gregor history alice` is `gregor history user alice`."""

    default = "user"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless the arguments begin with a command or ask for help."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


history = typer.Typer(
    cls=HistoryGroup,
    help="The items of a user, live and gone; and the check of a recorded history.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExamples:\n  gregor history alice --category-prefix user --limit 20\n  gregor history check run.jsonl",
)


@history.callback()
def _group() -> None:
    """The items of a user, live and gone; and the check of a recorded history."""


history.command("user")(history_of_user)


@history.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A history, written by a recorder (JSON lines).")],
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")] = 0,
    late: Annotated[float, typer.Option(min=1, help="Seconds after which a missing change is late.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Check a recorded history against the laws, and name each anomaly.

    Exit status 0 if there is none, 1 if there are some, 2 if the file is not a history.
    """
    # Imported here: the checker loads the reference model, which no other command needs.
    from gregor.history.checker import check_file
    from gregor.history.format import HistoryError

    try:
        report = check_file(file, jobs=jobs, late_s=late)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="FILE") from error
    except HistoryError as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="FILE") from error
    if as_json:
        typer.echo(printable(json.dumps(report.document())))
    else:
        for found in report.findings:
            typer.echo(printable(str(found)))
        for name, count in sorted(report.counts.items()):
            typer.echo(f"{count} {name} (messages; not an anomaly)")
        checked = f"{counted(report.operations, 'operation', 'operations')} of {counted(report.users, 'user', 'users')}"
        typer.echo(f"{counted(len(report.findings), 'anomaly', 'anomalies')} in {checked}")
    if report.findings:
        raise typer.Exit(1)
