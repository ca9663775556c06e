"""`gregor ingest`, `gateway`, `scheduler`, `delivery`: one service, in the place of this process: signals reach it."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from gregor.config.settings import load_settings

Port = Annotated[int | None, typer.Option(help="Port, in place of the setting.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on, in place of the setting.")]


def ingest(
    host: Host = None,
    port: Port = None,
    audience: Annotated[str | None, typer.Option(help="all, or devices: only what a device token may call.")] = None,
) -> None:
    """Run ingest: the HTTP API.

    With the settings of the environment.
    """
    _become("gregor_ingest", {"GREGOR_HOST": host, "GREGOR_INGEST_PORT": port, "GREGOR_INGEST_AUDIENCE": audience})


def gateway(
    host: Host = None,
    port: Port = None,
    stream_port: Annotated[int | None, typer.Option(help="Port of SSE and long poll.")] = None,
) -> None:
    """Run a gateway: the connections of devices.

    With the settings of the environment.
    """
    _become("gregor_gateway", {"GREGOR_HOST": host, "GREGOR_GATEWAY_PORT": port, "GREGOR_STREAM_PORT": stream_port})


def scheduler(host: Host = None, port: Port = None) -> None:
    """Run a scheduler: what is due, when it is due.

    With the settings of the environment.
    """
    _become("gregor_scheduler", {"GREGOR_HOST": host, "GREGOR_SCHEDULER_PORT": port})


def delivery(host: Host = None, port: Port = None) -> None:
    """Run delivery: pushes, mails and webhooks.

    With the settings of the environment.
    """
    _become("gregor_delivery", {"GREGOR_HOST": host, "GREGOR_DELIVERY_PORT": port})


def _become(module: str, given: dict[str, str | int | None]) -> NoReturn:
    environ = os.environ | {name: str(value) for name, value in given.items() if value is not None}
    load_settings(environ)  # a mistake is told here, in one line
    os.execve(sys.executable, [sys.executable, "-m", module], environ)  # noqa: S606 - our own module
