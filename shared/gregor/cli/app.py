"""All commands of `gregor`, and the one place that turns errors into a line and an exit status."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import gregor
from gregor.dev.errors import DevError

from .commands.audit import audit
from .commands.backend import devices, send, snooze, state
from .commands.conformance import conformance
from .commands.dead import dead
from .commands.history import history
from .commands.jobs import broadcast, jobs
from .commands.keys import keys
from .commands.token import token
from .commands.upgrade import upgrade
from .commands.users import users
from .errors import CommandError, missing_services
from .responses import expected_shapes
from .tables import printable
from .watch import watch

CLIENT_COMMANDS = (send, broadcast, snooze, watch, state, devices, audit, conformance)
CLIENT_GROUPS = {
    "history": history,
    "keys": keys,
    "token": token,
    "dead": dead,
    "jobs": jobs,
    "users": users,
    "upgrade": upgrade,
}
SERVER_COMMANDS = {
    "dev": ("commands.dev", "Run all services on this machine."),
    "ingest": ("commands.services", "Run ingest: the HTTP API."),
    "gateway": ("commands.services", "Run a gateway: the connections of devices."),
    "scheduler": ("commands.services", "Run a scheduler: expiry, reminders, delayed messages."),
    "delivery": ("commands.services", "Run delivery: pushes, mails and webhooks."),
    "canary": ("commands.canary", "Check a deployment from outside, every few seconds."),
    "doctor": ("doctor.command", "Check this host, the settings, Redis, and the credentials of each provider."),
}
SERVER_GROUPS = {
    "categories": ("commands.categories", "Notification types, with one entry each."),
    "config": ("commands.config", "Check the settings."),
}
EXAMPLES = {
    "dev": ("gregor dev", "gregor dev --gateways 2 --port-base 9700", "gregor dev --fresh --fake-providers"),
    "send": (
        """gregor send alice --category user.joined --body '{"keybase":"kbob"}' --expires +1d""",
        "gregor send alice --dismiss-category user.joined",
        """gregor send alice --system kbfs.favorites --body '{"action":"delete"}'""",
        "gregor send alice --category invoice.due --dry-run",
    ),
    "broadcast": (
        """gregor broadcast kbfs.favorites --body '{"action":"reload"}' --spread 10m""",
        "gregor broadcast app.version --body 7 --all --id release-7 --wait",
    ),
    "snooze": ("gregor snooze alice 5d44d2ad9aabab30 --for 2h",),
    "watch": ("gregor watch alice --device phone", "gregor watch alice --observe"),
    "state": ("gregor state alice", "gregor state alice --device phone --json", "gregor state alice --at -2h"),
    "canary": (
        "gregor canary --once",
        "gregor canary --url https://gregor.example --gateway wss://gregor.example --stream https://gregor.example",
    ),
    "conformance": ("gregor conformance --runs 10000 -- node clients/js/dist/conformance.js",),
    "doctor": ("gregor doctor", "gregor doctor --redis redis://10.0.0.5:6379/0 --json"),
}


def _epilog(name: str) -> str | None:
    lines = EXAMPLES.get(name)
    # The \b keeps the lines of the paragraph apart.
    return None if lines is None else "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _not_installed(name: str, help_text: str) -> Any:
    """Return a stand-in for a command of the services: it says what to install."""

    def command() -> None:
        raise missing_services(f"gregor {name}")

    command.__doc__ = f"{help_text}\n\nNot installed: pip install '.[server]' in a checkout of Gregor."
    return command


# Commands of the services are imported only if their packages are installed: without the extra `server`, Gregor is a
# thin client.


def _load(module: str, name: str) -> Any | None:
    """Return a command of the services; None if a package that it needs is not installed."""
    try:
        return getattr(importlib.import_module(f"gregor.cli.{module}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("gregor"):
            raise
        return None


def _build() -> typer.Typer:
    made = typer.Typer(
        name="gregor",
        help="Keeps the badge-like state of each user in sync over all devices and the server.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    for name, (module, help_text) in (SERVER_COMMANDS | SERVER_GROUPS).items():
        loaded = _load(module, name)
        if loaded is None:
            made.command(name, context_settings=anything)(_not_installed(name, help_text))
        elif name in SERVER_GROUPS:
            made.add_typer(loaded, name=name)
        else:
            made.command(name, epilog=_epilog(name))(loaded)
    for command in CLIENT_COMMANDS:
        made.command(epilog=_epilog(command.__name__))(command)
    for name, group in CLIENT_GROUPS.items():
        made.add_typer(group, name=name)
    made.command("help")(show_help)
    made.callback()(options)
    return made


def show_help(
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]", help="A command, such as `send`.")] = None,
) -> None:
    """Show the help of a command."""
    app([*(command or ()), "--help"], standalone_mode=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gregor {gregor.__version__}")
        raise typer.Exit


def options(
    _version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keeps the badge-like state of each user in sync over all devices and the server."""


app = _build()


def main(arguments: list[str] | None = None) -> None:
    """Run the command of `arguments` (default: those of the process) and exit: 0 done, 1 failed, 2 mistyped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack characters of the output
    is_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(arguments, is_json))


def _run(arguments: Sequence[str] | None, is_json: bool) -> int:
    """Run the command and report its error; return the exit status."""
    try:
        with expected_shapes():
            status = app(arguments, standalone_mode=False)
    except TyperException as error:
        _report_usage(error, is_json)
        return error.exit_code
    except CommandError as error:
        _report(str(error), is_json, error.problem)
        return error.status
    except DevError as error:
        _report(str(error), is_json)
        return 1
    except UnicodeEncodeError as error:  # an argument is not UTF-8; only its end is shown, since it may be long
        _report(f"{error.object[max(0, error.start - 20) : error.end]!a} is not UTF-8", is_json)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`gregor watch … | head`): print nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0


def _report_usage(error: TyperException, is_json: bool) -> None:
    text = error.format_message()
    if text.startswith("Usage:"):  # a group without a command: its help
        print(text, file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    _report(f"{text} ({context.command_path} --help says more)" if context else text, is_json)


def _report(text: str, is_json: bool, problem: Any = None) -> None:
    line = " ".join(text.split())
    if is_json:
        print(printable(json.dumps({"problem": problem or {"detail": line}}, ensure_ascii=False)))
    else:
        print(f"gregor: {printable(line)}", file=sys.stderr)
