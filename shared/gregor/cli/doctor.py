"""`gregor doctor`: checks of Redis, secrets and providers, one line each, with the fix if a check fails.

A process of delivery checks the providers, since the command line imports no service.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from gregor.clock import SystemClock
from gregor.config.python_version import PYTHON_FIX, unpatched_python
from gregor.config.risky_settings import risky_settings
from gregor.config.secret_files import override_variables
from gregor.config.settings import Settings
from gregor.config.values import PARTITION_COUNTS, TEST_PARTITIONS
from gregor.config.weak_secrets import FIX, weak_secrets
from gregor.core.formats import FORMAT
from gregor.dev.processes import end_with_parent, module_command
from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.sentinel.query import SentinelAnswer, ask_each
from gregor.redis.url import RedisUrl
from gregor.store.formats import WrittenFormat, refusal
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.keys import Keys

from .local import redis_error_text, service_settings
from .state_file import read_running
from .target import Json

MIN_VERSIONS = {"redis": (7, 2), "valkey": (8, 0)}
"""The oldest versions that the tests run against."""
MIN_SENTINELS = 3
"""With fewer, no majority is left after the loss of one."""
MAX_SKEW_S = 1.0
"""Clocks of hosts that differ by more make the order of items look wrong to people."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and how to fix it unless it is `ok`."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


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
    findings = []
    try:
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
    yield formats_finding(await RedisDeployment(client, Keys(settings.namespace)).written_format())
    yield await _pubsub(settings, client)


def parse_info(raw: bytes) -> dict[str, str]:
    """Return the fields of INFO."""
    pairs = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def version_finding(info: Mapping[str, str]) -> Finding:
    """Return whether the server is new enough. Valkey reports its own version and that of a compatible Redis."""
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = MIN_VERSIONS[kind]
    wanted = f"{kind} {'.'.join(map(str, oldest))} or newer is needed"
    return (
        Finding("version", "ok", f"{kind} {version}")
        if numbers >= oldest
        else Finding("version", "fail", f"{kind} {version}", wanted)
    )


def eviction_finding(info: Mapping[str, str]) -> Finding:
    """Return whether the server may evict keys, and so lose state."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    bounded = info.get("maxmemory", "0") != "0"
    found = f"{policy}, maxmemory {info.get('maxmemory_human', '0')}"
    return Finding("eviction", "fail" if bounded else "warn", found, "set maxmemory-policy noeviction")


def persistence_finding(info: Mapping[str, str]) -> Finding:
    """Return whether an acknowledged message survives a restart of the server."""
    if info.get("aof_enabled") != "1":
        return Finding("persistence", "warn", "no append-only file: a restart loses the state", "set appendonly yes")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "persistence", "fail", "the append-only file cannot be written", "check the disk and the log of the server"
        )
    return Finding("persistence", "ok", "append-only file")


def replication_finding(info: Mapping[str, str]) -> Finding:
    """Return how many replicas are in sync, and whether a primary that loses them stops accepting messages."""
    count = sum(name.startswith("slave") and "state=online" in value for name, value in info.items())
    if count == 0:
        return Finding("replication", "ok", "no replica: Gregor-Durability: replicated is refused")
    # INFO has this field only if min-replicas-to-write is set.
    if count == 1 or "min_slaves_good_slaves" in info:
        return Finding("replication", "ok", f"{count} in sync")
    return Finding(
        *(
            "replication",
            "warn",
            f"{count} in sync; a primary that loses them accepts messages that will be lost",
        ),
        "set min-replicas-to-write 1 and min-replicas-max-lag 2",
    )


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


def partitions_finding(configured: int, stored: int | None) -> Finding:
    """Return whether a deployment has the configured number of partitions; a new one has no ``stored`` number."""
    if stored is not None and stored != configured:
        found = f"the store has {stored}, GREGOR_PARTITIONS is {configured}"
        return Finding("partitions", "fail", found, f"set GREGOR_PARTITIONS={stored}, or use another namespace")
    found = f"{configured} (this namespace is new)" if stored is None else str(configured)
    if configured == TEST_PARTITIONS:
        fix = f"choose another number for production ({', '.join(map(str, PARTITION_COUNTS[1:]))}) in a new namespace"
        return Finding("partitions", "warn", found, fix)
    return Finding("partitions", "ok", found)


def formats_finding(written: WrittenFormat | None) -> Finding:
    """Return whether this release can read the data of the deployment; a new deployment has no written format."""
    if written is None:
        return Finding("formats", "ok", f"{FORMAT} (this namespace is new)")
    problem = refusal(written)
    if problem is None:
        return Finding("formats", "ok", f"{written.number} is written")
    found, _, fix = problem.partition("; ")
    return Finding("formats", "fail", found, fix)


async def _pubsub(settings: Settings, client: RedisCommands) -> Finding:
    pubsub = RedisPubSub(settings.redis_url, client, namespace=settings.namespace)
    try:
        await pubsub.open()
        if pubsub.status == "ok":
            return Finding("pubsub", "ok", "a probe arrived")
        return Finding("pubsub", "fail", "a probe did not arrive", "check for a proxy that does not support SSUBSCRIBE")
    finally:
        await pubsub.close()
