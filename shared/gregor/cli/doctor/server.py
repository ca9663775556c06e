"""The checks of one Redis server, or of the primary that Sentinels name: of the state, and of the queues."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from gregor.clock import SystemClock
from gregor.config.risky_settings import is_loopback
from gregor.config.settings import Settings, mask_password
from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands
from gregor.redis.connect import connect
from gregor.redis.connection import NullListener
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.pubsub import RedisPubSub
from gregor.redis.sentinel.query import SentinelAnswer, ask_each
from gregor.redis.url import RedisUrl
from gregor.store.redis.deployment import RedisDeployment
from gregor.store.redis.keys import Keys

from .deployment_findings import (
    databases_finding,
    formats_finding,
    partitions_finding,
    processes_finding,
    service_keys_finding,
    services_finding,
)
from .finding import CheckName, Finding, severity
from .remote_checks import Deadline, RemoteCheck, run_checks
from .server_findings import INFO_CHECKS, OPTION_CHECKS, OPTIONS, parse_info, replication_finding, role_finding

MIN_SENTINELS: Final = 3
"""With fewer, no majority is left after the loss of one."""
MAX_SKEW_S: Final = 1.0
"""If the clocks of hosts differ by more, the order of items is visibly wrong."""
MAX_LATENCY_S: Final = 0.01
"""A message takes two or three round trips to Redis."""
_ROUNDS: Final = 3
_HUNG: Final = "the server is hung, or blocked by a slow command: see its log, SLOWLOG GET and LATENCY DOCTOR"


async def server_findings(settings: Settings, deadline: Deadline) -> list[Finding]:
    """Return the findings about the Redis of the state. Raises ``RedisUnavailable``, ``ReplyError``, ``ValueError``."""
    async with _client(settings.redis_url, settings, deadline) as client:
        return await run_checks(_checks(settings, client, deadline.answer_s), deadline)


def _checks(settings: Settings, client: RedisClient, answer_s: float) -> list[RemoteCheck]:
    address = RedisUrl.parse(settings.redis_url)
    checks = [
        RemoteCheck("redis", lambda: _info_findings(settings, client), _HUNG),
        RemoteCheck("options", lambda: _option_findings(client), _HUNG),
        RemoteCheck("clock", lambda: clock_findings(settings, client), _HUNG),
        RemoteCheck("acl", lambda: access_findings(address, client, answer_s), _HUNG),
        RemoteCheck("pubsub", lambda: _pubsub_findings(settings, client, answer_s), _HUNG),
        *deployment_checks(settings, client),
    ]
    if address.service is not None:
        checks.append(RemoteCheck("sentinels", lambda: _sentinel_findings(address, answer_s), "start the Sentinels"))
    else:
        databases = _if_permitted("databases", lambda: _database_findings(settings, address, client, answer_s))
        checks.append(RemoteCheck("databases", databases, _HUNG))
    return checks


@asynccontextmanager
async def _client(url: str, settings: Settings, deadline: Deadline) -> AsyncIterator[RedisClient]:
    client = RedisClient(
        url,
        name=f"{settings.namespace}-doctor",
        max_wait_s=deadline.answer_s,
        timeout_s=2 * deadline.answer_s,
        accepts_replica=True,
    )
    try:
        await client.open()
        yield client
    finally:
        await client.close()


# ---- the server itself


async def _info_findings(settings: Settings, client: RedisClient) -> list[Finding]:
    info = parse_info(await client.call("INFO"))
    findings = [role_finding(info), replication_finding(info), *(check(info) for check in INFO_CHECKS)]
    if settings.queue == settings.redis_url:
        findings.append(shared_queue_finding(info))
    return findings


async def _option_findings(client: RedisClient) -> list[Finding]:
    # A denied CONFIG GET would be an entry in ACL LOG, where an operator looks for intruders.
    user = (await client.call("ACL", "WHOAMI")).decode()
    if user != "default":
        return [Finding("options", "ok", f"not checked: the Redis user {user} need not read them")]
    try:
        options = pairs_of(await client.call("CONFIG", "GET", *OPTIONS))
    except ReplyError:
        return [Finding("options", "ok", "not checked: this Redis user may not send CONFIG GET")]
    return [Finding("options", "ok", "can be read"), *(check(options) for check in OPTION_CHECKS)]


async def clock_findings(settings: Settings, client: RedisCommands) -> list[Finding]:
    """Return how far the clock of a server is from that of this host, and how long a round trip takes."""
    clock = SystemClock(settings.clock_offset_s)
    samples = []
    for _ in range(_ROUNDS):
        began, before_us = time.perf_counter(), clock.now_us()
        seconds, micros = await client.nodes[0].call("TIME")
        # The server read its clock between our two readings: their middle is the best estimate.
        skew_us = int(seconds) * 1_000_000 + int(micros) - (before_us + clock.now_us()) // 2
        samples.append((time.perf_counter() - began, skew_us / 1_000_000))
    latency_s, skew_s = min(samples)
    return [clock_finding(skew_s), latency_finding(latency_s)]


def clock_finding(skew_s: float) -> Finding:
    """Return whether the clocks of this host and of the server agree."""
    found = f"server {skew_s:+.3f} s from this host"
    if abs(skew_s) <= MAX_SKEW_S:
        return Finding("clock", "ok", found)
    return Finding("clock", "warn", found, "synchronize the clocks of the hosts (NTP), or check GREGOR_CLOCK_OFFSET")


def latency_finding(round_trip_s: float) -> Finding:
    """Return whether the server is near enough. ``round_trip_s``: the shortest of some."""
    found = f"a round trip takes {1_000 * round_trip_s:.1f} ms"
    if round_trip_s <= MAX_LATENCY_S:
        return Finding("latency", "ok", found)
    fix = "run the services in the network of Redis, or look for a slow command (SLOWLOG GET)"
    return Finding("latency", "warn", found, fix)


async def _pubsub_findings(settings: Settings, client: RedisCommands, answer_s: float) -> list[Finding]:
    pubsub = RedisPubSub(
        settings.redis_url,
        client,
        namespace=settings.namespace,
        max_wait_s=answer_s,
        timeout_s=answer_s,
        probe_timeout_s=answer_s,
    )
    try:
        await pubsub.open()
        if pubsub.status == "ok":
            return [Finding("pubsub", "ok", "a probe arrived")]
        fix = "check for a proxy that does not support SSUBSCRIBE"
        return [Finding("pubsub", "fail", "a probe did not arrive", fix)]
    finally:
        await pubsub.close()


# ---- access


async def access_findings(address: RedisUrl, client: RedisCommands, answer_s: float) -> list[Finding]:
    """Return whether the server accepts clients without a password, and whether the services share one user."""
    try:
        user = (await client.nodes[0].call("ACL", "WHOAMI")).decode()
    except ReplyError:
        user = "?"
    is_local = address.path is not None or all(is_loopback(host) for host, _ in address.hosts)
    return [access_finding(user, is_open=await _is_open(address, answer_s), is_local=is_local)]


async def _is_open(address: RedisUrl, answer_s: float) -> bool:
    """Return whether the first server of a URL accepts a client without a password. Not known behind Sentinels."""
    if address.service is not None:
        return False
    anonymous = replace(address, username=None, password=None, is_cluster=False, hosts=address.hosts[:1])
    try:
        connection = await connect(anonymous, "gregor-doctor", NullListener(), answer_s)
    except RedisUnavailable:
        return False
    connection.abort("is no longer needed")
    return True


def access_finding(user: str, *, is_open: bool, is_local: bool) -> Finding:
    """Return whether an intruder in the network, or in one service, could do everything in Redis."""
    fix = "load deploy/redis/users.acl: one user for each service, and the user default off"
    if is_local:
        return Finding("acl", "ok", f"user {user}; the server is on this host")
    if is_open:
        return Finding("acl", "warn", "the server accepts clients without a password", fix)
    if user == "default":
        found = "the services share the user default: an intruder in one of them can create service keys"
        return Finding("acl", "warn", found, fix)
    return Finding("acl", "ok", f"user {user}; a password is required")


# ---- the deployment


async def _database_findings(
    settings: Settings, address: RedisUrl, client: RedisCommands, answer_s: float
) -> list[Finding]:
    keyspace = parse_info(await client.call("INFO", "keyspace"))
    others = [int(name.removeprefix("db")) for name in keyspace if name != f"db{address.db}"]
    name = Keys(settings.namespace, settings.partitions).partitions
    found = [other for other in others if await _has_key(replace(address, db=other), name, answer_s)]
    return [databases_finding(found, settings.namespace)]


async def _has_key(address: RedisUrl, name: str, answer_s: float) -> bool:
    connection = await connect(address, "gregor-doctor", NullListener(), answer_s)
    [found] = await connection.request([("EXISTS", name)])
    connection.abort("is no longer needed")
    return bool(found == 1)


def deployment_checks(settings: Settings, client: RedisCommands) -> list[RemoteCheck]:
    """Return the checks of what the deployment has stored. A user without a permission skips that check."""
    keys = Keys(settings.namespace, settings.partitions)
    deployment = RedisDeployment(client, keys)

    async def partitions() -> list[Finding]:
        return [partitions_finding(settings.partitions, await deployment.partitions())]

    async def formats() -> list[Finding]:
        return [formats_finding(await deployment.written_format())]

    async def processes() -> list[Finding]:
        found = await deployment.formats()
        return [processes_finding(found), services_finding(found.processes)]

    async def service_keys() -> list[Finding]:
        return [service_keys_finding(await client.call("HLEN", keys.service_keys))]

    checks: dict[CheckName, Callable[[], Awaitable[list[Finding]]]] = {
        "partitions": partitions,
        "formats": formats,
        "processes": processes,
        "service-keys": service_keys,
    }
    fix = "repair the server or the shard that holds it, then check again"
    return [RemoteCheck(check, _if_permitted(check, run), fix) for check, run in checks.items()]


def _if_permitted(
    check: CheckName, run: Callable[[], Awaitable[list[Finding]]]
) -> Callable[[], Awaitable[list[Finding]]]:
    async def findings() -> list[Finding]:
        try:
            return await run()
        except ReplyError as error:
            if not str(error).startswith("NOPERM"):
                raise
            return [Finding(check, "ok", "not checked: this Redis user may not read it")]

    return findings


# ---- the queues


async def queue_findings(settings: Settings, deadline: Deadline) -> list[Finding]:
    """Return the finding about the Redis of the queues, if it is another server than that of the state."""
    if settings.queue == settings.redis_url:
        return []
    try:
        async with _client(settings.queue, settings, deadline) as client:
            return [queue_finding(parse_info(await client.call("INFO")))]
    except (RedisUnavailable, ReplyError, ValueError) as error:
        found = f"it cannot be used at {mask_password(settings.queue)}: {error}"
        return [Finding("queue", "fail", found, "start it, or correct GREGOR_QUEUE_URL: no push or e-mail is sent")]


def queue_finding(info: Mapping[str, str]) -> Finding:
    """Return the worst that the checks of a server find in the Redis of the queues."""
    worst = max((role_finding(info), *(check(info) for check in INFO_CHECKS)), key=severity)
    if worst.verdict == "ok":
        return Finding("queue", "ok", "another server than that of the state")
    return Finding("queue", worst.verdict, f"{worst.check}: {worst.found}", worst.fix)


def shared_queue_finding(info: Mapping[str, str]) -> Finding:
    """Return whether a backlog of deliveries can take the memory of the state."""
    if int(info.get("maxmemory", 0)) == 0:
        return Finding("queue", "ok", "on the server of the state")
    found = "queues and state share one maxmemory: while a provider is down, its backlog fills it"
    return Finding("queue", "warn", found, "name another server in GREGOR_QUEUE_URL, or lower GREGOR_STREAM_ENTRIES")


# ---- Sentinels


async def _sentinel_findings(address: RedisUrl, answer_s: float) -> list[Finding]:
    return [sentinels_finding(await ask_each(address, answer_s))]


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


# ---- replies


def pairs_of(reply: Sequence[Any]) -> dict[str, str]:
    """Return the options of a reply to CONFIG GET."""
    texts = [bytes(each).decode() for each in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
