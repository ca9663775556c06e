"""`gregor ingest`, `gateway`, `scheduler`, `delivery`: the service replaces this process, so signals reach it."""

import os
from typing import Annotated, NoReturn

import typer

from gregor.cli.local import service_settings
from gregor.dev.processes import module_command

Port = Annotated[int | None, typer.Option(help="Port, instead of the setting.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on, instead of the setting.")]


def ingest(
    host: Host = None,
    port: Port = None,
    audience: Annotated[
        str | None, typer.Option(help="all, or devices: only the calls that a device token may make.")
    ] = None,
) -> None:
    """Run ingest: the HTTP API.

    Settings come from the environment (gregor config check).
    """
    _exec("gregor_ingest", {"GREGOR_HOST": host, "GREGOR_INGEST_PORT": port, "GREGOR_INGEST_AUDIENCE": audience})


def gateway(
    host: Host = None,
    port: Port = None,
    stream_port: Annotated[int | None, typer.Option(help="Port of SSE and long poll.")] = None,
) -> None:
    """Run a gateway: the connections of devices.

    Settings come from the environment (gregor config check).
    """
    _exec("gregor_gateway", {"GREGOR_HOST": host, "GREGOR_GATEWAY_PORT": port, "GREGOR_STREAM_PORT": stream_port})


def scheduler(host: Host = None, port: Port = None) -> None:
    """Run a scheduler: expiry, reminders, delayed messages.

    Settings come from the environment (gregor config check).
    """
    _exec("gregor_scheduler", {"GREGOR_HOST": host, "GREGOR_SCHEDULER_PORT": port})


def delivery(host: Host = None, port: Port = None) -> None:
    """Run delivery: pushes, mails and webhooks.

    Settings come from the environment (gregor config check).
    """
    _exec("gregor_delivery", {"GREGOR_HOST": host, "GREGOR_DELIVERY_PORT": port})


def _exec(module: str, given: dict[str, str | int | None]) -> NoReturn:
    environ = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    service_settings(environ)  # reports an invalid setting in one line, before the service starts
    command = module_command(module)
    os.execve(command[0], command, environ)  # noqa: S606 - our own module
