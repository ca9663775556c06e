"""`gregor doctor`: checks of Redis, secrets and providers, one line each, with the fix if a check fails.

A process of delivery checks the providers, since the command line imports no service.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from gregor.clock import SystemClock
from gregor.config.python_version import PYTHON_FIX, unpatched_python
from gregor.config.risky_settings import risky_settings
from gregor.config.secret_files import override_variables
from gregor.config.settings import Settings
from gregor.config.weak_secrets import FIX, weak_secrets
from gregor.dev.processes import end_with_parent, module_command
from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.sentinel.query import SentinelAnswer, ask_each
from gregor.redis.url import RedisUrl
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.keys import Keys

from .doctor_cluster import cluster_findings
from .local import redis_error_text, service_settings
from .redis_findings import (
    Finding,
    eviction_finding,
    formats_finding,
    parse_info,
    partitions_finding,
    persistence_finding,
    processes_finding,
    replication_finding,
    version_finding,
)
from .state_file import read_running
from .target import Json

MIN_SENTINELS = 3
"""With fewer, no majority is left after the loss of one."""
MAX_SKEW_S = 1.0
"""Clocks of hosts that differ by more make the order of items look wrong to people."""


def doctor(
    redis: Annotated[str | None, typer.Option(help="Redis URL (else the setting, else that of gregor dev).")] = None,
    as_json: Json = False,
) -> None:
    """Check Redis, the secrets, and the credentials of each provider.

    The settings come from the environment, else from the running gregor dev. Exit status 1 if a check fails.
    """
    environ = dict(os.environ)
    running = read_running(os.environ, environ.get("GREGOR_URL"))
    if redis or (running and not (environ.get("GREGOR_REDIS_URL") or environ.get("GREGOR_REDIS_URL_FILE"))):
        environ = override_variables(environ, {"GREGOR_REDIS_URL": redis or (running.redis if running else "")})
    if running is not None and environ.get("GREGOR_REDIS_URL") == running.redis:
        environ = override_variables(environ, running.providers)
        if not environ.get("GREGOR_TOKEN_SECRET_FILE"):
            environ.setdefault("GREGOR_TOKEN_SECRET", running.token_secret)
        environ.setdefault("GREGOR_ALLOW_WEAK_SECRETS", "true")
    findings = asyncio.run(_check_all(service_settings(environ), environ))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            fix = f"  -> {finding.fix}" if finding.fix else ""
            typer.echo(f"{finding.verdict:<4}  {finding.check:<11}  {finding.found}{fix}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


async def _check_all(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    # In parallel: a provider that does not answer takes 30 s, and Redis has its own timeouts.
    providers = asyncio.create_task(_check_providers(environ))
    try:
        return [
            python_finding(sys.version_info[:3]),
            tokens_finding(settings),
            secrets_finding(settings),
            risks_finding(settings, environ),
            *await _check_redis(settings),
            *await providers,
        ]
    finally:
        providers.cancel()


# Settings.


def python_finding(version: tuple[int, int, int]) -> Finding:
    """Return whether the interpreter has the security fixes that a deployment needs."""
    reason = unpatched_python(version)
    return Finding("python", "warn", reason, PYTHON_FIX) if reason else Finding("python", "ok", "has the fixes")


def tokens_finding(settings: Settings) -> Finding:
    """Return whether the gateways can verify device tokens."""
    if settings.token_secret is not None or settings.token_jwks is not None:
        return Finding("tokens", "ok", "a key for device tokens is set")
    return Finding(
        *("tokens", "fail", "no key for device tokens is set: every device is refused (4501)"),
        "set GREGOR_TOKEN_SECRET or GREGOR_TOKEN_JWKS",
    )


def secrets_finding(settings: Settings) -> Finding:
    """Return whether a secret of the settings can be guessed. The secret itself is not shown."""
    weak = weak_secrets(settings)
    if not weak:
        return Finding("secrets", "ok", "none is weak" if settings.token_secret is not None else "none is set")
    verdict: Literal["warn", "fail"] = "warn" if settings.allow_weak_secrets else "fail"
    return Finding("secrets", verdict, "; ".join(f"{each.variable} {each.why}" for each in weak), FIX)


def risks_finding(settings: Settings, environ: Mapping[str, str]) -> Finding:
    """Return whether the settings are unsafe in production."""
    risky = risky_settings(settings, environ)
    if not risky:
        return Finding("settings", "ok", "no setting is unsafe in production")
    found = "; ".join(f"{each.variable} {each.why}" for each in risky)
    return Finding("settings", "warn", found, "; ".join(dict.fromkeys(each.fix for each in risky)))


# Redis.


async def _check_redis(settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    try:
        if RedisUrl.parse(settings.redis_url).is_cluster:
            return await cluster_findings(settings)
        client = RedisClient(settings.redis_url, name=f"{settings.namespace}-doctor")
        try:
            await client.open()
            async for finding in _redis_findings(settings, client):
                findings.append(finding)
        finally:
            await client.close()
    except (RedisUnavailable, ReplyError, ValueError) as error:
        fix = "start Redis, or name another with GREGOR_REDIS_URL or --redis"
        findings.append(Finding("redis", "fail", redis_error_text(settings, error), fix))
    return findings


async def _redis_findings(settings: Settings, client: RedisCommands) -> AsyncIterator[Finding]:
    info = parse_info(await client.call("INFO"))
    yield version_finding(info)
    yield eviction_finding(info)
    yield persistence_finding(info)
    yield replication_finding(info)
    address = RedisUrl.parse(settings.redis_url)
    if address.service is not None:
        yield sentinels_finding(await ask_each(address))
    yield await _clock(settings, client)
    yield await _partitions(settings, client)
    deployment = RedisDeployment(client, Keys(settings.namespace))
    yield formats_finding(await deployment.written_format())
    yield processes_finding(await deployment.formats())
    yield await _pubsub(settings, client)


def sentinels_finding(answers: Mapping[str, SentinelAnswer | RedisUnavailable]) -> Finding:
    """Return whether all Sentinels of the URL answer and name the same primary."""
    silent = [str(answer) for answer in answers.values() if isinstance(answer, RedisUnavailable)]
    primaries = {answer.primary for answer in answers.values() if not isinstance(answer, RedisUnavailable)}
    if silent:
        return Finding("sentinels", "warn", "; ".join(silent), "start it, or correct GREGOR_REDIS_URL")
    if len(primaries) > 1:
        named = " and ".join(f"{host}:{port}" for host, port in sorted(primaries))
        fix = "wait for the end of the failover, or check the connections between the Sentinels"
        return Finding("sentinels", "warn", f"they name different primaries: {named}", fix)
    few = "" if len(answers) >= MIN_SENTINELS else f"; {MIN_SENTINELS} are needed to survive the loss of one"
    fix = "name all Sentinels in GREGOR_REDIS_URL" if few else ""
    return Finding("sentinels", "warn" if few else "ok", f"{len(answers)} name the same primary{few}", fix)


# Providers.


async def _check_providers(environ: Mapping[str, str]) -> list[Finding]:
    """Return the findings of `python -m gregor_delivery.credential_check`."""
    process = await asyncio.create_subprocess_exec(
        *module_command("gregor_delivery.credential_check"),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["it printed nothing"]
        return [Finding("providers", "fail", "the check of the providers crashed", lines[-1])]
    return [provider_finding(found) for found in json.loads(output)]


def provider_finding(found: Mapping[str, str]) -> Finding:
    """Return the finding for one provider: good, not set up (which is fine), or wrong, with the fix."""
    if found["state"] != "wrong":
        return Finding(found["provider"], "ok", found["state"])
    return Finding(found["provider"], "fail", "refuses our credentials", found["fix"])


# Checks that need more than INFO.


async def _clock(settings: Settings, client: RedisCommands) -> Finding:
    clock = SystemClock(settings.clock_offset_s)
    before_us = clock.now_us()
    seconds, micros = await client.call("TIME")
    # The server read its clock between our two readings: their middle is the best estimate.
    skew_s = (int(seconds) * 1_000_000 + int(micros) - (before_us + clock.now_us()) // 2) / 1_000_000
    found = f"server {skew_s:+.3f} s from this host"
    if abs(skew_s) <= MAX_SKEW_S:
        return Finding("clock", "ok", found)
    return Finding("clock", "warn", found, "synchronize the clocks of the hosts (NTP), or check GREGOR_CLOCK_OFFSET")


async def _partitions(settings: Settings, client: RedisCommands) -> Finding:
    stored = await client.call("GET", Keys(settings.namespace, settings.partitions).partitions)
    return partitions_finding(settings.partitions, None if stored is None else int(stored))


async def _pubsub(settings: Settings, client: RedisCommands) -> Finding:
    pubsub = RedisPubSub(settings.redis_url, client, namespace=settings.namespace)
    try:
        await pubsub.open()
        if pubsub.status == "ok":
            return Finding("pubsub", "ok", "a probe arrived")
        return Finding("pubsub", "fail", "a probe did not arrive", "check for a proxy that does not support SSUBSCRIBE")
    finally:
        await pubsub.close()
