"""`gregor doctor`: are Redis, secrets and providers fit? One line a check, with the mend where one is not.

The providers are asked by a process of delivery's own, since the command line knows no service.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from gregor.auth.weak_secrets import FIX, weak_secrets
from gregor.clock import SystemClock
from gregor.config.settings import Settings, load_settings
from gregor.dev.embedded_redis import end_with_parent
from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.store.redis.keys import PARTITIONS, Keys

from .local import no_redis
from .state_file import read_running
from .target import Json

OLDEST = {"redis": (7, 2), "valkey": (8, 0)}
"""Oldest versions that the tests hold (architecture.md §3, "Servers")."""
WORST_SKEW_S = 1.0
"""Stamps order what people see: hosts that differ by more make it strange, though never wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and in `mend` what to do where it is not `ok`."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def doctor(
    redis: Annotated[str | None, typer.Option(help="Redis URL (else the setting, else that of gregor dev).")] = None,
    as_json: Json = False,
) -> None:
    """Check Redis, the secrets of the settings, and the credentials of each provider.

    Those of the settings, else those of the running gregor dev. Exit status 1 where one is unfit.
    """
    environ = dict(os.environ)
    running = read_running(os.environ)
    if redis or (running and not environ.get("GREGOR_REDIS_URL")):
        environ["GREGOR_REDIS_URL"] = redis or (running.redis if running else "")
    if running is not None and running.providers and environ["GREGOR_REDIS_URL"] == running.redis:
        environ |= running.providers
    findings = asyncio.run(_examine(load_settings(environ), environ))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            mend = f"  -> {finding.mend}" if finding.mend else ""
            typer.echo(f"{finding.verdict:<4}  {finding.check:<11}  {finding.found}{mend}")
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    providers = asyncio.create_task(_providers(environ))
    try:
        return [secrets_finding(settings), *await _examine_redis(settings), *await providers]
    finally:
        providers.cancel()


def secrets_finding(settings: Settings) -> Finding:
    """Whether somebody may guess a secret of the settings. Nothing of one is shown."""
    weak = weak_secrets(settings)
    if not weak:
        return Finding("secrets", "ok", "none is weak" if settings.token_secret is not None else "none is set")
    return Finding("secrets", "warn", "; ".join(f"{each.variable} {each.why}" for each in weak), FIX)


async def _examine_redis(settings: Settings) -> list[Finding]:
    link = RedisClient(settings.redis_url, name=f"{settings.namespace}-doctor")
    try:
        await link.open()
        return [finding async for finding in _checks(settings, link)]
    except (RedisUnavailable, ReplyError) as error:
        raise no_redis(settings, error) from error
    finally:
        await link.close()


async def _checks(settings: Settings, link: RedisCommands) -> AsyncIterator[Finding]:
    info = parse_info(await link.call("INFO"))
    yield version_finding(info)
    yield eviction_finding(info)
    yield persistence_finding(info)
    yield await _clock(settings, link)
    yield await _partitions(settings, link)
    yield await _pubsub(settings, link)


def parse_info(raw: bytes) -> dict[str, str]:
    """The fields of INFO."""
    pairs = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def version_finding(info: Mapping[str, str]) -> Finding:
    """Whether Gregor is tested on such a server. Valkey tells two versions: its own, and the Redis it is like."""
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = OLDEST[kind]
    wanted = f"{kind} {'.'.join(map(str, oldest))} or newer is needed"
    return (
        Finding("version", "ok", f"{kind} {version}")
        if numbers >= oldest
        else Finding("version", "fail", f"{kind} {version}", wanted)
    )


def eviction_finding(info: Mapping[str, str]) -> Finding:
    """Whether the server may throw away state by itself."""
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding("eviction", "ok", policy)
    bounded = info.get("maxmemory", "0") != "0"
    found = f"{policy}, maxmemory {info.get('maxmemory_human', '0')}"
    return Finding("eviction", "fail" if bounded else "warn", found, "set maxmemory-policy noeviction")


def persistence_finding(info: Mapping[str, str]) -> Finding:
    """Whether an acknowledged message outlives a restart of the server."""
    if info.get("aof_enabled") != "1":
        return Finding("persistence", "warn", "no append-only file: a restart loses the state", "set appendonly yes")
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(
            "persistence", "fail", "the append-only file cannot be written", "look at the server's disk and log"
        )
    return Finding("persistence", "ok", "append-only file")


async def _providers(environ: Mapping[str, str]) -> list[Finding]:
    """What delivery's own check says of each provider (`python -m gregor_delivery.check`)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gregor_delivery.credential_check"),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    try:
        said, trouble = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = trouble.decode("utf-8", "replace").strip().splitlines() or ["it says nothing"]
        return [Finding("providers", "fail", "the check of delivery ended by itself", words[-1])]
    return [provider_finding(found) for found in json.loads(said)]


def provider_finding(found: Mapping[str, str]) -> Finding:
    """One provider: good, not set up (which is no fault), or wrong, with the mend."""
    if found["state"] != "wrong":
        return Finding(found["provider"], "ok", found["state"])
    return Finding(found["provider"], "fail", "does not take us", found["mend"])


async def _clock(settings: Settings, link: RedisCommands) -> Finding:
    clock = SystemClock(settings.clock_offset_s)
    before_us = clock.now_us()
    seconds, micros = await link.call("TIME")
    # The server's answer was made somewhere between the two readings: their middle is the best guess.
    skew_s = (int(seconds) * 1_000_000 + int(micros) - (before_us + clock.now_us()) // 2) / 1_000_000
    found = f"server {skew_s:+.3f} s from this host"
    if abs(skew_s) <= WORST_SKEW_S:
        return Finding("clock", "ok", found)
    return Finding("clock", "warn", found, "keep the hosts' clocks together (NTP), or look at GREGOR_CLOCK_OFFSET")


async def _partitions(settings: Settings, link: RedisCommands) -> Finding:
    stored = await link.call("GET", Keys(settings.namespace).partitions)
    if stored is None:
        return Finding("partitions", "ok", f"{PARTITIONS} (this namespace is new)")
    if int(stored) == PARTITIONS:
        return Finding("partitions", "ok", str(PARTITIONS))
    mend = "use another namespace, or the version that made it"
    return Finding("partitions", "fail", f"the store has {int(stored)}, this version {PARTITIONS}", mend)


async def _pubsub(settings: Settings, link: RedisCommands) -> Finding:
    feed = RedisPubSub(settings.redis_url, link, namespace=settings.namespace)
    try:
        await feed.open()
        if feed.status == "ok":
            return Finding("pubsub", "ok", "a probe came back")
        return Finding("pubsub", "fail", "a probe did not come back", "look for a proxy that does not know SSUBSCRIBE")
    finally:
        await feed.close()
