"""All commands of `gregor`, and the one place where errors become a line and an exit status."""

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.exceptions import TyperException

import gregor
from gregor.config.settings import SettingsError
from gregor.dev.embedded_redis import EmbeddedServerError

from .commands.categories import categories
from .commands.config import config
from .commands.dead import dead
from .commands.dev import dev
from .commands.keys import keys
from .commands.services import delivery, gateway, ingest, scheduler
from .commands.token import token
from .commands.users import devices, history, send, snooze, state
from .doctor import doctor
from .errors import Failure
from .watch import watch

app = typer.Typer(
    name="gregor",
    help="Keeps the badge-like state of each user in sync over all devices and the server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (dev, ingest, gateway, scheduler, delivery, send, snooze, watch, state, history, devices, doctor):
    app.command()(command)
groups = {"keys": keys, "token": token, "categories": categories, "dead": dead, "config": config}
for name, group in groups.items():
    app.add_typer(group, name=name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gregor {gregor.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keeps the badge-like state of each user in sync over all devices and the server."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command of `arguments` (else of the process) and exit: 0 done, 1 it could not be done, 2 mistyped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of Latin-1 is no reason to show nothing
    try:
        status = app(arguments, standalone_mode=False)
    except TyperException as error:
        _complain_of_usage(error)
        status = error.exit_code
    except (Failure, SettingsError, EmbeddedServerError) as error:
        _complain(str(error))
        status = 1
    except UnicodeEncodeError as error:  # of an argument that is no UTF-8; what may be a long message is cut
        _complain(f"{error.object[max(0, error.start - 20) : error.end]!a} is no text in UTF-8")
        status = 2
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except BrokenPipeError:
        # Whoever read our output has left (`gregor watch … | head`): nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)


def _complain_of_usage(error: TyperException) -> None:
    text = error.format_message()
    if text.startswith("Usage:"):  # a group without a command: its help
        print(text, file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    _complain(f"{text} ({context.command_path} --help says more)" if context else text)


def _complain(text: str) -> None:
    print("gregor: " + " ".join(text.split()), file=sys.stderr)
