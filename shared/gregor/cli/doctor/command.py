"""`gregor doctor`: all checks, one line each, with the fix if a check fails."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Final

import typer

from gregor.cli.errors import CommandError
from gregor.cli.local import redis_error_text, service_settings
from gregor.cli.state_file import read_running
from gregor.cli.tables import counted, printable
from gregor.cli.target import Json
from gregor.config.secret_files import override_variables
from gregor.config.settings import Settings
from gregor.dev.plan import LOCAL_ORIGINS
from gregor.redis.errors import RedisAccessRefused, RedisUnavailable, ReplyError
from gregor.redis.url import RedisUrl

from .cluster import cluster_findings
from .finding import Finding, in_order, severity
from .host_findings import host_findings, this_host
from .providers import key_set_findings, provider_findings
from .remote_checks import TIMEOUT_S, Deadline, RemoteCheck, run_checks
from .server import queue_findings, server_findings
from .settings_findings import settings_findings

_PROVIDERS_ALONE: Final = (
    "repeat with --timeout 20, or check them without a deadline: python -m gregor_delivery.credential_check"
)
_START_REDIS: Final = "start Redis, or name another with GREGOR_REDIS_URL or --redis"
_CORRECT_LOGIN: Final = (
    "correct user, password and database in GREGOR_REDIS_URL; Redis reads a changed users.acl only when it starts"
)
_COLORS: Final = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    redis: Annotated[str | None, typer.Option(help="Redis URL (else the setting, else that of gregor dev).")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 also for a warning.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and failures.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for the whole command.")] = TIMEOUT_S,
    as_json: Json = False,
) -> None:
    """Check this host, the settings, Redis, and the credentials of each provider.

    The settings come from the environment, else from the running gregor dev. Exit status 0 if no check fails, 1 if one
    does, 2 if nothing can be checked because the settings are invalid.
    """
    environ = _environment(redis)
    try:
        settings = service_settings(environ)
    except CommandError as error:
        typer.echo(f"gregor: {error}", err=True)
        raise typer.Exit(2) from None
    findings = in_order(asyncio.run(check_all(settings, environ, timeout)))
    shown = [finding for finding in findings if not quiet or finding.verdict != "ok"]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in shown]))
    else:
        _print(shown, findings)
    if any(severity(finding) >= (1 if strict else 2) for finding in findings):
        raise typer.Exit(1)


def _environment(redis: str | None) -> Mapping[str, str]:
    """Return the variables of the settings: those of the process, and of the running `gregor dev`."""
    environ = dict(os.environ)
    running = read_running(os.environ, environ.get("GREGOR_URL"))
    if redis or (running and not (environ.get("GREGOR_REDIS_URL") or environ.get("GREGOR_REDIS_URL_FILE"))):
        environ = override_variables(environ, {"GREGOR_REDIS_URL": redis or (running.redis if running else "")})
    if running is not None and environ.get("GREGOR_REDIS_URL") == running.redis:
        environ = override_variables(environ, running.providers)
        if not environ.get("GREGOR_TOKEN_SECRET_FILE"):
            environ.setdefault("GREGOR_TOKEN_SECRET", running.token_secret)
        environ.setdefault("GREGOR_ALLOW_WEAK_SECRETS", "true")
        environ.setdefault("GREGOR_PUBLIC_URL", running.ingest)
        environ.setdefault("GREGOR_ORIGINS", LOCAL_ORIGINS)
    return environ


async def check_all(settings: Settings, environ: Mapping[str, str], timeout_s: float) -> list[Finding]:
    """Return the findings of all checks. Those that wait for a server run at once, with one deadline."""
    deadline = Deadline.of_command(timeout_s)
    host = this_host()
    checks = [
        RemoteCheck("redis", lambda: redis_findings(settings, deadline.earlier()), "start Redis, or correct its URL"),
        RemoteCheck("queue", lambda: queue_findings(settings, deadline), "start it, or correct GREGOR_QUEUE_URL"),
        RemoteCheck(
            "jwks", lambda: key_set_findings(settings), "let this host reach the URL, or correct GREGOR_TOKEN_JWKS"
        ),
        RemoteCheck("providers", lambda: provider_findings(settings, environ, deadline), _PROVIDERS_ALONE),
    ]
    known = [
        *host_findings(host, settings, environ),
        *settings_findings(settings, environ, public_address=host.public_address),
    ]
    return [*known, *await run_checks(checks, deadline)]


async def redis_findings(settings: Settings, deadline: Deadline) -> list[Finding]:
    """Return the findings about the Redis of the state; the one finding `redis` if it cannot be used."""
    try:
        if RedisUrl.parse(settings.redis_url).is_cluster:
            found = await cluster_findings(settings, deadline)
        else:
            found = await server_findings(settings, deadline)
    except (RedisUnavailable, ReplyError, ValueError) as error:
        fix = _CORRECT_LOGIN if isinstance(error, RedisAccessRefused) else _START_REDIS
        return [Finding("redis", "fail", redis_error_text(settings, error), fix)]
    return found if any(each.check == "redis" for each in found) else [Finding("redis", "ok", "it answers"), *found]


def _print(shown: Sequence[Finding], findings: Sequence[Finding]) -> None:
    """Print a line for each finding, its fix below it, and the numbers of each verdict."""
    width = max((len(finding.check) for finding in shown), default=0)
    for finding in shown:
        verdict = typer.style(f"{finding.verdict:<4}", fg=_COLORS[finding.verdict], bold=finding.verdict == "fail")
        typer.echo(f"{verdict}  {finding.check:<{width}}  {printable(finding.found)}")
        if finding.fix:
            typer.echo(f"{'':<{width + 8}}-> {printable(finding.fix)}")
    good, warnings, failures = (sum(severity(finding) == level for finding in findings) for level in range(3))
    bad = f"{counted(warnings, 'warning', 'warnings')}, {counted(failures, 'failure', 'failures')}"
    typer.echo(f"{good} ok, {bad} (docs/reference/doctor.md)")
