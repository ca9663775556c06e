"""`gregor canary`: publishes and receives through the public URLs, as a service with metrics, or once by hand."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gregor.canary.process import run_canary, run_once
from gregor.canary.round import CheckedDeployment, RoundResult
from gregor.cli.commands.token import mint_token
from gregor.cli.environment import setting
from gregor.cli.errors import CommandError
from gregor.cli.tables import printable
from gregor.cli.target import Key, Url, check_url, find_target, stream_url, websocket_url
from gregor.cli.times import duration_option
from gregor.config.secret_files import read_secret_file
from gregor.core.ids import is_name, is_user_id, name_error, user_id_error
from gregor.telemetry import configure_logging

TOKEN_LIFETIME_S = 600
# Rounds without a pause would load the deployment. A shorter timeout fails every round.
MIN_DURATION_S = 0.1
"""Minimum of --every, --timeout and --late."""


def canary(
    url: Url = None,
    gateway: Annotated[str | None, typer.Option(help="URL of the gateway's WebSockets, ws:// or wss://.")] = None,
    stream: Annotated[str | None, typer.Option(help="URL of the gateway's streams, http:// or https://.")] = None,
    key: Key = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a device token (default: minted with GREGOR_TOKEN_SECRET).")
    ] = None,
    user: Annotated[str, typer.Option(help="User of the canary; nothing else may use it.")] = "canary",
    device: Annotated[str, typer.Option(help="Device of the canary.")] = "canary",
    every: Annotated[str, typer.Option(help="Time from the start of a round to the next.")] = "15s",
    timeout: Annotated[str, typer.Option(help="Timeout of each stage of a round.")] = "5s",
    late: Annotated[str, typer.Option(help="An item that arrives later than this is a failure.")] = "2s",
    host: Annotated[str, typer.Option(help="Address of the port.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of /metrics and /healthz.", min=1, max=65_535)] = 8705,
    once: Annotated[bool, typer.Option("--once", help="One round over each transport, without a port.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print JSON, for programs.")] = False,
) -> None:
    """Check a deployment from outside: publish an item as a backend, and receive it as a device.

    Rounds use a WebSocket and server-sent events in turn. A second item is delayed, to check the schedulers. The
    canary dismisses its items. Exit status of --once: 0 if both rounds succeed, 1 if one fails, 2 for a usage error.
    """
    check_url("--gateway", gateway, "ws")
    check_url("--stream", stream, "http")
    ingest_url = find_target(url, key).url.rstrip("/")
    every_s = duration_option(every, "--every", MIN_DURATION_S)
    timeout_s = duration_option(timeout, "--timeout", MIN_DURATION_S)
    late_s = duration_option(late, "--late", MIN_DURATION_S)
    credentials = _credentials(url, key, user, device, token_file)
    credentials()  # fail now rather than in each round
    gateway_url = websocket_url(gateway, url)
    target = CheckedDeployment(ingest_url, gateway_url, stream_url(stream, url), user, credentials, timeout_s, late_s)
    if once:
        if not asyncio.run(run_once(target, _print_json if as_json else _print)):
            raise typer.Exit(1)
        return
    _serve(target, every_s, host, port)


def _serve(target: CheckedDeployment, every_s: float, host: str, port: int) -> None:
    """Run rounds until a signal arrives. Raises BadParameter or CommandError if the host or port cannot be used."""
    configure_logging("canary", setting("LOG_LEVEL") or "info")
    try:
        uvloop.run(run_canary(target, every_s, host, port))
    except UnicodeError as error:  # the IDNA codec refuses an empty or long label
        raise typer.BadParameter(
            "it is not an IP address or a host name; write 127.0.0.1 or ::", param_hint="--host"
        ) from error
    except OSError as error:
        raise CommandError(f"{error.strerror or error}; choose another with --host or --port") from error


def _credentials(
    url: str | None, key: str | None, user: str, device: str, token_file: Path | None
) -> Callable[[], tuple[str, str]]:
    """Return a function that reads the service key and the device token: files may change while the canary runs.

    Raises BadParameter for a name that a token cannot have.
    """
    if not is_user_id(user):
        raise typer.BadParameter(user_id_error(user), param_hint="--user")
    if not is_name(device):
        raise typer.BadParameter(name_error(device), param_hint="--device")

    def read() -> tuple[str, str]:
        service_key = find_target(url, key).key
        if token_file is None:
            return service_key, mint_token(user, device, TOKEN_LIFETIME_S)
        try:
            return service_key, read_secret_file("token_file", token_file).strip()
        except ValueError as error:
            raise CommandError(f"--token-file: {error}") from error

    return read


def _print(result: RoundResult) -> None:
    """Print a round as one line, and the fix of a failure as another."""
    verdict = "ok" if result.failure is None else "fail"
    times = (
        ("connected in", result.connect_s, ""),
        ("published in", result.publish_s, ""),
        ("received after", result.receive_s, ""),
        ("scheduled item", result.timer_late_s, " late"),
    )
    parts = [f"{text} {_time_text(seconds)}{end}" for text, seconds, end in times if seconds is not None]
    if result.failure is not None:
        parts.append(f"{result.failure.stage}: {result.failure.detail}")
    line = printable(f"{verdict:<4}  {result.transport:<9}  {', '.join(parts)}")
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        line = f"\x1b[{32 if result.failure is None else 31}m{line}\x1b[0m"
    typer.echo(line)
    if result.failure is not None:
        typer.echo(f"      -> {result.failure.stage.fix}")


def _time_text(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _print_json(result: RoundResult) -> None:
    document: dict[str, object] = {
        "transport": result.transport,
        "ok": result.failure is None,
        "connect_s": result.connect_s,
        "publish_s": result.publish_s,
        "receive_s": result.receive_s,
        "timer_late_s": result.timer_late_s,
    }
    if result.failure is not None:
        stage = result.failure.stage
        document |= {"stage": stage.value, "detail": result.failure.detail, "fix": stage.fix}
    typer.echo(printable(json.dumps(document)))
